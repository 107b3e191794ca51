"""llama.cpp's rungs of the ladder: its quantization types, with and without its importance matrix, by its own programs.

llama-perplexity compares each file with the logits of the same model in float32 (--kl-divergence-base, 16 bits each),
over the same windows as ours: 512 tokens, no BOS, the targets of the second half.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import gguf

from benchmarks.ladder_rung import Quality, Speed
from benchmarks.peers.build import PROGRAMS as BUILT
from benchmarks.peers.build import QUALITY, Missing, once, run
from benchmarks.peers.llamacpp import parse_bench

__all__ = ["PROGRAMS", "TYPES", "Llama", "Theirs", "bits_of", "parse_divergence"]

PROGRAMS = (*BUILT, *QUALITY)
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_1", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS")
TYPES += ("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S")
TYPES += ("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0")
_NEEDS_MATRIX = ("Q2_K_S", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
_NO_MATRIX = ("Q8_0", "TQ2_0", "TQ1_0")  # types that it makes no use of
PLAIN, WEIGHTED = "llama.cpp", "llama.cpp, imatrix"
CONTEXT = 512
ATTEMPTS = 3
MATRIX_TOKENS = 32_768  # of the calibration text; more than ours take


@dataclass(frozen=True)
class Theirs:
    format: str
    method: str
    path: Path


@dataclass(frozen=True)
class Llama:
    programs: Path
    cache: Path
    threads: int

    def float32(self, source: Path) -> Path:
        """The source with all its tensors in float32: what is quantized, and what is compared with."""
        output = self._output(source, "F32")
        self._make(output, [*self._quantize(), source, output, "F32"], source)
        return output

    def files(self, source: Path, calibration: Path, num_tokens: int = MATRIX_TOKENS) -> Iterator[Theirs]:
        """Every type that can be made of the source, made once; the matrix is of the text that ours are made with."""
        plain = self.float32(source)
        matrix = self._output(source, f"{calibration.stem}-{num_tokens}").with_suffix(".imatrix")
        command = [self.programs / "llama-imatrix", "-m", plain, "-f", calibration, "-o", matrix, "-c", str(CONTEXT)]
        command += ["--chunks", str(num_tokens // CONTEXT), "-t", str(self.threads), "--output-format", "gguf"]
        self._make(matrix, command, source, calibration)
        for type in TYPES:
            weighted = self._output(source, f"{type}-imatrix")
            for method, output, options, of in (
                (PLAIN, self._output(source, type), [], [source]),
                (WEIGHTED, weighted, ["--imatrix", matrix], [source, calibration]),
            ):
                if type in (_NEEDS_MATRIX if method == PLAIN else _NO_MATRIX):
                    continue
                try:
                    self._make(output, [*self._quantize(), *options, plain, output, type], *of)
                except Missing as error:
                    print(f"left out: {type} {method}: {error}", file=sys.stderr, flush=True)
                    continue
                yield Theirs(type.lower(), method, output)

    def base(self, source: Path, text: Path, num_windows: int) -> tuple[Path, float]:
        """The file of the float32 model's logits (0.5 MB a window and thousand words), and its perplexity."""
        output = self._output(source, f"F32-{num_windows}").with_suffix(".logits")
        command = [*self._perplexity(self.float32(source), text, num_windows, "f32"), "--kl-divergence-base", output]
        said = output.with_suffix(".txt")
        self._make(output, command, source, text, said=said)
        found = re.search(r"Final estimate: PPL = ([0-9.]+)", said.read_text())
        if found is None:
            raise Missing(f"llama-perplexity named no perplexity ({said.name})")
        return output, float(found.group(1))

    def quality(self, path: Path, base: Path, text: Path, num_windows: int) -> Quality:
        """Measured once for each file: its results do not hang on the machine's mood. Raises Missing."""
        command = [*self._perplexity(path, text, num_windows, "f16"), "--kl-divergence", "--kl-divergence-base", base]
        said = self.cache / "logs" / f"{path.stem}-{num_windows}.txt"
        for _ in range(ATTEMPTS - 1):
            self._make(said, command, path, base, said=said)
            with suppress(Missing):
                return parse_divergence(said.read_text())
            (self.cache / "stamps" / said.name).unlink()  # on a busy machine its last lines are lost now and then
        self._make(said, command, path, base, said=said)
        return parse_divergence(said.read_text())

    def speed(self, path: Path) -> Speed:
        options = ["-t", str(self.threads), "-p", "512", "-n", "32", "-r", "1", "-fa", "on", "-o", "json"]
        command = [self.programs / "llama-bench", "-m", path, *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        speeds = parse_bench(done.stdout)
        return Speed(speeds["prefill", 512], speeds["decode", 0])

    def _quantize(self) -> list[str | Path]:
        return [self.programs / "llama-quantize", "--allow-requantize"]

    def _perplexity(self, path: Path, text: Path, num_windows: int, kv: str) -> list[str | Path]:
        command: list[str | Path] = [self.programs / "llama-perplexity", "-m", path, "-f", text, "-c", str(CONTEXT)]
        command += ["-b", str(CONTEXT), "--chunks", str(num_windows), "-t", str(self.threads), "-ctk", kv, "-ctv", kv]
        return [*command, "-fa", "off" if kv == "f32" else "on"]

    def _output(self, source: Path, what: str) -> Path:
        return self.cache / "models" / f"{source.stem}-{what}.gguf"

    def _make(self, output: Path, command: list[str | Path], *of: Path, said: Path | None = None) -> None:
        key = " ".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in of)
        log = said or self.cache / "logs" / f"{output.name}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        once(self.cache / "stamps" / output.name, key, lambda: run(command, log))


def bits_of(path: Path) -> float:
    """Bits per weight of all of a GGUF's tensors."""
    tensors = gguf.GGUFReader(path).tensors
    return 8 * sum(int(t.n_bytes) for t in tensors) / sum(int(t.n_elements) for t in tensors)


def parse_divergence(text: str) -> Quality:
    """What llama-perplexity --kl-divergence says at its end. Raises Missing."""
    found = {}
    for name, pattern in (
        ("perplexity", r"Mean PPL\(Q\)\s*:\s*([0-9.]+)"),
        ("kl", r"Mean\s+KLD:\s*(-?[0-9.]+)"),
        ("top1", r"Same top p:\s*([0-9.]+)"),
    ):
        match = re.search(pattern, text)
        if match is None:
            raise Missing(f"llama-perplexity said nothing of {name}")
        found[name] = float(match.group(1))
    return Quality(found["perplexity"], found["kl"], found["top1"] / 100)
