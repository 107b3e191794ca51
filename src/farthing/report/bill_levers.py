"""Where the saving came from: every row's baseline less its cost, given to levers in a fixed order.

    baseline    all input tokens at the full price of the baseline's model
    response_cache    a repeat answered from the store: its whole baseline
    local_compute     baseline less what the tokens would have cost here with every input token computed
    cheaper_model     hosted: baseline less the served model's full price
    prompt_cache      hosted: that full price less what was paid (negative: written to the cache and hardly read)
    prefix_cache      here: input tokens found again, at what a computed one cost on average (same model, same period)
    failed_attempts   negative: the cost of attempts that gave no answer, or one that a cascade did not keep
    = what was paid

A row is in one of three branches (hit, local, hosted) and a branch's levers add up to its saving, so all levers add up
to total baseline less total cost exactly, whatever was rounded between them. Another order would divide it otherwise.
"""

from dataclasses import dataclass, field

from farthing.ledger.row import Row
from farthing.report.bill_sums import is_failed

__all__ = ["LEVERS", "Levers"]

LEVERS = ("response_cache", "local_compute", "cheaper_model", "prompt_cache", "prefix_cache", "failed_attempts")
MAX_MODELS = 1000  # of local models, for the prefix cache's average


@dataclass(slots=True)
class _Local:
    """One local model's input: what was computed, what it cost, what was found again."""

    input_pico: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0

    @property
    def found_pico(self) -> int:
        """What computing the found tokens too would have cost. Nothing to go by where nothing was computed."""
        return self.cached_tokens * self.input_pico // self.computed_tokens if self.computed_tokens else 0


@dataclass(slots=True)
class Levers:
    """Add every row, then read `pico`."""

    _response_cache: int = 0
    _local: int = 0
    _cheaper_model: int = 0
    _prompt_cache: int = 0
    _failed: int = 0
    _models: dict[str, _Local] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        if row.cost_pico is None:
            return
        if is_failed(row):
            self._failed -= row.cost_pico
            return
        if row.baseline_pico is None:
            return
        saving = row.baseline_pico - row.cost_pico
        if row.cache == "hit":
            self._response_cache += saving
        elif row.price_status == "local":
            self._local += saving
            self._count(row)
        else:
            plain = _full_price(row, row.cost_pico, row.baseline_pico)
            self._cheaper_model += row.baseline_pico - plain
            self._prompt_cache += plain - row.cost_pico

    def _count(self, row: Row) -> None:
        name = row.served_model if row.served_model in self._models or len(self._models) < MAX_MODELS else ""
        model = self._models.setdefault(name, _Local())
        cached = row.cache_read_tokens or 0
        model.input_pico += row.input_pico or 0
        model.computed_tokens += max(0, (row.input_tokens or 0) - cached)
        model.cached_tokens += cached

    @property
    def pico(self) -> dict[str, int]:
        """Pico-dollars by lever, in the stated order; negative where it cost more."""
        found = sum(model.found_pico for model in self._models.values())
        amounts = (self._response_cache, self._local - found, self._cheaper_model, self._prompt_cache, found)
        return dict(zip(LEVERS, (*amounts, self._failed), strict=True))


def _full_price(row: Row, cost_pico: int, baseline_pico: int) -> int:
    """A hosted row's cost with every input token at the served model's full price.

    By the row's own price of a plain token, so of the right tier; where it has no plain token the baseline says it, if
    that is the same model's; else nothing is known and the cache saved nothing.
    """
    cached = (row.cache_read_tokens or 0) + (row.cache_write_tokens or 0)
    if cached == 0:
        return cost_pico
    if row.baseline_model is not None and row.baseline_model.lower() == row.served_model.lower():
        return baseline_pico
    num_plain = (row.input_tokens or 0) - cached
    if num_plain <= 0:
        return cost_pico
    extra = (row.input_pico or 0) * cached // num_plain
    return cost_pico - (row.cache_read_pico or 0) - (row.cache_write_pico or 0) + extra
