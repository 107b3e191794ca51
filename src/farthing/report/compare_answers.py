"""Every answer of a comparison, one JSON object a line: a stopped run goes on from it, and routers learn from it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from farthing.errors import InvalidRequest
from farthing.report.compare_match import find_choice, is_right, without_thoughts
from farthing.report.compare_task import TaskRow

__all__ = ["Answer", "AnswersFile", "answer_key", "judged"]


@dataclass(frozen=True)
class Answer:
    """A line. Money in pico-dollars; None is not known. is_right is None where an error came instead of an answer."""

    key: str  # of all that was asked, of whom and how
    id: str
    model: str  # as --models names it
    prompt: str
    answer: str
    is_right: bool | None
    error: str | None
    cost_pico: int | None
    latency_us: int
    input_tokens: int | None
    cache_read_tokens: int | None
    output_tokens: int | None
    logprob_mean: float | None = None  # of the answer's tokens, local models only
    logprob_least: float | None = None


def answer_key(model: str, body: Mapping[str, Any], max_tokens: int | None) -> str:
    """Changes with anything that is asked; not with what counts as right, which can be judged again for nothing."""
    text = json.dumps([model, body, max_tokens], sort_keys=True, ensure_ascii=True, default=str)
    return sha256(text.encode()).hexdigest()[:24]


def judged(answer: Answer, row: TaskRow) -> Answer:
    if answer.error is not None:
        return replace(answer, is_right=None)
    said = without_thoughts(answer.answer)
    if row.choices:
        return replace(answer, is_right=find_choice(said, row.choices) in row.answers)
    return replace(answer, is_right=is_right(said, row.answers, row.match))


class AnswersFile:
    """Appended to, a line at a time, each whole before the next; a line that a kill cut off is dropped when opened.

    Raises InvalidRequest for a file that holds anything else.
    """

    def __init__(self, path: Path) -> None:
        self.found: dict[str, Answer] = {}  # by key, the last one where there are several
        self._path = path
        try:
            self._out = path.open("a+b")
        except OSError as error:
            raise InvalidRequest(f"--out {path}: cannot be written ({error.strerror})") from None
        try:
            self._read()
        except BaseException:
            self._out.close()
            raise

    def add(self, answer: Answer) -> None:
        # ASCII: a lone surrogate in an answer is no UTF-8, but can be escaped.
        self._out.write(json.dumps(asdict(answer)).encode() + b"\n")
        self._out.flush()

    def close(self) -> None:
        self._out.close()

    def _read(self) -> None:
        if not self._path.is_file():
            return  # a pipe
        self._out.seek(0)
        whole = 0
        for number, line in enumerate(self._out, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            if line.strip():
                answer = self._answer(number, line)
                self.found[answer.key] = answer
        os.ftruncate(self._out.fileno(), whole)

    def _answer(self, number: int, line: bytes) -> Answer:
        try:
            value = json.loads(line)
            return Answer(**{field.name: value[field.name] for field in fields(Answer)})
        except (ValueError, KeyError, TypeError):
            raise InvalidRequest(
                f"--out {self._path}: line {number} is no answer of farthing compare; give a new file, or one it wrote"
            ) from None
