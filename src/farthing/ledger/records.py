"""A Row as the database has it and as JSON, and Entry: what is to be written once, now or when the database is back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from farthing.ledger.row import Row

__all__ = ["COLUMNS", "Entry", "Settlement", "row_document", "row_from_document", "row_from_values", "row_values"]

COLUMNS = tuple(field.name for field in fields(Row))
_TEXTS = [number for number, field in enumerate(fields(Row)) if field.type not in (int, bool, int | None)]
_TAGS, _IS_STREAM = COLUMNS.index("tags"), COLUMNS.index("is_stream")


@dataclass(frozen=True, slots=True)
class Settlement:
    """What ends a reservation: the amount that each of its budgets is charged, in its unit."""

    reservation_id: str
    charges: tuple[tuple[str, int], ...]  # (budget_id, amount)
    event: Literal["settle", "release"] = "settle"


@dataclass(frozen=True, slots=True)
class Entry:
    """Written in one transaction, and once: a second writing of the same row changes nothing."""

    row: Row | None
    settlement: Settlement | None = None

    def document(self) -> dict[str, Any]:
        ended = self.settlement
        return {
            "row": None if self.row is None else row_document(self.row),
            "settlement": None if ended is None else [ended.reservation_id, ended.charges, ended.event],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Entry":
        row, ended = document["row"], document["settlement"]
        charges = None if ended is None else tuple((str(name), int(amount)) for name, amount in ended[1])
        return cls(
            None if row is None else row_from_document(row),
            None if charges is None else Settlement(ended[0], charges, ended[2]),
        )


def row_values(row: Row) -> list[Any]:
    """In the order of COLUMNS."""
    values = [getattr(row, name) for name in COLUMNS]
    values[_TAGS] = json.dumps(row.tags, ensure_ascii=False)
    for number in _TEXTS:
        text = values[number]
        if text is not None and not (text.isascii() and "\0" not in text):
            values[number] = _storable(text)
    values[_IS_STREAM] = int(row.is_stream)
    return values


def _storable(text: str) -> str:
    """A client may send lone surrogates and NUL, which no database takes; a row is not lost for that."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def row_from_values(values: Sequence[Any]) -> Row:
    given = list(values)
    given[_TAGS] = tuple(json.loads(given[_TAGS]))
    given[_IS_STREAM] = bool(given[_IS_STREAM])
    return Row(*given)


def row_document(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS}


def row_from_document(document: Mapping[str, Any]) -> Row:
    return Row(**{**document, "tags": tuple(document["tags"])})
