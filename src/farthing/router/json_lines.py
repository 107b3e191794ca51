"""Files of JSON Lines: read whole, and every line that cannot be used told at once."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from farthing.errors import InvalidRequest

__all__ = ["json_object", "read_json_lines"]

T = TypeVar("T")
MAX_TOLD = 5  # bad lines in one error


def read_json_lines(path: Path, of_line: Callable[[int, str], T], what: str, limit: int | None = None) -> list[T]:
    """of_line(number, line) of the first `limit` lines that are not blank; it raises InvalidRequest for a line that it
    cannot use. what: how a line looks, for a file without any.

    Raises InvalidRequest for a file that cannot be read, and one that names the bad lines.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror}); give a file of JSON Lines") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path}: not UTF-8 text (byte {error.start}); give JSON in UTF-8") from None
    found: list[T] = []
    bad: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or (limit is not None and len(found) + len(bad) >= limit):
            continue
        try:
            found.append(of_line(number, line))
        except InvalidRequest as error:
            bad.append(f"line {number}: {error}")
    if bad:
        more = f" (and {len(bad) - MAX_TOLD} more)" if len(bad) > MAX_TOLD else ""
        raise InvalidRequest(f"{path}: {'; '.join(bad[:MAX_TOLD])}{more}")
    if not found:
        raise InvalidRequest(f"{path}: no row in it; {what}")
    return found


def json_object(line: str, *, has_decimals: bool = False) -> dict[str, Any]:
    """A line's object. has_decimals: numbers with a point as Decimal. Raises InvalidRequest."""
    try:
        row = json.loads(line, parse_float=Decimal if has_decimals else None)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not JSON ({str(error)[:80]})") from None
    if not isinstance(row, dict):
        raise InvalidRequest(f"{type(row).__name__} instead of an object")
    return row
