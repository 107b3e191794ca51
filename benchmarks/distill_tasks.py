"""BANKING77 and CLINC150 as rows to distil on: their training rows teach, but for a twelfth of them, chosen by a hash
of the text, which says when to stop and where thresholds lie; their test rows are measured on. Rows that ask what a
test row asks (but for case and punctuation; 25 of BANKING77's) are left out of both.

CLINC150's rows that belong to no intent are a 151st label, "oos": 100 of them teach. Measured on are the 4,500 rows
that have an intent, as the field does it; of "clinc150-oos", the same models, 1,000 of no intent too. As a task of
texts its answers are JSON, and rows of no intent are left out.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from farthing.distill.data import Data, Example
from farthing.distill.split import text_key
from farthing.request import Message

__all__ = ["TASKS", "TEXT_TASK", "load_task", "load_text_task"]

TASKS = ("banking77", "clinc150", "clinc150-oos")
OUT_OF_SCOPE = "oos"
TEXT_TASK = "clinc150-json"
CHOSEN_SHARE = 0.08
CHOSEN_TEXTS = 256  # rows that choose where answers are written: each takes as long as several labels
SYSTEM = "Intent as JSON"


def load_text_task(folder: Path) -> Data:
    domains: dict[str, list[str]] = json.loads((folder / "clinc150" / "domains.json").read_text(encoding="utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    data = load_task(folder, "clinc150")

    def written(rows: Sequence[Example]) -> tuple[Example, ...]:
        """In an order that is random, and the same for the same rows."""
        kept = [row for row in rows if row.answer in domain_of]
        kept.sort(key=lambda row: blake2b(row.text.encode(), digest_size=8).digest())
        system = Message("system", SYSTEM)
        return tuple(
            replace(
                row,
                messages=(system, *row.messages),
                answer=json.dumps({"intent": row.answer, "domain": domain_of[row.answer]}),
            )
            for row in kept
        )

    chosen_on = written(data.validation)[:CHOSEN_TEXTS]
    return Data(written(data.train), chosen_on, written(data.held_out), labels=None, dropped=data.dropped)


def load_task(folder: Path, name: str) -> Data:
    given, test = _banking(folder / name) if name == "banking77" else _clinc(folder / "clinc150")
    asked = {text_key(text) for text, _ in test}
    if name == "clinc150":
        test = [row for row in test if row[1] != OUT_OF_SCOPE]
    learn = [row for row in given if text_key(row[0]) not in asked]
    train = [row for row in learn if not _chooses(row[0])]
    validation = [row for row in learn if _chooses(row[0])]
    labels = tuple(sorted({label for _, label in given}))
    dropped = {"asked in the test rows too": len(given) - len(learn)}
    parts = [_examples(name.removesuffix("-oos"), part, rows) for part, rows in
             (("train", train), ("validation", validation), ("test", test))]  # fmt: skip
    return Data(*parts, labels=labels, dropped=dropped)


def _chooses(text: str) -> bool:
    digest = blake2b(" ".join(text.lower().split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < CHOSEN_SHARE


def _examples(task: str, part: str, rows: Sequence[tuple[str, str]]) -> tuple[Example, ...]:
    return tuple(
        Example(f"{part} {number}", (Message("user", text),), label, f"{task}:{part}:{number}")
        for number, (text, label) in enumerate(rows)
    )


def _banking(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    def rows(part: str) -> list[tuple[str, str]]:
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as lines:
            return [(row["text"], row["category"]) for row in csv.DictReader(lines)]

    return rows("train"), rows("test")


def _clinc(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    whole = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))

    def rows(part: str) -> list[tuple[str, str]]:
        return [(text, label) for text, label in whole[part] + whole[f"oos_{part}"]]

    return rows("train"), rows("test")
