"""The ledger against itself, after everybody has left."""

from contextlib import closing

from farthing.ledger import LedgerConfig, Row
from farthing.ledger.check import check
from farthing.ledger.opening import open_database

__all__ = ["must_balance"]

CHARGED = """SELECT r.reservation_id, b.unit, SUM(r.amount) FROM reservations r JOIN budgets b ON b.id = r.budget_id
    WHERE r.event IN ('settle', 'release') GROUP BY r.reservation_id, b.id, b.unit"""

CLOSED = "SELECT DISTINCT reservation_id FROM reservations WHERE event IN ('settle', 'release')"


def must_balance(url: str, rows: list[Row]) -> None:
    """Counters are the sums of their events, nothing is reserved any more, and each row of a key with a budget was
    charged with what it says was used. What a killed process had reserved stays charged: its provider may bill it."""
    with closing(open_database(LedgerConfig(url=url), must_exist=True)) as database:
        assert check(database) == []
        [num_open] = database.execute("SELECT COUNT(*) FROM open_reservations").fetchone()
        charged = database.execute(CHARGED).fetchall()
        closed = {name for (name,) in database.execute(CLOSED).fetchall()}
    assert num_open == 0, "reservations that nobody will settle"
    by_id = {row.id: row for row in rows}
    assert {row.id for row in rows if row.status == "killed"} <= closed
    for reservation, unit, amount in charged:
        row = by_id.get(reservation)
        if row is None:  # its client left before the call was made: no attempt, no row
            assert amount == 0, f"{reservation} has no row and was charged with {amount}"
            continue
        tokens = None if row.input_tokens is None or row.output_tokens is None else row.input_tokens + row.output_tokens
        used = tokens if unit == "tokens" else row.cost_pico
        if row.status != "killed" and used is not None:
            assert amount == used, f"{row.id} used {used} {unit} and was charged with {amount}"
