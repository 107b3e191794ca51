"""What an answer cost, as its client is told: exact JSON numbers in dollars, null where a price is not known."""

from collections.abc import Sequence

import orjson

from farthing.upstreams import Receipt

__all__ = ["costs_pico", "costs_usd", "usd_text"]


def costs_pico(receipts: Sequence[Receipt]) -> tuple[int | None, int | None]:
    """Cost of all attempts together, and the baseline of the last one: without farthing it would have been asked once.

    None where the price of an attempt is not known, or where there is none.
    """
    if not receipts:
        return None, None
    cost = 0
    for receipt in receipts:
        if receipt.cost_pico is None:
            return None, receipts[-1].baseline_pico
        cost += receipt.cost_pico
    return cost, receipts[-1].baseline_pico


def usd_text(amount_pico: int) -> str:
    """Pico-dollars as dollars in plain decimals, without an exponent and without zeros at the end: "0.000001234"."""
    sign = "-" if amount_pico < 0 else ""
    whole, part = divmod(abs(amount_pico), 10**12)
    return f"{sign}{whole}.{part:012}".rstrip("0").removesuffix(".")


def costs_usd(receipts: Sequence[Receipt]) -> dict[str, orjson.Fragment | None]:
    """`cost_usd` and `baseline_cost_usd` for a usage object. A float would round, so the digits are written as they
    are: orjson puts a Fragment into the JSON unchanged (no other encoder knows it)."""
    cost, baseline = costs_pico(receipts)
    return {"cost_usd": _number(cost), "baseline_cost_usd": _number(baseline)}


def _number(amount_pico: int | None) -> orjson.Fragment | None:
    return None if amount_pico is None else orjson.Fragment(usd_text(amount_pico))
