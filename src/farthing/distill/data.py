"""What a student is taught and measured on: rows of task files, or stored traffic of a ledger.

Twice the same prompt counts once (its last answer; in a task of labels, where the last text of the user alone is read,
twice the same text does), prompts with personal data in them or in the answer are left out,
each row says where it is from, and which rows are held out is told by their content (split.py).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from farthing.distill.pii import personal_data
from farthing.distill.split import HELD_OUT_SHARE, chosen_on, held_out, text_key
from farthing.errors import InvalidRequest
from farthing.ledger.traffic import Traffic
from farthing.report.compare_match import find_choice, without_thoughts
from farthing.report.compare_task import TaskRow, read_task
from farthing.request import Message
from farthing.router.label import user_text

__all__ = ["Data", "Example", "TaskKind", "collected", "examples_of_task", "examples_of_traffic", "to_ask"]

TaskKind = Literal["labels", "text"]

MOST_LABELS = 2000
LONGEST_LABEL = 80  # letters
LEAST_PER_LABEL = 3  # rows, in the mean, where no choices are given: fewer are texts that happen to be alike
LEAST_ROWS = 8


@dataclass(frozen=True)
class Example:
    """One prompt and its answer. source: the file and line, or the ledger's request and the model that answered."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    source: str
    choices: tuple[str, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """The last thing the user said: what a classifier reads."""
        return next(message.content for message in reversed(self.messages) if message.role == "user")


Key = Callable[[Example], str]  # the same of rows that are one


@dataclass(frozen=True)
class Data:
    """train teaches, validation chooses (the best point, thresholds), held_out is measured on. labels: of a
    classification task; None where answers are free text. dropped: why rows were left out, and how many."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    held_out: tuple[Example, ...]
    labels: tuple[str, ...] | None
    dropped: Mapping[str, int]

    @property
    def digest(self) -> str:
        """Changes with any row, label or side; not with where the rows came from or in what order."""
        digest = sha256(repr(self.labels).encode())
        for part in (self.train, self.validation, self.held_out):
            rows = sorted(repr([*((m.role, m.content) for m in row.messages), row.answer]) for row in part)
            digest.update(repr(rows).encode("utf-8", "replace"))
        return digest.hexdigest()[:32]


def examples_of_task(path: Path, limit: int | None = None) -> list[Example]:
    """Rows as `farthing compare` reads them; of several right answers the first is taught. Raises InvalidRequest."""
    return [_of_row(row, path.name) for row in read_task(path, limit)]


def _of_row(row: TaskRow, file: str) -> Example:
    messages = tuple(_message(message, row.id, file) for message in row.body["messages"])
    if not any(message.role == "user" and message.content for message in messages):
        raise InvalidRequest(f"{file}: row {row.id}: no user message with text in it")
    return Example(row.id, messages, row.answers[0], f"{file}:{row.id}", row.choices)


def _message(message: Mapping[str, Any], id: str, file: str) -> Message:
    role, content = message["role"], message.get("content")
    text = content if isinstance(content, str) else user_text(message)
    if message.get("tool_calls") or role not in ("system", "user", "assistant"):
        raise InvalidRequest(f"{file}: row {id}: tools cannot be distilled; supported: system, user, assistant texts")
    return Message(role, text)


def examples_of_traffic(rows: Iterable[Traffic], model: str | None = None) -> list[Example]:
    """What a ledger stored, of one served model alone where it is named."""
    return [
        Example(
            row.request_id, (Message("user", row.prompt),), row.answer, f"ledger:{row.request_id}:{row.served_model}"
        )
        for row in rows
        if row.prompt and (model is None or row.served_model == model)
    ]


def to_ask(examples: Sequence[Example], test: Sequence[Example] = ()) -> tuple[list[Example], Counter[str]]:
    """The rows whose prompts somebody else may be asked, their own answers set aside: none that teach nothing, for what
    is in them or for being test rows. And why the others are not, with how many."""
    kept, dropped = _cleaned(examples, is_answered=False)
    return _others(kept, _cleaned(test, is_answered=False)[0], _conversation, dropped), +dropped


def collected(
    examples: Sequence[Example],
    *,
    test: Sequence[Example] = (),
    kind: TaskKind | None = None,
    share: float = HELD_OUT_SHARE,
    dropped: Mapping[str, int] | None = None,
) -> Data:
    """Cleaned and split. test: rows to measure on, instead of a share of the others; what they ask teaches nothing.
    kind None: labels where the answers are few, short and often the same, or choices are given. dropped: before.

    Raises InvalidRequest where too little is left to teach, to choose and to measure.
    """
    key: Key = _conversation
    kept, left_out = _cleaned(examples)
    measured, of_test = _cleaned(test)
    kept = _others(kept, measured, key, left_out)
    labels = _labels([*kept, *measured], kind)
    if labels is not None:
        key = _read
        kept = _last(_labelled(kept, labels, left_out), key, left_out)
        measured = _last(_labelled(measured, labels, of_test), key, of_test)
        kept = _others(kept, measured, key, left_out)
    left_out.update(dropped or {})
    left_out.update({f"of --test {why}": count for why, count in of_test.items()})
    if not test:
        is_measured = held_out([key(example) for example in kept], share)
        measured, kept = _parted(kept, is_measured)
    validation, train = _parted(kept, chosen_on([key(example) for example in kept], share))
    if len(train) < LEAST_ROWS or not measured or not validation:
        told = ", ".join(f"{count} {why}" for why, count in (+left_out).items()) or "none"
        raise InvalidRequest(
            f"{len(train)} rows to teach, {len(validation)} to choose by and {len(measured)} to measure on are too "
            f"few; give more of them (at least {LEAST_ROWS}, 1 and 1; left out: {told})"
        )
    train, validation, measured = (_ordered(part, key) for part in (train, validation, measured))
    return Data(tuple(train), tuple(validation), tuple(measured), labels, dict(+left_out))


def _ordered(examples: Sequence[Example], key: Key) -> list[Example]:
    """In an order that is the rows' own and otherwise random: the same rows are the same lesson, however they came."""
    return sorted(examples, key=lambda example: sha256(key(example).encode("utf-8", "replace")).digest())


def _parted(examples: Sequence[Example], is_first: NDArray[np.bool_]) -> tuple[list[Example], list[Example]]:
    rows = list(zip(examples, is_first, strict=True))
    return [example for example, first in rows if first], [example for example, first in rows if not first]


def _conversation(example: Example) -> str:
    """All that was said: what a model that writes reads."""
    return text_key("\n".join(message.content for message in example.messages))


def _read(example: Example) -> str:
    """What a classifier reads."""
    return text_key(example.text)


def _cleaned(examples: Sequence[Example], *, is_answered: bool = True) -> tuple[list[Example], Counter[str]]:
    """Without empty rows, personal data, and all but the last of the same prompt, in order. Not is_answered: whatever
    the answers are."""
    dropped: Counter[str] = Counter()
    found = []
    for example in examples:
        answer = without_thoughts(example.answer).strip()
        if not example.text.strip() or (is_answered and not answer):
            dropped["without text"] += 1
        elif any(personal_data(message.content) for message in example.messages) or (
            is_answered and personal_data(answer)
        ):
            dropped["with personal data"] += 1
        else:
            found.append(replace(example, answer=answer))
    return _last(found, _conversation, dropped), dropped


def _last(examples: Sequence[Example], key: Key, dropped: Counter[str]) -> list[Example]:
    """Of rows that are one the last."""
    last: dict[str, Example] = {}
    for example in examples:
        dropped["said again"] += last.pop(key(example), None) is not None
        last[key(example)] = example
    return list(last.values())


def _others(examples: Sequence[Example], measured: Sequence[Example], key: Key, dropped: Counter[str]) -> list[Example]:
    """Those that the measured rows do not ask."""
    asked = {key(example) for example in measured}
    kept = [example for example in examples if key(example) not in asked]
    dropped["asked in the test rows too"] += len(examples) - len(kept)
    return kept


def _labels(examples: Sequence[Example], kind: TaskKind | None) -> tuple[str, ...] | None:
    if kind == "text" or not examples:
        return None
    answers = {example.answer for example in examples}
    choices = {choice for example in examples for choice in example.choices}
    is_short = all(len(text) <= LONGEST_LABEL and "\n" not in text for text in answers)
    is_few = len(answers) <= MOST_LABELS and len(examples) >= LEAST_PER_LABEL * len(answers)
    if kind is None and not (choices or (is_short and is_few and len(answers) > 1)):
        return None
    labels = tuple(sorted(choices or answers))
    if not 2 <= len(labels) <= MOST_LABELS:
        raise InvalidRequest(f"a classification of {len(labels)} labels; allowed: 2 to {MOST_LABELS}")
    return labels


def _labelled(examples: Sequence[Example], labels: tuple[str, ...], dropped: Counter[str]) -> list[Example]:
    """With the label that each answer names in place of the answer; others are left out."""
    known = set(labels)
    kept = []
    for example in examples:
        label = example.answer if example.answer in known else find_choice(example.answer, labels)
        if label is None:
            dropped["whose answer names no label"] += 1
        else:
            kept.append(replace(example, answer=label))
    return kept
