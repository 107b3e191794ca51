"""What the teacher said, kept: a compact file that a killed collection goes on with.

    magic 8 bytes | header length u32 | header: JSON | records: number of rows u32, CRC-32 of the payload u32, payload

One record a sample, in their order. The header says of which teacher and of which samples the file is, so that it is
never read for others. A record that a kill cut off is dropped; a damaged one is told. A row is, in half precision:
of a classifier the log-probabilities of all labels; of a model that writes text, for each token of the answer, the ids
of k tokens (u32), their log-probabilities, and the logarithm of the mass of all others. Drawn tokens have ids alone.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from farthing.distill.samples import SparseTargets
from farthing.errors import CorruptModel, InvalidRequest

__all__ = ["TargetKind", "TargetsFile", "TargetsHeader"]

TargetKind = Literal["labels", "top", "drawn"]

_MAGIC = b"frthTCH1"
_MOST_HEADER_BYTES = 1 << 20
_RECORD = struct.Struct("<II")

F32 = NDArray[np.float32]
Targets = F32 | SparseTargets


@dataclass(frozen=True)
class TargetsHeader:
    """teacher: `Model.identity`; samples: a digest of all token ids; width: labels, or tokens kept per row."""

    teacher: str
    samples: str
    kind: TargetKind
    width: int
    num_samples: int
    seed: int = 0  # of drawn tokens

    @property
    def row_bytes(self) -> int:
        return {"labels": 2 * self.width, "top": 6 * self.width + 2, "drawn": 4 * self.width}[self.kind]


class TargetsFile:
    """Open it to go on writing. Raises InvalidRequest for a file of another teacher or other samples (remove it, or
    give another name), CorruptModel for a damaged one."""

    def __init__(self, path: Path, header: TargetsHeader) -> None:
        self.path, self.header = path, header
        self._records: list[tuple[int, int]] = []  # place of the payload, rows
        try:
            self._file = path.open("r+b" if path.exists() else "x+b")
        except OSError as error:
            raise InvalidRequest(f"{path}: cannot be written ({error.strerror})") from None
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        """Samples that are there."""
        return len(self._records)

    def add(self, targets: Targets) -> None:
        """Of the next sample."""
        assert len(self._records) < self.header.num_samples
        payload, num_rows = _packed(targets, self.header)
        assert len(payload) == num_rows * self.header.row_bytes
        self._file.seek(self._end)
        self._file.write(_RECORD.pack(num_rows, crc32(payload)) + payload)
        self._records.append((self._end + _RECORD.size, num_rows))
        self._end += _RECORD.size + len(payload)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self) -> Iterator[Targets]:
        """Of each sample, in order."""
        for place, num_rows in self._records:
            self._file.seek(place)
            yield _unpacked(self._file.read(num_rows * self.header.row_bytes), num_rows, self.header)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "TargetsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        head = self._head()
        self._file.seek(0)
        if size < len(head) and head.startswith(self._file.read(size)):  # new, or killed before it was written
            self._file.seek(0)
            self._file.write(head)
            self._file.truncate()
            self._end = len(head)
            return
        self._check(size)
        self._end = len(head)
        self._read_records(size)

    def _head(self) -> bytes:
        raw = json.dumps(asdict(self.header), sort_keys=True).encode()
        return _MAGIC + struct.pack("<I", len(raw)) + raw

    def _check(self, size: int) -> None:
        """That the header is ours."""
        self._file.seek(0)
        magic, raw_length = self._file.read(8), self._file.read(4)
        length = struct.unpack("<I", raw_length)[0] if len(raw_length) == 4 else 0
        if magic != _MAGIC or length > min(size, _MOST_HEADER_BYTES):
            raise CorruptModel(f"{self.path} holds no answers of a teacher; remove it, or give another name")
        try:
            found: dict[str, Any] = json.loads(self._file.read(length))
            theirs = TargetsHeader(**found)
        except (ValueError, TypeError):
            raise CorruptModel(f"{self.path}: its header is damaged; remove the file to collect anew") from None
        for name, what in (("teacher", "another teacher"), ("samples", "other texts")):
            if getattr(theirs, name) != getattr(self.header, name):
                raise InvalidRequest(f"{self.path} was collected from {what}; remove it, or give another output")
        if theirs != self.header:
            raise InvalidRequest(f"{self.path} was collected with other settings ({found}); remove it to collect anew")

    def _read_records(self, size: int) -> None:
        while self._end + _RECORD.size <= size:
            self._file.seek(self._end)
            num_rows, checksum = _RECORD.unpack(self._file.read(_RECORD.size))
            num_bytes = num_rows * self.header.row_bytes
            if self._end + _RECORD.size + num_bytes > size:
                break  # a kill
            payload = self._file.read(num_bytes)
            if crc32(payload) != checksum or len(self._records) == self.header.num_samples:
                raise CorruptModel(f"{self.path}: record {len(self._records)} is damaged; remove the file")
            self._records.append((self._end + _RECORD.size, num_rows))
            self._end += _RECORD.size + num_bytes
        self._file.truncate(self._end)


def _packed(targets: Targets, header: TargetsHeader) -> tuple[bytes, int]:
    if not isinstance(targets, SparseTargets):
        assert header.kind == "labels"
        return targets.astype("<f2").tobytes(), 1
    ids = targets.ids.astype("<u4")
    if header.kind == "drawn":
        return ids.tobytes(), len(ids)
    assert targets.tail_log_mass is not None
    logs = np.concatenate([targets.log_probs, targets.tail_log_mass[:, None]], axis=1).astype("<f2")
    rows = np.concatenate([ids.view(np.uint8).reshape(len(ids), -1), logs.view(np.uint8).reshape(len(ids), -1)], axis=1)
    return rows.tobytes(), len(ids)


def _unpacked(payload: bytes, num_rows: int, header: TargetsHeader) -> Targets:
    width = header.width
    if header.kind == "labels":
        return np.frombuffer(payload, "<f2").astype(np.float32)
    raw = np.frombuffer(payload, np.uint8).reshape(num_rows, -1)
    ids = np.ascontiguousarray(raw[:, : 4 * width]).view("<u4").astype(np.int32).reshape(num_rows, width)
    if header.kind == "drawn":
        return SparseTargets(ids, np.full(ids.shape, -np.log(width), np.float32))
    logs = np.ascontiguousarray(raw[:, 4 * width :]).view("<f2").astype(np.float32).reshape(num_rows, width + 1)
    return SparseTargets(ids, logs[:, :width], logs[:, width])
