"""One file of the cold tier on disk: a header, a table of heads, and the pages that they describe.

    header   4096 bytes: magic, version, sizes, fingerprint, checksum; the magic once more in the last 16
    heads    num_slots x head_bytes, each: used u64 | sum 16 | digest 32 | parent 32 | page_sum u64 | key_size u32 | key
    pages    num_slots x page_bytes, from the next multiple of 4096; a slot's head and page have the same number

Little-endian. `sum` covers the head behind it and the file's fingerprint, `page_sum` (XXH64) the page. A page is
written before its head. So whatever a crash, a torn write or a damaged disk leaves behind, a head without its page is
noticed when it is read, and neither order nor completeness of writes matters. `used` orders slots by their last use and
stands outside the sum: a wrong one costs an early eviction at most.
"""

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from farthing.cache.slots import Page, Record
from farthing.kernels import checksum

__all__ = ["ColdFile", "DamagedFile", "ForeignFile", "Head", "Layout", "StaleFile"]

_MAGIC = b"farthing's pages"  # 16 bytes
_VERSION = 1
_HEADER = struct.Struct("<16sIIQQ32s")  # magic, version, key_room, num_slots, page_bytes, fingerprint; then a sum of 16
_HEAD = struct.Struct("<Q16s32s32sQI")  # and the key
_ALIGNMENT = 4096
_SUM_BYTES = 16


class ForeignFile(Exception):
    """Not ours to touch: no magic, no regular file, of another user, or not to be opened."""


class DamagedFile(Exception):
    """Ours, but its header cannot be trusted."""


class StaleFile(Exception):
    """Ours and whole, of another model, codec, build, instruction set or version."""


def _aligned(num_bytes: int, unit: int = _ALIGNMENT) -> int:
    return -(-num_bytes // unit) * unit


@dataclass(frozen=True)
class Layout:
    """What all files of a folder have in common."""

    fingerprint: bytes  # 32 bytes: what must be equal for pages to be equal
    page_bytes: int
    key_room: int  # the longest key

    @property
    def head_bytes(self) -> int:
        return _aligned(_HEAD.size + self.key_room, 64)

    def pages_at(self, num_slots: int) -> int:
        return _aligned(_ALIGNMENT + num_slots * self.head_bytes)

    def file_bytes(self, num_slots: int) -> int:
        return self.pages_at(num_slots) + num_slots * self.page_bytes

    def slots_in(self, num_bytes: int) -> int:
        """Slots of the largest file of num_bytes at most; 0 where not one fits."""
        num_slots = max(0, num_bytes - _ALIGNMENT) // (self.head_bytes + self.page_bytes)
        while num_slots and self.file_bytes(num_slots) > num_bytes:  # what the alignment takes
            num_slots -= 1
        return num_slots

    def sum_of(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=_SUM_BYTES, key=self.fingerprint).digest()


@dataclass(frozen=True)
class Head:
    slot: int
    used: int
    record: Record
    page_sum: int


class ColdFile:
    """An open file. Methods raise OSError where the disk fails."""

    def __init__(self, path: Path, fd: int, layout: Layout, num_slots: int) -> None:
        self.path, self.num_slots = path, num_slots
        self.num_bytes = layout.file_bytes(num_slots)
        self._file = FileIO(fd, "r+")  # an object, so that whoever forgets it closes it
        self._fd, self._layout = fd, layout
        self._pages_at = layout.pages_at(num_slots)

    @classmethod
    def create(cls, path: Path, layout: Layout, num_slots: int) -> "ColdFile":
        """A file without pages; sparse, so it takes room on the disk only as it is filled."""
        fields = _HEADER.pack(_MAGIC, _VERSION, layout.key_room, num_slots, layout.page_bytes, layout.fingerprint)
        header = fields + hashlib.blake2b(fields, digest_size=_SUM_BYTES).digest()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = cls(path, fd, layout, num_slots)
        try:
            file._write(header.ljust(_ALIGNMENT - len(_MAGIC), b"\0") + _MAGIC, 0)
            os.ftruncate(fd, file.num_bytes)
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise
        return file

    @classmethod
    def open(cls, path: Path, layout: Layout) -> "ColdFile":
        """A file that is there. Raises ForeignFile, DamagedFile or StaleFile where it cannot be used."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ForeignFile from error  # a link, a folder, no permission
        try:
            num_slots = _num_slots(fd, layout)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, layout, num_slots)

    def heads(self) -> Iterator[Head | None]:
        """The head of each slot that was ever written; None for one that is damaged, which is then erased."""
        size, num_there = self._layout.head_bytes, os.fstat(self._fd).st_size
        table = os.pread(self._fd, self.num_slots * size, _ALIGNMENT)
        if num_there != self.num_bytes:  # truncated, or something was written behind it
            os.ftruncate(self._fd, self.num_bytes)
        never = bytes(size)
        for slot in range(self.num_slots):
            raw = table[slot * size : (slot + 1) * size]
            if never.startswith(raw):
                continue
            is_there = self._pages_at + (slot + 1) * self._layout.page_bytes <= num_there
            head = self._parsed(slot, raw) if is_there else None
            if head is None:
                self.erase(slot)
            yield head

    def write(self, slot: int, record: Record, page: Page, used: int) -> int:
        """The page, then its head; the page's checksum."""
        assert len(record.key) <= self._layout.key_room
        page_sum = checksum(page)
        self._write(page.data, self._page_at(slot))
        head = _HEAD.pack(used, b"", record.digest, record.parent, page_sum, len(record.key))
        body = (head[8 + _SUM_BYTES :] + record.key).ljust(self._layout.head_bytes - 8 - _SUM_BYTES, b"\0")
        self._write(head[:8] + self._layout.sum_of(body) + body, self._head_at(slot))
        return page_sum

    def will_read(self, slot: int) -> None:
        """Have the system begin to read the page."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, self._page_at(slot), self._layout.page_bytes, os.POSIX_FADV_WILLNEED)

    def read(self, slot: int, page_sum: int, page: Page) -> bool:
        """Read the slot's page into `page`; whether it is the one that was written."""
        done, size, at = 0, self._layout.page_bytes, self._page_at(slot)
        while done < size:
            num_read = os.preadv(self._fd, [page.data[done:]], at + done)
            if num_read == 0:
                return False
            done += num_read
        return checksum(page) == page_sum

    def set_used(self, slot: int, used: int) -> None:
        self._write(used.to_bytes(8, "little"), self._head_at(slot))

    def erase(self, slot: int) -> None:
        self._write(bytes(self._layout.head_bytes), self._head_at(slot))

    def close(self) -> None:
        self._file.close()

    def _head_at(self, slot: int) -> int:
        return _ALIGNMENT + slot * self._layout.head_bytes

    def _page_at(self, slot: int) -> int:
        return self._pages_at + slot * self._layout.page_bytes

    def _write(self, data: bytes | memoryview, at: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, at)
            view, at = view[done:], at + done

    def _parsed(self, slot: int, raw: bytes) -> Head | None:
        if len(raw) < self._layout.head_bytes:
            return None
        used, head_sum, digest, parent, page_sum, key_size = _HEAD.unpack_from(raw)
        if head_sum != self._layout.sum_of(raw[8 + _SUM_BYTES :]) or key_size > self._layout.key_room:
            return None
        return Head(slot, used, Record(digest, parent, raw[_HEAD.size : _HEAD.size + key_size]), page_sum)


def _num_slots(fd: int, layout: Layout) -> int:
    """The slots of an open file, which its header states. Raises ForeignFile, DamagedFile or StaleFile."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise ForeignFile
    header = os.pread(fd, _ALIGNMENT, 0)
    if not header.startswith(_MAGIC) and header[-len(_MAGIC) :] != _MAGIC:
        raise ForeignFile
    fields = header[: _HEADER.size]
    if hashlib.blake2b(fields, digest_size=_SUM_BYTES).digest() != header[_HEADER.size : _HEADER.size + _SUM_BYTES]:
        raise DamagedFile
    magic, version, key_room, num_slots, page_bytes, fingerprint = _HEADER.unpack(fields)
    if magic != _MAGIC:
        raise DamagedFile
    if version != _VERSION or Layout(fingerprint, page_bytes, key_room) != layout:
        raise StaleFile
    return int(num_slots)
