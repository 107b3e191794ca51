"""Where entries wait while the database is away: a file that only grows, one checksummed line of JSON for each.

    0a1b2c3d {"row": {...}, "settlement": null}
    ^ CRC-32 of what follows the space

An entry counts as kept once its line is on the disk (fsync). A line that was torn by a crash was never acknowledged; it
is skipped. Each process has a file of its own, locked as long as it lives; files that nobody holds are taken over.
"""

import fcntl
import json
import os
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from farthing.ledger.records import Entry

__all__ = ["Spool"]


class Spool:
    """The file of one process. `put` may be called by any thread; `take` and `drop` by one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._taken = 0  # bytes that were read and written to the database
        self.num_waiting = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise
        self.num_waiting = sum(1 for _ in self._entries())

    @classmethod
    def orphans(cls, folder: Path) -> Iterator["Spool"]:
        """The files of processes that are gone; empty ones are removed on the way."""
        for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
            try:
                spool = cls(path)
            except OSError:
                continue  # somebody lives, or was quicker
            if spool.num_waiting:
                yield spool
            else:
                spool.close()

    def put(self, entries: Sequence[Entry]) -> None:
        """Returns when they are on the disk. OSError where they are not (nothing of them is kept then)."""
        data = b"".join(_line(entry) for entry in entries)
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
            self.num_waiting += len(entries)

    def take(self, num_entries: int) -> tuple[list[Entry], int]:
        """The next entries, and where they end: for `drop`, once they are written."""
        with self._lock:
            entries, end = [], self._taken
            for entry, end_of_line in self._entries():
                entries.append(entry)
                end = end_of_line
                if len(entries) == num_entries:
                    break
            return entries, end

    def drop(self, num_entries: int, end: int) -> None:
        """They are in the database. The file is emptied when nothing waits; a crash before only repeats."""
        with self._lock:
            self._taken = end
            self.num_waiting -= num_entries
            if self.num_waiting == 0:
                os.ftruncate(self._file, 0)
                self._taken = 0

    def close(self) -> None:
        """An empty file is removed, one with entries stays for whoever comes next."""
        with self._lock:
            if self.num_waiting == 0:
                self.path.unlink(missing_ok=True)
            os.close(self._file)

    def _entries(self) -> Iterator[tuple[Entry, int]]:
        end = self._taken
        with open(self.path, "rb") as file:
            file.seek(end)
            for line in file:
                end += len(line)
                entry = _entry(line)
                if entry is not None:
                    yield entry, end
                elif line.endswith(b"\n"):
                    warnings.warn(f"{self.path}: a damaged line, ending at byte {end}, is left out", stacklevel=2)


def _line(entry: Entry) -> bytes:
    text = json.dumps(entry.document(), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> Entry | None:
    """None for a line that is not whole."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return Entry.from_document(json.loads(text.decode("utf-8", "surrogatepass")))
