"""What is added up over rows of the ledger: whole pico-dollars and tokens, for everything and for each group."""

from dataclasses import dataclass

from farthing.ledger.row import Row

__all__ = ["OTHER", "Groups", "Sums", "is_failed"]

OTHER = "(other)"
MAX_GROUPS = 10_000  # of one dimension: names are the callers' own, memory is not


def is_failed(row: Row) -> bool:
    """Whether the attempt gave no answer that was used: it failed, or a cascade asked another model after it. A client
    who went away (aborted) had what he read."""
    return row.status in ("error", "killed", "discarded")


@dataclass(slots=True)
class Sums:
    """Sums over rows. A row whose cost is not known is counted in num_unpriced and adds no money, never 0.

    baseline_pico and compared_pico are over the rows that can be compared: cost and baseline known. A failed attempt
    has no baseline (without farthing the answer would have been paid once), so its cost is a loss; what the ledger says
    would have been its baseline is kept apart in failed_baseline_pico.
    """

    num_rows: int = 0
    num_requests: int = 0  # first attempts
    num_unpriced: int = 0
    num_without_baseline: int = 0  # priced, answered, and nothing to compare it with
    num_estimated: int = 0
    num_unavailable: int = 0  # rows whose usage nobody knows
    num_failed: int = 0
    num_discarded: int = 0  # answered, and not good enough for a cascade; their cost is a loss as that of failed ones
    num_killed: int = 0  # of those that failed
    num_aborted: int = 0
    num_hits: int = 0
    cost_pico: int = 0
    estimated_pico: int = 0  # the part of cost_pico that stands on estimated counts
    baseline_pico: int = 0
    compared_pico: int = 0
    failed_baseline_pico: int = 0
    lost_pico: int = 0  # the part of cost_pico that failed and discarded attempts took
    input_pico: int = 0
    cache_read_pico: int = 0
    cache_write_pico: int = 0
    output_pico: int = 0
    request_pico: int = 0
    input_tokens: int = 0  # the two below included
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0  # part of output_tokens

    @property
    def saving_pico(self) -> int:
        """Negative where it was dearer than the baseline."""
        return self.baseline_pico - self.compared_pico

    def add(self, row: Row) -> None:
        failed = is_failed(row)
        self.num_rows += 1
        self.num_requests += row.attempt == 0
        self.num_estimated += row.usage_source == "estimated"
        self.num_unavailable += row.usage_source == "unavailable"
        self.num_failed += failed and row.status != "discarded"
        self.num_discarded += row.status == "discarded"
        self.num_killed += row.status == "killed"
        self.num_aborted += row.status == "aborted"
        self.num_hits += row.cache == "hit"
        self.input_tokens += row.input_tokens or 0
        self.cache_read_tokens += row.cache_read_tokens or 0
        self.cache_write_tokens += row.cache_write_tokens or 0
        self.output_tokens += row.output_tokens or 0
        self.reasoning_tokens += row.reasoning_tokens or 0
        if failed:
            self.failed_baseline_pico += row.baseline_pico or 0
        if row.cost_pico is None:
            self.num_unpriced += 1
            return
        self._add_money(row, row.cost_pico, failed)

    def _add_money(self, row: Row, cost_pico: int, failed: bool) -> None:
        self.cost_pico += cost_pico
        self.estimated_pico += cost_pico if row.usage_source == "estimated" else 0
        self.input_pico += row.input_pico or 0
        self.cache_read_pico += row.cache_read_pico or 0
        self.cache_write_pico += row.cache_write_pico or 0
        self.output_pico += row.output_pico or 0
        self.request_pico += row.request_pico or 0
        if failed:
            self.compared_pico += cost_pico
            self.lost_pico += cost_pico
        elif row.baseline_pico is None:
            self.num_without_baseline += 1
        else:
            self.baseline_pico += row.baseline_pico
            self.compared_pico += cost_pico


class Groups:
    """Sums by name. Beyond MAX_GROUPS names the rest is added up as OTHER, so that sums stay exact."""

    def __init__(self) -> None:
        self.by_name: dict[str, Sums] = {}

    def add(self, name: str, row: Row) -> None:
        sums = self.by_name.get(name)
        if sums is None:
            name = name if len(self.by_name) < MAX_GROUPS else OTHER
            sums = self.by_name.setdefault(name, Sums())
        sums.add(row)

    def by_cost(self) -> list[tuple[str, Sums]]:
        """Dearest first; OTHER comes last."""
        found = self.by_name.items()
        return sorted(found, key=lambda pair: (pair[0] == OTHER, -pair[1].cost_pico, -pair[1].num_rows, pair[0]))
