"""Between a call and its reservation: what to ask for, how a refusal reads, what an ended attempt is charged."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from farthing.economics.charge import Pricer
from farthing.economics.usage import Usage
from farthing.ledger.attempt import Attempt, hosted_charge
from farthing.ledger.budget import Budget
from farthing.ledger.ids import now_us
from farthing.ledger.records import Settlement, row_document
from farthing.ledger.reservation import Ask, Hold, Refusal
from farthing.ledger.row import Row
from farthing.upstreams.call import Call, Tally
from farthing.upstreams.errors import UpstreamError

__all__ = ["make_ask", "refusal_error", "settlement_of", "tranche_pico"]

TRANCHE_S = 1.0  # of this machine, that a local call begins with; more where its prompt will take longer
SOON_S = 1.0  # when to come back where others hold what is missing


def make_ask(
    attempt: Attempt,
    instance_id: str,
    budgets: Sequence[Budget],
    call: Call,
    tally: Tally,
    usage: Usage,
    pricer: Pricer,
    tranche: int,
    num_choices: int = 1,
) -> Ask:
    at = datetime.fromtimestamp(attempt.started_us / 1e6, UTC)
    killed = replace(attempt, status="killed").row(call, tally, pricer, attempt.began_ns, None)
    return Ask(
        reservation_id=attempt.id,
        instance_id=instance_id,
        budgets=budgets,
        usage=usage,
        cost_pico=lambda used: hosted_charge(pricer, tally.model, tally.provider, used, at).total_pico,
        is_local=tally.is_local,
        tranche_pico=tranche,
        attempt=row_document(killed),
        num_choices=num_choices,
    )


def tranche_pico(pricer: Pricer, usage: Usage, s_per_input_token: float) -> int:
    """What a local call begins with: a second, or what its prompt is expected to take."""
    seconds = max(TRANCHE_S, usage.input_tokens * s_per_input_token)
    return max(1, pricer.local(Usage(input_s=seconds)).total_pico or 0)


def refusal_error(refusal: Refusal, model: str) -> UpstreamError:
    """For the client: which budget, what is used of it, when it begins anew."""
    room = refusal.room
    budget, at_us = room.budget, now_us()
    if refusal.needed is None:
        return UpstreamError(
            f"no price is known for {model!r}, so {budget.title} cannot be kept; state its price in a price file",
            status=400,
            code="price_unknown",
            param="model",
        )
    ends_us = budget.ends_us(at_us)
    is_held = room.used + refusal.needed <= budget.amount  # once the calls that run now have ended
    end = None if ends_us is None else datetime.fromtimestamp(ends_us // 1_000_000, UTC)
    ends = "" if end is None else f"; the window ends {end:%Y-%m-%dT%H:%M:%SZ}"
    window_s = None if ends_us is None else max(0.001, (ends_us - at_us) / 1e6)
    return UpstreamError(
        f"{budget.title}, has no room for this call: spent {budget.words(room.used)}, reserved"
        f" {budget.words(room.reserved)}, needed {budget.words(refusal.needed)} at least{ends}",
        status=429,
        code="rate_limit_exceeded" if budget.kind == "limit" else "budget_exceeded",
        retry_after_s=min(SOON_S, window_s or SOON_S) if is_held else window_s,
    )


def settlement_of(hold: Hold, row: Row) -> Settlement:
    """What was used; where that is not known, all that was held, unless the call failed before a first piece came."""
    was_answered = row.status != "error" or row.first_token_us is not None
    tokens = None if row.input_tokens is None or row.output_tokens is None else row.input_tokens + row.output_tokens
    charges = []
    for room, held in hold.amounts:
        used = tokens if room.budget.unit == "tokens" else row.cost_pico
        if used is None:
            used = held if was_answered and not hold.is_local else 0
        charges.append((room.budget.id, used))
    is_nothing = all(amount == 0 for _, amount in charges)
    return Settlement(hold.reservation_id, tuple(charges), "release" if is_nothing else "settle")
