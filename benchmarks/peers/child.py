"""An engine in processes of its own, one per setting, stopped while others have their turn."""

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.works import Row

__all__ = ["Answer", "ChildEngine", "Engine"]

TIMEOUT_S = 900.0
CHILDREN = Path(__file__).parent / "children"


@dataclass(frozen=True)
class Answer:
    """Tokens per second by row's name, and why the others could not be measured."""

    speeds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


class Engine:
    """What is measured: farthing, or a peer. Its settings compete; `rows_of` says for which rows one is meant."""

    def __init__(self, name: str, version: str, settings: Sequence[str]) -> None:
        self.name, self.version, self.settings = name, version, tuple(settings)

    def rows_of(self, setting: str, rows: Iterable[Row]) -> list[Row]:
        del setting
        return list(rows)

    def ask(self, setting: str, rows: Sequence[Row]) -> Answer:
        raise NotImplementedError

    def keep(self, settings: Iterable[str]) -> None:
        """The others will not be asked for any more."""

    def close(self) -> None:
        self.keep(())


class ChildEngine(Engine):
    """Runs `python children/SCRIPT MODEL THREADS SETTING` for each setting, alive from its first turn to the last."""

    def __init__(
        self, name: str, version: str, settings: Sequence[str], command: Sequence[str | Path], threads: int, logs: Path
    ) -> None:
        super().__init__(name, version, settings)
        python, script, model = command
        self._command = [str(python), str(CHILDREN / script), str(model), str(threads)]
        self._environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._logs = logs
        self._running: dict[str, subprocess.Popen[str]] = {}

    def rows_of(self, setting: str, rows: Iterable[Row]) -> list[Row]:
        return [row for row in rows if row.is_shared or "cached" not in setting]

    def ask(self, setting: str, rows: Sequence[Row]) -> Answer:
        child = self._running.get(setting) or self._start(setting)
        assert child.stdin
        assert child.stdout
        with contextlib.suppress(OSError):  # a child that is gone has no answer either
            child.send_signal(signal.SIGCONT)
            print(json.dumps({"rows": {row.name: row.work for row in rows}}), file=child.stdin, flush=True)
        is_answered = select.select([child.stdout], [], [], TIMEOUT_S)[0]
        line = child.stdout.readline() if is_answered else ""
        if not line:
            why = self._why(setting, child, bool(is_answered))
            return Answer(errors={row.name: why for row in rows})
        child.send_signal(signal.SIGSTOP)  # threads that spin while they wait would disturb the others
        return Answer(**json.loads(line))

    def keep(self, settings: Iterable[str]) -> None:
        for setting in set(self._running) - set(settings):
            self._end(self._running.pop(setting))

    def _start(self, setting: str) -> subprocess.Popen[str]:
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._log(setting).open("w") as log:
            child = subprocess.Popen(
                [*self._command, setting],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,  # a terminal's Ctrl-C or job control is not for it
            )
        self._running[setting] = child
        return child

    def _why(self, setting: str, child: subprocess.Popen[str], is_answered: bool) -> str:
        self._end(self._running.pop(setting))
        if not is_answered:
            return f"no answer within {TIMEOUT_S:.0f} s"
        said = [line for line in self._log(setting).read_text(errors="replace").splitlines() if line.strip()]
        return f"ended with status {child.returncode}: {said[-1][:300] if said else 'it said nothing'}"

    def _log(self, setting: str) -> Path:
        return self._logs / f"{self.name} {setting}.log".replace(" ", "-")

    @staticmethod
    def _end(child: subprocess.Popen[str]) -> None:
        child.kill()  # works on a stopped process too
        child.communicate()
