"""What the bill reads. Rows come page by page, so a ledger of any size takes the same memory."""

from collections.abc import Iterator, Sequence

from farthing.ledger.config import LedgerConfig
from farthing.ledger.database import Database
from farthing.ledger.directory import list_budgets
from farthing.ledger.feedback import FeedbackRow, RoutedScore, feedback_rows, routed_scores
from farthing.ledger.key import Key, list_keys
from farthing.ledger.opening import open_database
from farthing.ledger.overshoot import Overshoot, overshoots
from farthing.ledger.records import COLUMNS, row_from_values
from farthing.ledger.reservation import Room, rooms_of
from farthing.ledger.row import Row
from farthing.ledger.traffic import Traffic, traffic_rows

__all__ = ["Reader", "open_reader"]

PAGE_ROWS = 1000


class Reader:
    """Synchronous, for one thread. Close it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self, since_us: int, until_us: int, key_id: str | None = None) -> Iterator[Row]:
        """By time, of attempts that started at since_us or later and before until_us."""
        condition = "started_us < ? AND (started_us > ? OR (started_us = ? AND id > ?))"
        values: list[object] = [until_us]
        if key_id is not None:
            condition, values = "key_id = ? AND " + condition, [key_id, until_us]
        sql = f"SELECT {', '.join(COLUMNS)} FROM attempts WHERE {condition} ORDER BY started_us, id LIMIT {PAGE_ROWS}"
        last_us, last_id = since_us, ""  # every id is greater than ""
        while True:
            page = self._database.execute(sql, (*values, last_us, last_us, last_id)).fetchall()
            rows = [row_from_values(found) for found in page]
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            last_us, last_id = rows[-1].started_us, rows[-1].id

    def keys(self) -> list[Key]:
        return list_keys(self._database)

    def budgets(self) -> list[Room]:
        """Those that hold now, with what was used and is reserved in the window that holds now."""
        return [room for budget in list_budgets(self._database) for room in rooms_of(self._database, [budget])]

    def overshoots(self, since_us: int, until_us: int) -> dict[str, Overshoot]:
        """By budget id: what hosted calls of that time used beyond what was reserved for them."""
        return overshoots(self._database, since_us, until_us)

    def request_attempts(self, request_ids: Sequence[str]) -> dict[str, Row]:
        """Of each request the last attempt that was not discarded: whose answer was given."""
        found: dict[str, Row] = {}
        for start in range(0, len(request_ids), PAGE_ROWS):
            part = request_ids[start : start + PAGE_ROWS]
            marks = ", ".join("?" * len(part))
            order = "CASE WHEN status = 'discarded' THEN 0 ELSE 1 END, attempt"
            sql = f"SELECT {', '.join(COLUMNS)} FROM attempts WHERE request_id IN ({marks}) ORDER BY {order}"
            rows = [row_from_values(values) for values in self._database.execute(sql, part).fetchall()]
            found |= {row.request_id: row for row in rows}
        return found

    def feedback(self, since_us: int = 0, until_us: int = 2**62) -> list[FeedbackRow]:
        """The last of each request."""
        return feedback_rows(self._database, since_us, until_us)

    def routed_scores(self, since_us: int, until_us: int) -> list[RoutedScore]:
        """The last of each request whose answer has a route."""
        return routed_scores(self._database, since_us, until_us)

    def traffic(self, since_us: int = 0, until_us: int = 2**62) -> list[Traffic]:
        """What was stored of prompts and answers: nothing, unless the server's configuration says so."""
        return list(traffic_rows(self._database, since_us, until_us))

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_reader(url: str) -> Reader:
    """Raises LedgerError where there is no ledger, or one that is newer than this program."""
    config = LedgerConfig(url=url)
    return Reader(open_database(config, must_exist=True))
