"""Law 3, the ledger's half: counters are the sums of the events, nobody gets past a budget, a row is never changed."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.price_file import Override
from farthing.economics.prices import PriceBook, Rate, Source
from farthing.economics.usage import Usage
from farthing.ledger import Budget, LedgerConfig
from farthing.ledger.attempt import Attempt
from farthing.ledger.budget import Unit
from farthing.ledger.check import check, rebuild
from farthing.ledger.database import Database
from farthing.ledger.entries import settle, write_entry
from farthing.ledger.instance import Instance, recover
from farthing.ledger.records import COLUMNS, Entry, Settlement, row_document, row_from_values
from farthing.ledger.reservation import Ask, Hold, Refusal, extend, reserve
from farthing.ledger.row import Row
from farthing.ledger.schema import migrate
from farthing.ledger.sqlite import SqliteDatabase
from farthing.upstreams.call import Call, Tally

ME = Instance("me", "here", 1, "")
tokens = st.integers(0, 10**6)
usages = st.builds(
    lambda read, write, rest, output, seconds: Usage(read + write + rest, read, output, seconds, seconds / 3, write),
    tokens,
    tokens,
    tokens,
    tokens,
    st.floats(0, 1e4),
)


def ledger() -> Database:
    """In memory: the laws are about sums."""
    database = SqliteDatabase(Path(":memory:"), LedgerConfig(url="sqlite:///:memory:"))
    migrate(database)
    return database


def pricer(input_usd: Decimal, output_usd: Decimal) -> Pricer:
    day = date(2026, 1, 1)
    names = {"input": input_usd, "output": output_usd, "cache_read": input_usd / 10, "cache_write": input_usd * 2}
    rates = {name: Rate(usd) for name, usd in names.items()}
    return Pricer(
        PriceBook((Override("m", None, day, Source("t", day, "valid from"), rates, None, None),)), HostCost(), "m"
    )


def attempt_row(prices: Pricer, usage: Usage, *, is_local: bool, name: str = "id") -> Row:
    tally = Tally(usage, "provider", "up", "p", "m", is_local)
    return Attempt(name, 0, 1_790_000_000_000_000, 0).row(Call("r", "chat", {}, "m"), tally, prices, 1000, None)


def ask(number: int, budgets: list[Budget], usage: Usage, *, is_local: bool, tranche: int = 50) -> Ask:
    name = f"r{number}"
    document = row_document(replace(attempt_row(PRICES, usage, is_local=is_local, name=name), status="killed"))
    owner = "me" if number % 3 else "dead"
    return Ask(
        name,
        owner,
        budgets,
        usage,
        lambda used: used.input_tokens + 2 * used.output_tokens,
        is_local,
        tranche,
        document,
    )


PRICES = pricer(Decimal(1), Decimal(2))
small = st.integers(0, 60)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.booleans(), small, small),
        st.tuples(st.just("extend"), st.integers(0, 20), small, small),
        st.tuples(st.just("settle"), st.integers(0, 20), small, st.just(0)),
        st.tuples(st.just("release"), st.integers(0, 20), st.just(0), st.just(0)),
        st.tuples(st.just("crash"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("rollback"), st.booleans(), small, small),
    ),
    max_size=30,
)


def live(database: Database, budgets: list[Budget], steps_: list[tuple[str, int, int, int]]) -> None:
    """Any order of events, repeated settlements and those of reservations that others closed among them."""
    holds: list[Hold] = []
    for number, (what, which, first, second) in enumerate(steps_):
        hold = holds[which % len(holds)] if holds else None
        database.begin()
        if what in ("reserve", "rollback"):
            got = reserve(database, ask(number, budgets, Usage(first, 0, second), is_local=bool(which)))
            if what == "rollback":
                database.rollback()
                continue
            if isinstance(got, Hold):
                holds.append(got)
        elif what == "crash":
            recover(database, ME)
        elif hold is not None and what == "extend":
            extend(database, hold, "me", first, second if number % 2 else 0)
        elif hold is not None:
            charges = tuple((room.budget.id, first) for room, _ in hold.amounts)
            settle(database, Settlement(hold.reservation_id, charges, "settle" if first else "release"))
        database.commit()


def budgets_of(amounts: list[int]) -> list[Budget]:
    units: tuple[Unit, ...] = ("tokens", "usd")
    return [Budget(f"b{i}", "budget", "global", "", units[i % 2], "total", amount) for i, amount in enumerate(amounts)]


@given(st.lists(st.integers(1, 300), max_size=3), steps)
@settings(max_examples=150, deadline=None)
def test_counters_are_the_sums_of_the_events(amounts: list[int], steps_: list[tuple[str, int, int, int]]) -> None:
    database = ledger()
    live(database, budgets_of(amounts), steps_)
    assert check(database) == []
    before = database.execute("SELECT * FROM counters ORDER BY budget_id, window_us").fetchall()
    still_open = database.execute("SELECT * FROM open_reservations").fetchall()
    assert "" not in [counter[0] for counter in before]  # what no budget pays for is counted nowhere
    database.begin()
    database.execute("UPDATE counters SET used = used + 1, reserved = 0")
    database.execute("DELETE FROM open_reservations")
    database.commit()
    assert (check(database) == []) == (before == still_open == [])
    database.begin()
    rebuild(database)
    database.commit()
    assert database.execute("SELECT * FROM counters ORDER BY budget_id, window_us").fetchall() == before
    assert check(database) == []
    database.close()


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.booleans()), max_size=30),
)
@settings(max_examples=100, deadline=None)
def test_reservations_never_exceed_their_budgets(amounts: list[int], calls: list[tuple[int, int, bool]]) -> None:
    """And a call that is made shorter is made no shorter than it must be."""
    database, budgets = ledger(), budgets_of(amounts)
    for number, (first, second, is_local) in enumerate(calls):
        database.begin()
        wanted = ask(number, budgets, Usage(first, 0, second), is_local=is_local)
        got = reserve(database, wanted)
        database.commit()
        if isinstance(got, Hold):
            assert got.max_output_tokens >= min(1, second)
            assert all(0 <= amount <= room.left for room, amount in got.amounts)
            if got.is_lowered:
                longer = Usage(first, 0, got.max_output_tokens + 1)
                costs = {
                    "tokens": first + longer.output_tokens,
                    "usd": 0 if is_local else wanted.cost_pico(longer) or 0,
                }
                assert any(costs[room.budget.unit] > room.left for room, _ in got.amounts)
        else:
            assert isinstance(got, Refusal)
            assert (got.needed or 0) > got.room.left
    for budget_id, used, reserved in database.execute("SELECT budget_id, used, reserved FROM counters").fetchall():
        assert used + reserved <= next(budget.amount for budget in budgets if budget.id == budget_id)
    database.close()


@given(usages, st.booleans(), st.decimals(0, 1000, places=6), st.decimals(0, 1000, places=6))
@settings(max_examples=200, deadline=None)
def test_the_parts_of_a_row_sum_to_its_cost(usage: Usage, is_local: bool, first: Decimal, second: Decimal) -> None:
    row = attempt_row(pricer(first, second), usage, is_local=is_local)
    parts = (row.input_pico, row.cache_read_pico, row.cache_write_pico, row.output_pico, row.request_pico)
    assert row.cost_pico == sum(part or 0 for part in parts)
    assert row.cost_pico is not None
    assert row.cost_pico >= 0


@given(usages, st.decimals(0, 1000, places=6), st.decimals(0, 1000, places=6))
@settings(max_examples=50, deadline=None)
def test_a_new_price_never_changes_a_past_row(usage: Usage, old: Decimal, new: Decimal) -> None:
    database = ledger()
    row = attempt_row(pricer(old, old), usage, is_local=False)
    for written in (row, attempt_row(pricer(new, new), usage, is_local=False), row):
        database.begin()
        write_entry(database, Entry(written))
        database.commit()
        found = database.execute(f"SELECT {', '.join(COLUMNS)} FROM attempts").fetchall()
        assert [row_from_values(values) for values in found] == [row]
    database.close()


@given(st.lists(st.tuples(tokens, tokens), max_size=5))
@settings(max_examples=50, deadline=None)
def test_what_waits_reads_back_as_it_was(counts: list[tuple[int, int]]) -> None:
    entry = Entry(
        attempt_row(PRICES, Usage(5, 0, 2), is_local=False), Settlement("r", tuple((f"b{a}", b) for a, b in counts))
    )
    assert Entry.from_document(entry.document()) == entry
