"""farthing's rungs of the ladder: which there are, their files (made once, in the cache folder), their quality."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import farthing
from benchmarks.ladder_rung import Quality, Rung
from benchmarks.peers.build import once
from farthing.kernels.formats import format_of
from farthing.models import Model, load_model
from farthing.models.opening import open_checkpoint
from farthing.models.output import extra_tensors
from farthing.quant.methods import METHODS, METHODS_WITH_STATISTICS
from farthing.report.quality import perplexities, windows
from farthing.report.score import Scorer
from farthing.tuning.job import QuantizeJob
from farthing.tuning.losses import Losses
from farthing.tuning.run import quantize_model

__all__ = ["Recipe", "bits_of_ours", "file_of", "our_qualities", "recipes_of", "reference_quality"]

FORMATS = ("q8_0", "q6_k", "q6", "q5_k", "q5", "q4_1", "q4_k", "q4", "iq4_nl", "q4_0", "c4")
FORMATS += ("q3_k", "q3", "c3", "q2_k", "q2", "tq2_0", "t2")
FREE, BEST = "search", "gptq"  # the best method without a text, and with one
ALL_METHODS = ("q4", "q3")  # formats that show every method, without calibration in a large model's q4
BITS = (4.5, 4.25, 4.0, 3.75, 3.5, 3.25, 3.0, 2.75, 2.5, 2.25, 2.0)
FEW_FORMATS, FEW_BITS = ("q4", "q3"), (4.5, 4.0, 3.5, 3.0)
LARGE = 50_000_000  # weights: above, calibrated rungs take minutes each, and fewer are made
TOGETHER = 6  # models in memory at once, beside the reference, whose logits are computed once for them all


@dataclass(frozen=True)
class Recipe:
    """How a rung is made: one format, or a mixture of at most `bits` per weight."""

    format: str | None
    bits: float | None
    method: str
    is_rotated: bool = False

    @property
    def name(self) -> str:
        return self.format or f"mix {self.bits:g}"

    @property
    def full_method(self) -> str:
        return f"{self.method}, rotated" if self.is_rotated else self.method


def recipes_of(source: Path) -> list[Recipe]:
    """Those whose blocks fit all of the source's matrices; a large model is not taken through every method."""
    matrices = [tensor for tensor in open_checkpoint(source).tensors.values() if tensor.rows > 1]
    is_large = sum(t.rows * t.cols for t in matrices) > LARGE
    fitting = [f for f in FORMATS if all(t.cols % format_of(f).block_size == 0 for t in matrices)]
    mixed = [Recipe(None, bits, BEST) for bits in (FEW_BITS if is_large else BITS)]
    return [*_of_formats(fitting, is_large), *mixed]


def _of_formats(formats: Sequence[str], is_large: bool) -> Iterator[Recipe]:
    for format in formats:
        yield Recipe(format, None, FREE)
        if format == "q8_0":  # always rounded: there is nothing to gain
            continue
        if not is_large or format in FEW_FORMATS:
            yield Recipe(format, None, BEST)
        if format in ALL_METHODS:
            others = [method for method in METHODS if method not in (FREE, BEST)]
            if is_large and format != ALL_METHODS[-1]:
                others = [method for method in others if method not in METHODS_WITH_STATISTICS]
            yield from (Recipe(format, None, method) for method in others)
            if not is_large:
                yield Recipe(format, None, BEST, is_rotated=True)


def file_of(
    recipe: Recipe, source: Path, calibration: Path, cache: Path, num_tokens: int, losses: dict[Path, Losses]
) -> tuple[Path, float]:
    """The rung's file, and the seconds that making it took (0 where it was there). Raises InvalidRequest.

    losses: of each source, those that its first mixture found and the next ones use, for as long as this runs.
    """
    stem = f"{source.stem} {recipe.name} {recipe.full_method}".replace(" ", "-").replace(",", "")
    output = cache / "models" / f"{stem}.safetensors"
    is_calibrated = recipe.method in METHODS_WITH_STATISTICS
    job = QuantizeJob(recipe.format, recipe.bits, recipe.method, recipe.is_rotated, num_tokens=num_tokens)
    key = " ".join([_hash(source), _hash(calibration) if is_calibrated else "", repr(job), _code()])
    began = time.perf_counter()
    made = False

    def make() -> None:
        nonlocal made
        made = True
        output.parent.mkdir(parents=True, exist_ok=True)
        text, known = str(calibration) if is_calibrated else None, losses.get(source)
        result = quantize_model(source, output, job, text, is_overwrite=True, losses=known)
        if result.losses is not None:
            losses[source] = result.losses

    once(cache / "stamps" / output.name, key, make)
    return output, time.perf_counter() - began if made else 0.0


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _code() -> str:
    """What the bytes of a rung depend on beside its recipe: the code that chooses them."""
    root = Path(farthing.__file__).parent
    files = [path for part in ("quant", "tuning") for path in sorted((root / part).rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def our_qualities(
    rungs: Sequence[tuple[Rung, Path]], source: Path, text: bytes, num_windows: int, threads: int
) -> list[tuple[Rung, Quality]]:
    """Each rung as it runs (integer products, keys and values in f16) against the source in float32 throughout."""
    reference = reference_scorer(source, threads)
    pieces = windows(load_model(str(source)).tokenizer.encode(text, add_bos=False), 512, 512 * num_windows)
    found: list[tuple[Rung, Quality]] = []
    for first in range(0, len(rungs), TOGETHER):
        group = rungs[first : first + TOGETHER]
        scorers = [Scorer(load_model(str(path)), 512, "int8", threads, "f16", "f16") for _, path in group]
        for (rung, _), measured in zip(group, perplexities(scorers, pieces, reference), strict=True):
            assert measured.divergence is not None
            kl, top1 = measured.divergence.kl_divergence, measured.divergence.top1_agreement
            found.append((rung, Quality(measured.perplexity, kl, top1)))
    return found


def reference_scorer(source: Path, threads: int) -> Scorer:
    return Scorer(load_model(str(source), weights="f32"), 512, "f32", threads, "f32", "f32")


def reference_quality(source: Path, text: bytes, num_windows: int, threads: int) -> float:
    """Perplexity of the source in float32."""
    model: Model = load_model(str(source))
    pieces = windows(model.tokenizer.encode(text, add_bos=False), 512, 512 * num_windows)
    [found] = perplexities([reference_scorer(source, threads)], pieces)
    return found.perplexity


def bits_of_ours(path: Path) -> float:
    """Bits per weight of all of the file's tensors."""
    checkpoint = open_checkpoint(path)
    tensors = [*checkpoint.tensors.values(), *extra_tensors(checkpoint).values()]
    return 8 * sum(t.data.nbytes for t in tensors) / sum(t.rows * t.cols for t in tensors)
