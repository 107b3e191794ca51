"""What a slot remembers between runs, and what a run has done so far: files, each written whole.

SLOT/state.json           until when traffic was collected, labels, the large model's price
SLOT/rows.jsonl           rows that taught versions which were promoted
SLOT/waiting.jsonl        rows of runs that came to nothing: they are collected again
SLOT/refused/0004.jsonl   rows of a run that teach nothing any more
SLOT/runs/0004/           a run that has not ended: batch.json, doubt.json, training/, candidate/, event.json
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from farthing.distill.learn_collect import Batch, Spent
from farthing.distill.learn_doubt import Doubt
from farthing.distill.learn_rows import Answered, merged, read_rows, write_rows
from farthing.errors import CorruptModel, InvalidRequest
from farthing.report.learn_history import Event, event_from, read_history
from farthing.report.whole_file import whole_file

__all__ = ["Memory", "Run", "State"]


@dataclass(frozen=True)
class State:
    run: int = 0  # the last that ended
    until_us: int = 0  # traffic before that was collected
    labels: tuple[str, ...] = ()
    large_pico: int | None = None  # of an answer of the large model, when it was last seen
    priced_since_us: int = 0  # requests from then on say what a version would cost
    held_out: float | None = None  # the least share that a version which was promoted was not taught; None: none was


class Memory:
    """Of one slot, between runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self) -> State:
        found = _read(self.folder / "state.json")
        return State() if found is None else _made(State, found, self.folder / "state.json")

    def rows(self) -> list[Answered]:
        return read_rows(self.folder / "rows.jsonl")

    def waiting(self) -> list[Answered]:
        return read_rows(self.folder / "waiting.jsonl")

    def labels(self, batch: Batch) -> tuple[str, ...]:
        """That versions have had, and those of a batch."""
        return tuple(dict.fromkeys((*self.state().labels, *batch.labels)))

    def write_state(self, state: State) -> None:
        _write(self.folder / "state.json", asdict(state))

    def write_rows(self, rows: Sequence[Answered]) -> None:
        write_rows(self.folder / "rows.jsonl", rows)

    def write_waiting(self, rows: Sequence[Answered]) -> None:
        write_rows(self.folder / "waiting.jsonl", rows)

    def set_aside(self, run: int, rows: Sequence[Answered]) -> None:
        """Beside what that run has set aside before."""
        if rows:
            path = self.folder / "refused" / f"{run:04}.jsonl"
            path.parent.mkdir(exist_ok=True)
            write_rows(path, merged(read_rows(path), rows))

    def forget(self) -> int:
        """Deletes every text; how many there were. Versions stay. Raises InvalidRequest where one cannot be deleted."""
        num_rows = len(self.rows()) + len(self.waiting())
        try:
            for name in ("rows.jsonl", "waiting.jsonl"):
                for path in (self.folder / name, *self.folder.glob(f".{name}.*")):  # a killed run leaves such
                    path.unlink(missing_ok=True)
            for name in ("refused", "runs"):
                if (self.folder / name).exists():
                    shutil.rmtree(self.folder / name)
        except OSError as error:
            raise InvalidRequest(f"{error.filename}: cannot be deleted ({error.strerror}); its texts stay") from None
        return num_rows

    def open_run(self) -> "Run | None":
        """The run that was begun and has not ended."""
        state, runs = self.state(), self.folder / "runs"
        for path in sorted(runs.iterdir()) if runs.is_dir() else []:
            if path.name.isdigit() and int(path.name) > state.run and (path / "batch.json").is_file():
                return Run(path)
            shutil.rmtree(path, ignore_errors=True)  # it ended, or never began
        return None

    def new_run(self, batch: Batch) -> "Run":
        """Its number is a new one also where runs, or their folders, were deleted before they had ended."""
        versions = self.folder / "versions"
        there = [int(path.name) for path in versions.iterdir() if path.name.isdecimal()] if versions.is_dir() else []
        number = 1 + max([self.state().run, *there, *(event.run for event in read_history(self.folder))])
        path = self.folder / "runs" / f"{number:04}"
        path.mkdir(parents=True, exist_ok=True)
        _write(path / "batch.json", asdict(batch))
        return Run(path)


class Run:
    """One run: what its stages have found so far. None: that stage has not ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = int(folder.name)
        self.candidate, self.training = folder / "candidate", folder / "training"

    def batch(self) -> Batch:
        path = self.folder / "batch.json"
        batch: Batch = _made(Batch, _read(path) or {}, path)
        rows = tuple(_made(Answered, row, path) for row in batch.rows)
        spent: Spent = _made(Spent, batch.spent, path)
        return replace(batch, rows=rows, spent=spent)

    def doubt(self) -> Doubt | None:
        path = self.folder / "doubt.json"
        found = _read(path)
        return None if found is None else _made(Doubt, found, path)

    def write_doubt(self, doubt: Doubt) -> None:
        _write(self.folder / "doubt.json", asdict(doubt))

    def event(self) -> Event | None:
        path = self.folder / "event.json"
        found = _read(path)
        try:
            return None if found is None else event_from(found)
        except (ValueError, TypeError, KeyError):
            raise CorruptModel(f"{path}: not written by this farthing; delete {self.folder}") from None

    def write_event(self, event: Event) -> None:
        _write(self.folder / "event.json", asdict(event))

    def delete(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise CorruptModel(f"{path}: not JSON; it was not written by farthing") from None
    if not isinstance(found, dict):
        raise CorruptModel(f"{path}: no JSON object; it was not written by farthing")
    return found


def _write(path: Path, document: Mapping[str, Any]) -> None:
    with whole_file(path, "slot") as out:
        json.dump(document, out, ensure_ascii=False, indent=1)


def _made(kind: Any, found: Any, path: Path) -> Any:
    """A dataclass from what asdict made of it; lists become tuples."""
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})
    except (TypeError, AttributeError):
        raise CorruptModel(f"{path}: not written by this farthing; delete {path.parent}") from None
