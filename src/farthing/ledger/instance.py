"""Which processes hold reservations, and what becomes of those of a process that was killed.

Every process has a row with a heartbeat. One at our own place (same machine, same process namespace) is dead as soon as
its process is gone; any other when its heart has not beaten for a minute.
"""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from farthing.ledger.database import Database
from farthing.ledger.entries import insert_row, settle
from farthing.ledger.records import Settlement, row_from_document

__all__ = ["DEAD_AFTER_S", "Instance", "beat", "leave", "recover"]

DEAD_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Instance:
    id: str
    place: str
    pid: int
    started_ticks: str  # tells a process from a later one of the same number

    @classmethod
    def of_this_process(cls, instance_id: str) -> "Instance":
        return cls(instance_id, _place(), os.getpid(), _started_ticks(os.getpid()) or "")


def beat(database: Database, instance: Instance) -> None:
    """I am here. In the caller's transaction."""
    database.execute(
        "INSERT INTO instances (id, place, pid, started_ticks, beat_us) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET beat_us = excluded.beat_us",
        (instance.id, instance.place, instance.pid, instance.started_ticks, database.now_us()),
    )


def leave(database: Database, instance: Instance) -> None:
    """A process that ends in good order. What it still holds is then open to recover."""
    database.execute("DELETE FROM instances WHERE id = ?", (instance.id,))


def recover(database: Database, instance: Instance) -> int:
    """Close what the dead hold: a row "killed" for each, its cost unknown. A hosted call stays charged with what it had
    reserved, as its provider may bill it; a local one with nothing. Returns how many. In the caller's transaction."""
    _remove_dead(database, instance)
    held = database.execute(
        "SELECT DISTINCT o.reservation_id FROM open_reservations o"
        " WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = o.instance_id) ORDER BY o.reservation_id"
    ).fetchall()
    for (reservation_id,) in held:
        events = database.execute(
            "SELECT budget_id, is_local, attempt FROM reservations WHERE reservation_id = ? AND event = 'reserve'",
            (reservation_id,),
        ).fetchall()
        is_local = bool(events[0][1])
        charges = tuple((str(budget_id), 0) for budget_id, _, _ in events) if is_local else ()
        settle(database, Settlement(reservation_id, charges, "release" if is_local else "settle"))
        for document in (attempt for _, _, attempt in events if attempt is not None):
            insert_row(database, row_from_document(json.loads(document)))
    return len(held)


def _remove_dead(database: Database, instance: Instance) -> None:
    at_us = database.now_us()
    for other_id, place, pid, ticks, beat_us in database.execute(
        "SELECT id, place, pid, started_ticks, beat_us FROM instances WHERE id <> ?", (instance.id,)
    ).fetchall():
        is_gone = place == instance.place and ticks != "" and _started_ticks(pid) != ticks
        if is_gone or at_us - beat_us > DEAD_AFTER_S * 1e6:
            database.execute("DELETE FROM instances WHERE id = ?", (other_id,))


def _place() -> str:
    """Within which a process number means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started_ticks(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None where there is no such process, or no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    values = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if values[0] in "ZX" else values[19]  # dead, but its parent has not looked yet
