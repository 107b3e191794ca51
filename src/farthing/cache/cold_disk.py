"""The cold tier on disk: a folder of files with slots for pages (`cold_file.py`), held by one process at a time.

Slots are used again one by one, so the page used longest ago goes first, whichever file it lies in, and the files never
take more than the budget, not even while they are written. Files of another model (or codec, build, instruction set)
stay until their room is needed.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from farthing.cache.cold_file import ColdFile, DamagedFile, ForeignFile, Head, Layout, StaleFile
from farthing.cache.slots import Page, Record, Slots
from farthing.errors import InvalidRequest

__all__ = ["DiskStore"]

_FILE_BYTES = 64 << 20  # of a file at most, so that the disk fills in steps and a smaller budget gives files back
_MOST_USED = 1 << 62  # a damaged `used` must not leave the clock without room
_PATTERN = "pages-*.cold"


class _Entry(NamedTuple):
    file: ColdFile
    slot: int  # in its file
    record: Record
    page_sum: int


class DiskStore:
    """Pages in `folder`, which is made where it is missing; in files of num_bytes together at most.

    Raises InvalidRequest where the folder cannot be used, or another engine has it.
    """

    def __init__(self, folder: Path, num_bytes: int, layout: Layout, file_bytes: int = _FILE_BYTES) -> None:
        self.num_damaged = 0
        self._folder, self._budget, self._layout = folder, num_bytes, layout
        self._file_bytes = max(file_bytes, layout.file_bytes(1))
        self._files: list[ColdFile] = []
        self._stale: list[tuple[Path, int]] = []  # (file of another fingerprint, its bytes)
        self._places: list[tuple[ColdFile, int]] = []  # of each slot of self._slots: its file, and its number there
        self._entries: dict[bytes, _Entry] = {}
        self._slots = Slots()
        self._clock = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(folder)
        except OSError as error:
            raise InvalidRequest(
                f"cold_folder is {str(folder)!r}, which cannot be used ({error.strerror or error}): give a folder that "
                "this user can write to"
            ) from error
        try:
            self._open_files()
        except OSError as error:
            self.close()
            raise InvalidRequest(
                f"cold_folder {str(folder)!r} cannot be read ({error.strerror or error}): empty it, or give another"
            ) from error

    @property
    def num_slots(self) -> int:
        left = self._budget - sum(file.num_bytes for file in self._files)
        most = self._layout.slots_in(self._file_bytes)
        num_files, rest = divmod(max(left, 0), self._layout.file_bytes(most))
        return len(self._places) + num_files * most + self._layout.slots_in(rest)

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self._files) + sum(num_bytes for _, num_bytes in self._stale)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slots

    def touch(self, digest: bytes) -> None:
        self._slots.touch(digest)

    def put(self, record: Record, page: Page) -> bool:
        if len(record.key) > self._layout.key_room:
            return False
        if not self._slots.num_free and not self._add_file() and len(self):
            oldest, _ = next(iter(self._slots))
            del self._entries[oldest]
        place = self._slots.take(record.digest)
        if place is None:
            return False
        file, slot = self._places[place]
        self._clock += 1
        try:
            page_sum = file.write(slot, record, page, self._clock)
        except BaseException:
            self._slots.drop(record.digest)
            raise
        self._entries[record.digest] = _Entry(file, slot, record, page_sum)
        return True

    def will_get(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            entry = self._entries[digest]
            entry.file.will_read(entry.slot)

    def get(self, record: Record, page: Page) -> bool:
        entry = self._entries.get(record.digest)
        if entry is None or entry.record != record:
            return False
        if entry.file.read(entry.slot, entry.page_sum, page):
            return True
        self.num_damaged += 1
        self._slots.drop(record.digest)
        del self._entries[record.digest]
        entry.file.erase(entry.slot)
        return False

    def close(self) -> None:
        """Note which pages were used last, and let go of the folder."""
        with contextlib.suppress(OSError):
            for digest, _ in self._slots:
                self._clock += 1
                entry = self._entries[digest]
                entry.file.set_used(entry.slot, self._clock)
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        self._files, self._entries, self._slots = [], {}, Slots()
        self._lock.close()

    def _open_files(self) -> None:
        """Take over what an engine before us left: newest first, as much as the budget holds."""
        found: list[tuple[int, ColdFile, list[Head]]] = []
        for path in sorted(self._folder.glob(_PATTERN)):
            try:
                file = ColdFile.open(path, self._layout)
            except ForeignFile:
                continue
            except DamagedFile:
                self.num_damaged += 1
                path.unlink()
                continue
            except StaleFile:
                self._stale.append((path, path.stat().st_size))
                continue
            self._files.append(file)
            heads = []
            for head in file.heads():
                if head is None:
                    self.num_damaged += 1
                else:
                    heads.append(head)
            found.append((max((head.used for head in heads), default=0), file, heads))
        found.sort(key=lambda item: item[0], reverse=True)
        while found and sum(file.num_bytes for file in self._files) > self._budget:
            _, file, _ = found.pop()
            self._files.remove(file)
            file.close()
            file.path.unlink()
        self._make_room(0)
        self._take_over([(file, heads) for _, file, heads in found])

    def _take_over(self, found: list[tuple[ColdFile, list[Head]]]) -> None:
        known = sorted(((head, file) for file, heads in found for head in heads), key=lambda item: item[0].used)
        first = {}
        for file, _ in found:
            first[file] = len(self._places)
            self._places += [(file, slot) for slot in range(file.num_slots)]
        free = set(range(len(self._places)))
        for head, file in known:
            digest, place = head.record.digest, first[file] + head.slot
            if digest not in self._slots:
                self._slots.restore(digest, place)
                self._entries[digest] = _Entry(file, head.slot, head.record, head.page_sum)
                free.remove(place)
            self._clock = min(head.used, _MOST_USED)
        self._slots.add(sorted(free))

    def _add_file(self) -> bool:
        """One more file, where the budget has room for a slot."""
        left = self._budget - sum(file.num_bytes for file in self._files)
        num_slots = self._layout.slots_in(min(left, self._file_bytes))
        if num_slots < 1:
            return False
        self._make_room(self._layout.file_bytes(num_slots))
        numbers = [path.stem.removeprefix("pages-") for path in self._folder.glob(_PATTERN)]
        number = max((int(n) for n in numbers if n.isdecimal()), default=0) + 1
        file = ColdFile.create(self._folder / f"pages-{number:06}.cold", self._layout, num_slots)
        self._files.append(file)
        first = len(self._places)
        self._places += [(file, slot) for slot in range(num_slots)]
        self._slots.add(range(first, first + num_slots))
        return True

    def _make_room(self, num_bytes: int) -> None:
        """Remove files of other fingerprints, oldest first, until num_bytes more fit into the budget."""
        self._stale.sort(key=lambda item: item[0].name, reverse=True)
        while self._stale and self.num_bytes + num_bytes > self._budget:
            path, _ = self._stale.pop()
            path.unlink(missing_ok=True)


def _locked(folder: Path) -> FileIO:
    """The folder's lock, held while the file is open. Raises InvalidRequest where another engine holds it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    lock = FileIO(fd, "r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InvalidRequest(
            f"cold_folder {str(folder)!r} is in use by another engine: close that one, or give each a folder of its own"
        ) from None
    except OSError:
        lock.close()
        raise
    return lock
