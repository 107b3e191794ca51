"""Puts a version in service, and takes it back: SLOT/versions, SLOT/current, SLOT/history.jsonl, SLOT/lock.

Every step is a rename, or leaves things as they are when done again, so a kill at any moment leaves the old version
serving or the new one, and calling `promote` again ends what was begun.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farthing.errors import InvalidRequest
from farthing.models.slot import CURRENT, version_of
from farthing.report.learn_history import HISTORY, Event, add_event, read_history
from farthing.report.whole_file import whole_file

__all__ = ["Slot", "version_name"]

LOCK, VERSIONS = "lock", "versions"


def version_name(run: int) -> str:
    return f"{run:04}"


class Slot:
    """Raises InvalidRequest where its folder cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            (folder / VERSIONS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(
                f"slot {folder}: cannot be made ({error.strerror}); give a folder of its own"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time; the lock ends with the process that holds it. Raises InvalidRequest for a second one."""
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InvalidRequest(
                    f"slot {self.folder}: another farthing learn is at work there; wait until it has ended"
                ) from None
            yield

    @property
    def current(self) -> str | None:
        """The name of the version that serves; None: there is none yet."""
        found = version_of(self.folder)
        return None if found is None else found.name

    def version(self, name: str) -> Path:
        return self.folder / VERSIONS / name

    def history(self) -> list[Event]:
        return read_history(self.folder)

    def rolled_back(self) -> set[str]:
        """Versions that served once and were taken back."""
        return {event.replaced for event in self.history() if event.kind == "rolled back" and event.replaced}

    def promote(self, candidate: Path, event: Event, num_kept: int) -> None:
        """`candidate`, a folder on the same file system, becomes `event.version` and serves from now on. `num_kept`
        versions stay beside it, the newest and the one that it replaces."""
        assert event.kind == "promoted"
        assert event.version is not None
        target = self.version(event.version)
        if candidate.exists():
            _synced(candidate)
            if event.version != self.current:
                shutil.rmtree(target, ignore_errors=True)  # of a kill before it served, when its run was judged again
            os.replace(candidate, target)
        assert target.is_dir(), "a candidate is there until it is a version"
        self._serve(event.version)
        add_event(self.folder, event)
        self._prune({event.version, event.replaced}, num_kept)

    def rollback(self, run: int, at_us: int) -> Event:
        """The version that the present one replaced serves again. Raises InvalidRequest where there is none."""
        present = self.current
        if present is None:
            raise InvalidRequest(f"slot {self.folder}: no version serves yet, so there is nothing to roll back")
        event = next((e for e in reversed(self.history()) if e.kind == "promoted" and e.version == present), None)
        older = None if event is None else event.replaced
        if event is None or older is None or not self.version(older).is_dir():
            why = f"{older} is not kept any more" if older is not None else "it is the first one"
            if event is None:
                why = f"{HISTORY} does not say what it replaced"
            raise InvalidRequest(
                f"slot {self.folder}: nothing to roll back to from version {present}: {why}; to do without it, take its"
                " upstream out of the [[model]]"
            )
        self._serve(older)
        back = Event(run, at_us, "rolled back", event.model, older, present, event.after, event.before)
        add_event(self.folder, back)
        return back

    def _serve(self, name: str) -> None:
        with whole_file(self.folder / CURRENT, "slot") as out:
            out.write(f"{VERSIONS}/{name}\n")

    def _prune(self, needed: set[str | None], num_kept: int) -> None:
        found = sorted(path for path in (self.folder / VERSIONS).iterdir() if path.is_dir())
        others = [path for path in found if path.name not in needed]
        for path in others[: max(0, len(found) - 1 - num_kept)]:
            shutil.rmtree(path, ignore_errors=True)  # what a server has mapped stays until it lets go


def _synced(folder: Path) -> None:
    """On the disk before anything names it."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
