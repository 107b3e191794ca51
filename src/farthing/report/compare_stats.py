"""The arithmetic of comparing models on the same prompts: intervals, an exact paired test, how many rows it takes."""

from math import ceil, exp, inf, lgamma, log, sqrt
from statistics import NormalDist

__all__ = ["POWER", "mcnemar", "paired_interval", "rows_needed", "wilson"]

POWER = 0.8  # how surely a difference of the size seen would be found with rows_needed
_Z95 = NormalDist().inv_cdf(0.975)


def wilson(num_right: int, num_rows: int) -> tuple[float, float]:
    """The 95 % interval of a share; it stays within 0 to 1 and means something also for 0 of n."""
    if num_rows == 0:
        return 0.0, 1.0
    share, z2 = num_right / num_rows, _Z95**2
    middle = (share + z2 / (2 * num_rows)) / (1 + z2 / num_rows)
    half = _Z95 * sqrt(share * (1 - share) / num_rows + z2 / (4 * num_rows**2)) / (1 + z2 / num_rows)
    return (0.0 if num_right == 0 else middle - half), (1.0 if num_right == num_rows else middle + half)


def mcnemar(only_best: int, only_other: int) -> float:
    """The chance that of the rows where just one of two models is right, at least `only_best` fall to the better one,
    if both were equally good: the exact one-sided p-value that the other is worse."""
    num = only_best + only_other
    if only_best == 0:
        return 1.0
    logs = [lgamma(num + 1) - lgamma(k + 1) - lgamma(num - k + 1) - num * log(2) for k in range(only_best, num + 1)]
    return min(1.0, sum(map(exp, sorted(logs))))


def paired_interval(only_best: int, only_other: int, num_rows: int) -> tuple[float, float]:
    """The 95 % interval of the better one's lead (Agresti and Min: half a row added to each of the four cells)."""
    n = num_rows + 2
    lead = (only_best - only_other) / n
    apart = (only_best + only_other + 1) / n
    half = _Z95 * sqrt(max(apart - lead**2, 0.0) / n)
    return max(lead - half, -1.0), min(lead + half, 1.0)


def rows_needed(only_best: int, only_other: int, num_rows: int, alpha: float) -> int | None:
    """How many rows would find a lead as large as this one, with rows that differ as often, with the chance POWER
    (Miettinen's normal approximation). None where there is no lead."""
    lead, apart = (only_best - only_other) / num_rows, (only_best + only_other) / num_rows
    if lead <= 0:
        return None
    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha), normal.inv_cdf(POWER)
    found = ((z_alpha * sqrt(apart) + z_power * sqrt(max(apart - lead**2, 0.0))) / lead) ** 2
    return None if found == inf else ceil(found)
