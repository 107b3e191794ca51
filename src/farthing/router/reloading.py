"""A router's file that changes while the server runs: looked at now and then, opened beside, put in its place whole.

The file may be a slot (models/slot.py): then it is the `router.safetensors` of the version that is served. One that
cannot be opened is told once and tried again now and then; the decider before it goes on meanwhile.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

from farthing.errors import FarthingError
from farthing.models.slot import look, version_of
from farthing.router.config import RouterConfig
from farthing.router.deciding import Choice, Decider, Verdict, make_decider
from farthing.router.drafting import Draft
from farthing.router.drift import Drift
from farthing.router.question import Question

__all__ = ["ROUTER_FILE", "ReloadingDecider", "router_path", "watched_decider"]

ROUTER_FILE = "router.safetensors"
EVERY_S = 1.0
RETRY_S = 30.0
log = logging.getLogger("farthing.router")


def router_path(path: Path) -> Path | None:
    """The file behind a configuration's `file`; None for a slot that has no version yet. Raises as `version_of`."""
    if not path.is_dir():
        return path
    version = version_of(path)
    return None if version is None else version / ROUTER_FILE


def _stamp(path: Path) -> object:
    """Differs when there is something else to open."""
    try:
        return look(path).key
    except FarthingError as error:
        return str(error)


def watched_decider(
    config: RouterConfig, are_local: Sequence[bool], first_model: str, clock_s: Callable[[], float]
) -> Decider:
    """As make_decider; where there is a file, what it becomes is taken too."""
    if config.file is None:
        return make_decider(config, are_local, first_model)

    def opened(path: Path) -> Decider:
        return make_decider(replace(config, file=path), are_local, first_model)

    return ReloadingDecider(config.file, opened, len(are_local), clock_s)


class ReloadingDecider:
    """`opened` makes the decider of a file; raises FarthingError for one that does not do.

    Raises FarthingError where the first one cannot be opened. A slot without a version sends everything to the
    dearest of `num_members`: nothing has been learned yet.
    """

    def __init__(
        self,
        path: Path,
        opened: Callable[[Path], Decider],
        num_members: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._opened, self._num_members, self._clock_s = path, opened, num_members, clock_s
        self._stamp = _stamp(path)
        self._looked_s = clock_s()
        self._opening: Thread | None = None
        self._retry_s: float | None = None  # when what could not be opened is tried again; None: all is well
        self._trouble = ""  # that was told
        self._decider = self._open()
        self.num_refused = 0  # what could not be opened: once for each file and trouble

    def choose(self, question: Question) -> Choice:
        self._look()
        if self._decider is None:
            return Choice(self._num_members - 1, "router: nothing learned yet")
        return self._decider.choose(question)

    def checks(self, member: int) -> bool:
        return self._decider is not None and self._decider.checks(member)

    @property
    def wants_hidden(self) -> bool:
        return self._decider is not None and self._decider.wants_hidden

    def judge(self, question: Question, draft: Draft, samples: Sequence[str], member: int = 0) -> Verdict:
        assert self._decider is not None, "a decider never goes away once it is there"
        return self._decider.judge(question, draft, samples, member)

    def drift(self) -> Drift | None:
        return None if self._decider is None else self._decider.drift()

    def _look(self) -> None:
        """One stat a second; what is new is opened in a thread, for the loop that calls us waits for nothing."""
        now_s = self._clock_s()
        if now_s - self._looked_s < EVERY_S or (self._opening is not None and self._opening.is_alive()):
            return
        self._looked_s = now_s
        found = _stamp(self._path)
        is_new = found != self._stamp
        if is_new:
            self._stamp, self._trouble = found, ""
        if is_new or (self._retry_s is not None and now_s >= self._retry_s):
            self._retry_s = now_s + RETRY_S
            self._opening = Thread(target=self._replace, name="router-file", daemon=True)
            self._opening.start()

    def _replace(self) -> None:
        try:
            found = self._open()
        except Exception as error:  # no memory, no more open files: whatever it is, the next try may do
            what = str(error) if isinstance(error, FarthingError) else f"{type(error).__name__}: {error}"
            if what != self._trouble:
                self._trouble, self.num_refused = what, self.num_refused + 1
                log.warning("the router stays as it was: %s", what)
            return
        self._retry_s = None
        if found is not None:  # a slot that lost its `current` goes on with what it had
            self._decider = found
            log.info("router: %s", router_path(self._path))

    def _open(self) -> Decider | None:
        found = router_path(self._path)
        return None if found is None else self._opened(found)
