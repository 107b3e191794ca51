"""Prompts and answers, where the configuration says that they are kept: the newest ones, for training a router.

The one table of the ledger that holds what was said, and the one beside the keys that may be deleted from: people must
be able to. Nothing else reads it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from farthing.ledger.database import Database

__all__ = ["Traffic", "delete_traffic", "insert_traffic", "traffic_rows"]

PRUNE_EVERY = 64  # rows; so many more than allowed may lie there for a while


@dataclass(frozen=True, slots=True)
class Traffic:
    request_id: str
    prompt: str  # the last thing the user said: what a router reads
    served_model: str
    answer: str


def insert_traffic(database: Database, traffic: Traffic, at_us: int, max_rows: int, number: int) -> None:
    """`number` counts this process's rows: now and then the oldest are deleted. In the caller's transaction."""
    texts = (_storable(text) for text in (traffic.prompt, traffic.served_model, traffic.answer))
    database.execute(
        "INSERT INTO traffic (request_id, at_us, prompt, served_model, answer) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (request_id) DO NOTHING",
        (traffic.request_id, at_us, *texts),
    )
    if number % PRUNE_EVERY == 0:
        oldest = database.execute(
            "SELECT request_id FROM traffic ORDER BY request_id DESC LIMIT 1 OFFSET ?", (max_rows - 1,)
        ).fetchone()
        if oldest is not None:
            database.execute("DELETE FROM traffic WHERE request_id < ?", (oldest[0],))


def traffic_rows(database: Database, since_us: int, until_us: int) -> Iterator[Traffic]:
    """By time."""
    found = database.execute(
        "SELECT request_id, prompt, served_model, answer FROM traffic WHERE at_us >= ? AND at_us < ?"
        " ORDER BY request_id",
        (since_us, until_us),
    ).fetchall()
    for values in found:
        yield Traffic(*map(str, values))


def delete_traffic(database: Database) -> int:
    """All of it; how many rows there were. In the caller's transaction."""
    counted = database.execute("SELECT COUNT(*) FROM traffic").fetchone()
    database.execute("DELETE FROM traffic")
    return int(counted[0])


def _storable(text: str) -> str:
    """Lone surrogates and NUL, which no database takes, become U+FFFD."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
