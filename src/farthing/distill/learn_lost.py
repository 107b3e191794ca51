"""Which labels lose more than chance takes, when one model comes after another: few rows each, so all are looked at
together."""

from collections.abc import Mapping, Sequence
from math import exp, lgamma, log

__all__ = ["LEVEL", "LabelCounts", "binomial_tail", "by_label", "lost_labels"]

LEVEL = 0.01  # the chance that what is harmless is taken for harm, at most
MIN_FALL = 0.2  # of a label's rows, less those gained
LabelCounts = Mapping[str, tuple[int, int, int]]  # rows, that only the first gets right, that only the second does


def by_label(references: Sequence[str], first: Sequence[str], second: Sequence[str]) -> LabelCounts:
    """Of what two models say of the same rows."""
    found: dict[str, tuple[int, int, int]] = {}
    for reference, one, other in zip(references, first, second, strict=True):
        num, lost, gained = found.get(reference, (0, 0, 0))
        is_one, is_other = one == reference, other == reference
        found[reference] = (num + 1, lost + (is_one and not is_other), gained + (is_other and not is_one))
    return found


def lost_labels(labels: LabelCounts) -> list[str]:
    """Labels whose loss chance does not explain, in words. The chance of a loss is what the other labels lose, with
    half a row more, so that labels without a loss say something."""
    num_all, lost_all = (sum(counts[at] for counts in labels.values()) for at in (0, 1))
    found = []
    for name, (num, lost, gained) in labels.items():
        share = min(0.5, (lost_all - lost + 0.5) / (num_all - num + 1))
        is_much = lost > gained and lost - gained >= MIN_FALL * num
        if is_much and binomial_tail(lost, num, share) * len(labels) < LEVEL:
            found.append(f"{lost} of {num} older rows of label {name!r}")
    return found


def binomial_tail(num: int, total: int, share: float) -> float:
    """The chance of `num` or more of `total`, each with the chance `share`."""
    if num <= 0:
        return 1.0
    return min(1.0, sum(exp(_log_binomial(k, total, share)) for k in range(num, total + 1)))


def _log_binomial(k: int, n: int, p: float) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1 - p)
