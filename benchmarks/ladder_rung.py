"""A rung of the ladder: what a model weighs in a format, how good it is, how fast, and what a million tokens cost."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from farthing.economics.cost import HostCost

__all__ = ["GOAL_BITS", "Quality", "Rung", "Speed", "Verdict", "judge", "priced", "rung_json", "usd_per_mtok"]

GOAL_BITS = 4.5
# Tokens of the waterfall's own workload: what a million of them cost is what blended dollars count.
INPUT_TOKENS, OUTPUT_TOKENS = 16_343, 1_734


@dataclass(frozen=True)
class Quality:
    perplexity: float
    kl_divergence: float  # nats per token, from the source in float32
    top1_agreement: float  # 0 to 1


@dataclass(frozen=True)
class Speed:
    prefill_tok_s: float  # 512 tokens
    decode_tok_s: float  # one sequence


@dataclass(frozen=True)
class Rung:
    """method of llama.cpp's types: "llama.cpp", or "llama.cpp, imatrix". bits_per_weight is of all tensors, norms
    counted; num_bytes is the file's."""

    model: str
    format: str
    method: str
    bits_per_weight: float
    num_bytes: int
    quality: Quality
    speed: Speed | None = None

    @property
    def is_ours(self) -> bool:
        return not self.method.startswith("llama.cpp")

    @property
    def name(self) -> str:
        return f"{self.format} {self.method}"


@dataclass(frozen=True)
class Verdict:
    """One type of llama.cpp, and the best of ours no larger than it (None: there is none)."""

    theirs: Rung
    ours: Rung | None

    @property
    def is_goal(self) -> bool:
        return self.theirs.bits_per_weight <= GOAL_BITS

    @property
    def is_won(self) -> bool:
        return self.ours is not None and self.ours.quality.kl_divergence < self.theirs.quality.kl_divergence

    @property
    def is_no_slower(self) -> bool | None:
        """None where either was not timed."""
        ours = self.ours.speed if self.ours else None
        theirs = self.theirs.speed
        if ours is None or theirs is None:
            return None
        return ours.prefill_tok_s >= theirs.prefill_tok_s and ours.decode_tok_s >= theirs.decode_tok_s


def judge(rungs: Iterable[Rung]) -> list[Verdict]:
    """For each type of llama.cpp that is not beaten by a smaller one of its own: is there one of ours of at most its
    size with a lower KL divergence?"""
    rungs = list(rungs)
    verdicts = []
    for theirs in sorted((rung for rung in rungs if not rung.is_ours), key=lambda rung: -rung.bits_per_weight):
        of_model = [rung for rung in rungs if rung.model == theirs.model]
        fitting = [rung for rung in of_model if rung.bits_per_weight <= theirs.bits_per_weight + 1e-9]
        kl = theirs.quality.kl_divergence
        if any(not rung.is_ours and rung.quality.kl_divergence < kl for rung in fitting):
            continue
        ours = min((r for r in fitting if r.is_ours), key=lambda r: r.quality.kl_divergence, default=None)
        verdicts.append(Verdict(theirs, ours))
    return verdicts


def usd_per_mtok(host: HostCost, speed: Speed) -> tuple[Decimal, Decimal, Decimal]:
    """Input, output, and blended over the waterfall's workload."""
    input_s = INPUT_TOKENS / speed.prefill_tok_s
    output_s = OUTPUT_TOKENS / speed.decode_tok_s
    return (
        host.usd_per_mtok(INPUT_TOKENS, input_s),
        host.usd_per_mtok(OUTPUT_TOKENS, output_s),
        host.usd_per_mtok(INPUT_TOKENS + OUTPUT_TOKENS, input_s + output_s),
    )


def priced(host: HostCost, rung: Rung) -> Decimal | None:
    """Blended dollars of a million tokens; None where it was not timed."""
    return None if rung.speed is None else usd_per_mtok(host, rung.speed)[2]


def rung_json(host: HostCost, rung: Rung) -> dict[str, Any]:
    speed = asdict(rung.speed) if rung.speed else {"prefill_tok_s": None, "decode_tok_s": None}
    usd = [float(amount) for amount in usd_per_mtok(host, rung.speed)] if rung.speed else [None] * 3
    return {
        "model": rung.model,
        "format": rung.format,
        "method": rung.method,
        "bits_per_weight": rung.bits_per_weight,
        "bytes": rung.num_bytes,
        **asdict(rung.quality),
        **speed,
        **dict(zip(("usd_per_mtok_input", "usd_per_mtok_output", "usd_per_mtok"), usd, strict=True)),
    }
