"""What is asked of a quantization: formats or bits, the method, the text."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farthing.errors import InvalidRequest
from farthing.kernels.formats import format_of, formats
from farthing.models.tokenizer import Tokenizer
from farthing.quant import quantizable
from farthing.quant.methods import METHODS, METHODS_WITH_STATISTICS

__all__ = ["QuantizeJob", "Windows", "check_gguf_format", "read_calibration"]

DEFAULT_BITS = 4.5
LEAST_BITS, MOST_BITS = 1.75, 32.0

WINDOW = 512
LEAST_WINDOWS = 2  # one to calibrate on, one to measure on
MOST_MEASURED = 16  # windows that are kept back to measure the result on
MEASURED_SHARE = 8  # one window of so many, at most


@dataclass(frozen=True)
class QuantizeJob:
    """One format for all matrices, or a budget of bits per weight over the whole file (norms counted).

    Neither: DEFAULT_BITS. method None: the best there is with or without a text. num_tokens bounds the calibration.
    Raises InvalidRequest.
    """

    format: str | None = None
    bits: float | None = None
    method: str | None = None
    is_rotated: bool = False
    num_tokens: int = 32_768
    seed: int = 0

    def __post_init__(self) -> None:
        if self.format is not None and self.bits is not None:
            raise InvalidRequest("--format and --bits both say how many bits; give one of them")
        if self.format is not None and self.format not in quantizable():
            raise InvalidRequest(f"format is {self.format!r}; allowed: {', '.join(quantizable())}")
        if self.bits is not None and not LEAST_BITS <= self.bits <= MOST_BITS:
            raise InvalidRequest(f"--bits is {self.bits:g}; allowed: {LEAST_BITS:g} to {MOST_BITS:g} bits per weight")
        if self.method is not None and self.method not in METHODS:
            raise InvalidRequest(f"method is {self.method!r}; allowed: {', '.join(METHODS)}")
        if self.num_tokens < WINDOW:
            raise InvalidRequest(f"--tokens is {self.num_tokens}; allowed: {WINDOW} (one window) or more")
        if self.seed < 0:
            raise InvalidRequest(f"--seed is {self.seed}; allowed: 0 or more")

    @property
    def budget(self) -> float:
        """Bits per weight, where no format is given."""
        return DEFAULT_BITS if self.bits is None else self.bits

    def method_with(self, has_text: bool) -> str:
        """The method to use. Raises InvalidRequest for one that needs a text that is not there."""
        if self.method in METHODS_WITH_STATISTICS and not has_text:
            raise InvalidRequest(f"method {self.method} needs a text: give --calibrate FILE, or --method search")
        return self.method or ("gptq" if has_text else "search")


def check_gguf_format(format: str) -> None:
    """Raises InvalidRequest where ggml has no such type."""
    if format_of(format).ggml_type is None:
        allowed = ", ".join(name for name in quantizable() if formats()[name].ggml_type is not None)
        raise InvalidRequest(f"a GGUF file has no type for {format}; allowed there: {allowed}; or write a .safetensors")


@dataclass(frozen=True)
class Windows:
    """Windows of one length that know nothing of each other: to calibrate on, and others to measure on."""

    calibration: tuple[tuple[int, ...], ...]
    measured: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.calibration))


def read_calibration(given: str, tokenizer: Tokenizer, longest: int, job: QuantizeJob) -> Windows:
    """Windows from all over a text, which `given` is or names a file of; the seed chooses them.

    Raises InvalidRequest where it cannot be read or is too short.
    """
    ids = tokenizer.encode(_text(given), add_bos=False)
    length = min(WINDOW, longest)
    num_windows = len(ids) // length
    if num_windows < LEAST_WINDOWS:
        least = LEAST_WINDOWS * length
        raise InvalidRequest(f"--calibrate: the text has {len(ids)} tokens; at least {least} are needed, better 16,384")
    num_measured = max(1, min(MOST_MEASURED, num_windows // MEASURED_SHARE))
    num_calibrated = min(job.num_tokens // length, num_windows - num_measured)
    order = np.random.default_rng(job.seed).permutation(num_windows)
    kept, measured = order[:num_calibrated], order[num_calibrated : num_calibrated + num_measured]

    def cut(places: list[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(ids[i * length : (i + 1) * length]) for i in sorted(places))

    return Windows(cut(kept.tolist()), cut(measured.tolist()))


def _text(given: str) -> bytes:
    try:
        path = Path(os.path.expanduser(given))
        if path.is_file():
            return path.read_bytes()
    except (OSError, ValueError):  # a long text is no path
        pass
    if not given.strip() or not any(letter.isspace() for letter in given.strip()):
        raise InvalidRequest(f"--calibrate {given[:80]!r}: no such file, and no text; give a file of text")
    return given.encode("utf-8", "replace")
