"""Reads traces of real traffic: when a request came, how long it and its answer were, and what of it was seen before.

Mooncake (JSON Lines)   {"timestamp": 0, "input_length": 1100, "output_length": 50, "hash_ids": [0, 7, 8]}
                        an id stands for 512 tokens and all that came before them, so equal ids are equal prefixes
Azure (CSV)             TIMESTAMP,ContextTokens,GeneratedTokens
                        says nothing of what the tokens were, so nothing can be found again

Either may be gzipped; which one it is follows from its first line.
"""

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest

__all__ = ["BLOCK_SIZE", "Trace", "TraceRequest", "read_trace"]

BLOCK_SIZE = 512  # tokens that a hash id of Mooncake's stands for
MAX_LENGTH = 10_000_000  # tokens of a prompt, or an answer: what is longer is a slip of the pen
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
FORMATS = "give Mooncake's JSON Lines or Azure's CSV, as they are or gzipped"


@dataclass(frozen=True)
class TraceRequest:
    """Blocks are numbered from 0 in the order in which they first appear; the last one may be only partly filled.
    Tokens behind the last block are like no other request's."""

    timestamp_s: float
    input_length: int
    output_length: int
    blocks: npt.NDArray[np.int32]  # [num_blocks]


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their timestamps; of those with the same one, in the file's."""

    name: str
    format: str
    requests: tuple[TraceRequest, ...]
    num_blocks: int  # different ones

    @property
    def input_tokens(self) -> int:
        return sum(request.input_length for request in self.requests)

    @property
    def output_tokens(self) -> int:
        return sum(request.output_length for request in self.requests)


def read_trace(path: Path) -> Trace:
    """Raises InvalidRequest for a file that is no trace, naming the line."""
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise InvalidRequest(f"{path}: no request in it; {FORMATS}")
    if first.lstrip().startswith("{"):
        numbers: dict[int, int] = {}
        requests, format = _mooncake(str(path), lines, numbers), "mooncake"
    elif "TIMESTAMP" in first:
        numbers, format = {}, "azure"
        requests = _azure(str(path), lines)
    else:
        raise InvalidRequest(f"{path}, line {lines.index(first) + 1}: neither a JSON object nor a header; {FORMATS}")
    if not requests:
        raise InvalidRequest(f"{path}: a header and no request below it; {FORMATS}")
    requests.sort(key=lambda request: request.timestamp_s)
    return Trace(path.name, format, tuple(requests), len(numbers))


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidRequest(f"{path}, line {line}: not UTF-8 text; {FORMATS}") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InvalidRequest(f"{path}: begins like a gzip file and is damaged ({error}); fetch it again") from None
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror}); {FORMATS}") from None


def _mooncake(name: str, lines: Iterable[str], numbers: dict[int, int]) -> list[TraceRequest]:
    """`numbers` is filled: hash id -> number of its block."""
    requests = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{where}: not JSON ({error}); each line is one object") from None
        if not isinstance(row, dict):
            raise InvalidRequest(f"{where}: not a JSON object; each line is one, with timestamp and the other fields")
        ids = _field(where, row, "hash_ids", _is_ids, "a list of integers")
        request = TraceRequest(
            timestamp_s=_field(where, row, "timestamp", _is_time, "milliseconds, 0 or more") / 1000,
            input_length=_field(where, row, "input_length", _is_length, f"an integer, 0 to {MAX_LENGTH:,}"),
            output_length=_field(where, row, "output_length", _is_length, f"an integer, 0 to {MAX_LENGTH:,}"),
            blocks=np.array([numbers.setdefault(id, len(numbers)) for id in ids], np.int32),
        )
        least, most = request.input_length // BLOCK_SIZE, -(-request.input_length // BLOCK_SIZE)
        if not least <= len(ids) <= most:
            allowed = f"{most}" if least == most else f"{most} (or {least}, without the one that is not complete)"
            raise InvalidRequest(
                f"{where}: {len(ids)} hash_ids; an input_length of {request.input_length} is {allowed} of "
                f"{BLOCK_SIZE} tokens: correct one of the two"
            )
        requests.append(request)
    return requests


def _field(where: str, row: dict[str, Any], name: str, is_valid: Callable[[Any], bool], allowed: str) -> Any:
    if name not in row:
        raise InvalidRequest(f"{where}: no field {name!r}; each line needs it: {allowed}")
    if not is_valid(row[name]):
        raise InvalidRequest(f"{where}: {name} is {str(row[name])[:40]!r}; allowed: {allowed}")
    return row[name]


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_LENGTH


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(id) is int for id in value)


def _azure(name: str, lines: list[str]) -> list[TraceRequest]:
    columns: list[int] | None = None
    requests = []
    nothing = np.zeros(0, np.int32)  # [0]
    rows = csv.reader(lines)
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        where = f"{name}, line {rows.line_num}"
        cells = [cell.strip() for cell in row]
        if columns is None:
            missing = [column for column in AZURE_COLUMNS if column not in cells]
            if missing:
                raise InvalidRequest(f"{where}: no column {missing[0]}; the header is {','.join(AZURE_COLUMNS)}")
            columns, width = [cells.index(column) for column in AZURE_COLUMNS], len(cells)
            continue
        if len(cells) != width:
            raise InvalidRequest(f"{where}: {len(cells)} values; the header names {width} columns")
        time, input_length, output_length = (cells[column] for column in columns)
        lengths = [_length(where, *pair) for pair in zip(AZURE_COLUMNS[1:], (input_length, output_length), strict=True)]
        requests.append(TraceRequest(_seconds(where, time), lengths[0], lengths[1], nothing))
    return requests


def _length(where: str, column: str, text: str) -> int:
    length = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not _is_length(length):
        raise InvalidRequest(f"{where}: {column} is {text[:40]!r}; allowed: an integer, 0 to {MAX_LENGTH:,}")
    return length


def _seconds(where: str, text: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        allowed = "a time like 2023-11-16 18:17:03.9799600"
        raise InvalidRequest(f"{where}: TIMESTAMP is {text[:40]!r}; allowed: {allowed}") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
