"""Usage that others recorded: OpenAI's usage export, LiteLLM's spend logs. Which it is, the fields tell.

A file is CSV (commas or tabs), JSON or JSON Lines. CSV and JSON Lines are read line by line; a JSON document is read
whole, as JSON must be. What cannot be understood is named (where, and what is wrong) and counted, never dropped.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from farthing.errors import InvalidRequest

__all__ = ["BadRow", "Imported", "Source", "Use", "read_usage"]

Source = Literal["openai", "litellm"]
MAX_FIELD_CHARS = 1 << 24
MAX_NAMED = 100  # bad rows that are kept by name; all are counted


@dataclass(frozen=True, slots=True)
class Use:
    """Tokens of one request (num_requests 1) or of many together, as the file says. cache tokens are part of input."""

    model: str
    provider: str | None
    day: str  # UTC, YYYY-MM-DD; "" where the file does not say
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    num_requests: int
    is_batch: bool = False
    is_hit: bool = False  # answered from the gateway's own cache
    is_aggregated: bool = False  # tokens of several requests may be in it: price tiers cannot be told
    spend_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In the place of a row that is no row."""

    why: str


class BadRow(Exception):
    """What is wrong with one row."""


@dataclass
class Imported:
    source: Source
    num_rows: int = 0
    num_empty: int = 0  # OpenAI writes a row without a model for a day without usage
    num_bad: int = 0
    bad: list[str] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)


def read_usage(path: Path) -> tuple[Imported, Iterator[Use]]:
    """What the file is, and its rows; counts are complete when the rows have been read.

    Raises InvalidRequest for a file that cannot be read or is neither format.
    """
    from farthing.report.bill_import_litellm import litellm_use
    from farthing.report.bill_import_openai import flatten, openai_use

    records = _records(path)
    begun: list[tuple[str, Any]] = []
    source: Source | None = None
    while source is None and len(begun) < MAX_NAMED and (record := next(records, None)) is not None:
        begun.append(record)
        source = _source(record[1])
    if source is None:
        raise _neither(begun, path)
    told = Imported(source)
    all_records: Iterator[tuple[str, Any]] = chain(begun, records)
    if source == "openai":
        all_records = flatten(all_records)
    read = openai_use if source == "openai" else litellm_use
    return told, _uses(path, all_records, read, told)


def _uses(path: Path, records: Iterable[tuple[str, Any]], read: Any, told: Imported) -> Iterator[Use]:
    for where, record in records:
        told.num_rows += 1
        try:
            if isinstance(record, Unreadable):
                raise BadRow(record.why)
            if not isinstance(record, Mapping):
                raise BadRow(f"it is {type(record).__name__}, not a row with fields")
            use = read(record, told.notes)
        except BadRow as error:
            told.num_bad += 1
            if len(told.bad) < MAX_NAMED:
                told.bad.append(f"{path.name}, {where}: {error}")
            continue
        if use is None:
            told.num_empty += 1
        else:
            yield use


def _source(record: Any) -> Source | None:
    fields = set(record) if isinstance(record, Mapping) else set()
    if fields & {"results", "result", "num_model_requests", "n_context_tokens_total", "snapshot_id"}:
        return "openai"
    if {"spend", "model"} <= fields and fields & {"prompt_tokens", "request_id", "startTime"}:
        return "litellm"
    return None


def _neither(records: list[tuple[str, Any]], path: Path) -> InvalidRequest:
    if not records:
        return InvalidRequest(f"{path}: there is no row in it; give OpenAI's usage export or LiteLLM's spend logs")
    first = records[0][1]
    known = ", ".join(sorted(map(str, first))[:8]) if isinstance(first, Mapping) else "no fields"
    return InvalidRequest(
        f"{path}: neither OpenAI's usage export (num_model_requests, input_tokens, …) nor LiteLLM's spend logs "
        f"(request_id, spend, prompt_tokens, …); its first row has {known}"
    )


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, record): the rows of a CSV, the lines of JSON Lines, the entries of a JSON document or its pages."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(MAX_FIELD_CHARS)  # a prompt may stand in a row
            start = file.read(4096)
            file.seek(0)
            if start.lstrip()[:1] in ("{", "["):
                yield from _json_records(file.read() if not _is_lines(start) else file, path)
            else:
                yield from _csv_records(file, start)
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path}: not UTF-8 text; give a CSV or JSON file") from None


def _is_lines(start: str) -> bool:
    """Whether the first line is a whole JSON object that is no page of others: JSON Lines."""
    line = start.lstrip().split("\n", 1)[0].strip()
    if not line.startswith("{"):
        return False
    try:
        return "data" not in json.loads(line)
    except ValueError:
        # Cut by what was read so far: a long object; a document's first line is only a bracket and a little more.
        return "\n" not in start.lstrip() and '"data"' not in line


def _csv_records(file: Iterable[str], start: str) -> Iterator[tuple[str, Any]]:
    header = start.split("\n", 1)[0]
    reader = csv.DictReader(file, delimiter="\t" if "\t" in header else ",", strict=True)
    try:
        for record in reader:
            where = f"line {reader.line_num}"
            if None in record or None in record.values():
                yield where, Unreadable(f"it has not the header's {len(reader.fieldnames or ())} fields")
            else:
                yield where, {str(key).strip(): value for key, value in record.items()}
    except csv.Error as error:
        yield f"line {reader.line_num}", Unreadable(f"not valid CSV from here on ({error})")


def _json_records(given: "str | Iterable[str]", path: Path) -> Iterator[tuple[str, Any]]:
    if not isinstance(given, str):
        for number, line in enumerate(given, 1):
            if line.strip():
                yield f"line {number}", _parsed(line)
        return
    documents = _documents(given, path)
    number = 0
    for document in documents:
        pages = document if isinstance(document, list) else [document]
        for page in pages:
            is_page = isinstance(page, dict) and isinstance(page.get("data"), list)
            for record in page["data"] if is_page else [page]:
                number += 1
                yield f"entry {number}", record


def _documents(text: str, path: Path) -> Iterator[Any]:
    """One JSON document, or several one after the other (pages that were saved to one file)."""
    decoder, blank, at = json.JSONDecoder(parse_float=Decimal), re.compile(r"\s*"), 0
    while (at := blank.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        try:
            document, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{path}: not valid JSON ({error})") from None
        yield document


def _parsed(line: str) -> Any:
    try:
        return json.loads(line, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not valid JSON ({error})")
