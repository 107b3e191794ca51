"""Rows of traffic, as the loop keeps them in its slot: JSON Lines, written whole or not at all."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from farthing.distill.split import text_key
from farthing.errors import CorruptModel
from farthing.report.whole_file import whole_file

__all__ = ["Answered", "Source", "merged", "read_rows", "write_rows"]

Source = Literal["escalated", "confirmed", "given"]


@dataclass(frozen=True)
class Answered:
    """source: escalated: the large model answered. confirmed: the small one, and who asked said that it was right.
    given: in the file of trusted rows. run: that it taught."""

    prompt: str
    answer: str  # a label
    source: Source
    request_id: str = ""
    at_us: int = 0
    run: int = 0


def read_rows(path: Path) -> list[Answered]:
    """Empty where there is no such file. Raises CorruptModel for one that we did not write."""
    try:
        text = path.read_text(encoding="utf-8")
        return [_row(json.loads(line)) for line in text.split("\n") if line]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptModel(f"{path}: no rows of farthing learn: {str(error)[:80]}") from None


def write_rows(path: Path, rows: Iterable[Answered]) -> None:
    with whole_file(path, "slot") as out:
        out.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def merged(*parts: Sequence[Answered]) -> list[Answered]:
    """Of several rows with the same text (split.text_key) the first."""
    found: dict[str, Answered] = {}
    for part in parts:
        for row in part:
            found.setdefault(text_key(row.prompt), row)
    return list(found.values())


def _row(found: dict[str, Any]) -> Answered:
    row = Answered(**found)
    if not isinstance(row.prompt, str) or not isinstance(row.answer, str):
        raise TypeError("a prompt and an answer are texts")
    if not isinstance(row.at_us, int) or not isinstance(row.run, int):
        raise TypeError("at_us and run are numbers")
    return row
