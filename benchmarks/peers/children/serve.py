"""What a measured engine's process does: answers requests for speeds, JSON lines both ways.

Standard library only: each engine has its own Python. Asked {"rows": {name: [kind, batch, context, is_shared]}}, it
answers {"speeds": {name: tokens per second}, "errors": {name: why a row could not be measured}}. stdout is the engine's
to print on, so answers go to the file descriptor that was stdout when the process began.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Protocol

STEPS = 32  # a decode is measured over as many steps after the token that the prompt gives
MIN_S = 0.5  # a row is repeated for as long
VOCAB_SIZE = 49152
PR_SET_PDEATHSIG = 1

Times = tuple[float, float]  # seconds until the first token, seconds of the steps after it


class Engine(Protocol):
    def speed(self, kind: str, batch: int, context: int, is_shared: bool) -> float:
        """Tokens per second of one prompt, or of the steps that follow the prompts of `batch` sequences."""


class Generating:
    """An engine that generates, greedily and heeding no end token: prompts first, then a step for all at a time."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, ...]] = set()
        self._number = count(1)

    def run(self, prompts: list[list[int]], steps: int, is_shared: bool) -> Times:
        """is_shared: the prompts are the same; what can be shared may be."""
        raise NotImplementedError

    def speed(self, kind: str, batch: int, context: int, is_shared: bool) -> float:
        """All tokens by all seconds. A row's first run is not counted: it allocates, and some engines compile."""
        steps = 0 if kind == "prefill" else STEPS
        work = (batch, max(context, 1), is_shared)
        if work in self._seen:
            self.run(self.prompts(1, 32, False), 4, False)  # other engines had the caches meanwhile
        else:
            self.run(self.prompts(*work), 2, is_shared)
            self._seen.add(work)
        num_tokens, seconds = 0, 0.0
        while seconds < MIN_S:
            first, rest = self.run(self.prompts(*work), steps, is_shared)
            num_tokens += batch * steps or context
            seconds += rest if steps else first
        return num_tokens / seconds

    def prompts(self, batch: int, context: int, is_shared: bool) -> list[list[int]]:
        """No two alike unless shared, so that nothing is found in a cache that should be computed."""
        numbers = [next(self._number)] * batch if is_shared else [next(self._number) for _ in range(batch)]
        return [[100 + (i * 7919 + n * 104729) % (VOCAB_SIZE - 100) for i in range(context)] for n in numbers]


def serve(load: Callable[[], Engine]) -> None:
    """Answers until stdin ends. It may be stopped when its parent is killed, and would stay so for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        speeds: dict[str, float] = {}
        errors: dict[str, str] = {}
        for name, work in json.loads(line)["rows"].items():
            try:
                engine = engine or load()
                speeds[name] = engine.speed(*work)
            except Exception as error:  # whatever an engine raises is the reason why it is not measured
                errors[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(json.dumps({"speeds": speeds, "errors": errors}), file=out, flush=True)
