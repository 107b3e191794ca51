"""Child processes of a benchmark: started on one core, their memory and processor time, ended for certain."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ROOT",
    "START_S",
    "Memory",
    "Process",
    "cores",
    "cpu_s",
    "end_on_sigterm",
    "memory",
    "mock",
    "raise_file_limit",
]

ROOT = Path(__file__).parents[2]
START_S = 60.0
STOP_S = 30.0


@dataclass(frozen=True)
class Memory:
    """rss_bytes counts shared pages wholly, pss_bytes each process's share of them."""

    rss_bytes: int
    pss_bytes: int


def memory(pid: int) -> Memory:
    """Raises OSError where the process is gone, or the system does not tell."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(rest.split()[0]) * 1024
    return Memory(found["Rss"], found["Pss"])


def cpu_s(pid: int) -> float:
    """Processor time of the process so far, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cores() -> list[int]:
    """That this process may use; its children are given them by number."""
    return sorted(os.sched_getaffinity(0))


def raise_file_limit() -> int:
    """Open files (and sockets) as many as the system allows; children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def end_on_sigterm() -> None:
    """A benchmark that is told to end takes its children with it: SIGTERM leaves through all context managers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Process(AbstractContextManager["Process"]):
    """A child of this process, in its own session so that a ^C reaches us first. At the end it is sent SIGTERM, and
    SIGKILL where that does not do."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        core: int | None = None,
        env: dict[str, str] | None = None,
        stdout: int | None = subprocess.DEVNULL,
        log: Path | None = None,
    ) -> None:
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        self._log = log.open("ab") if log is not None else None
        self.child = subprocess.Popen(
            [*pinned, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=stdout if stdout is not None else self._log,
            stderr=self._log if self._log is not None else None,
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            start_new_session=True,
        )
        self.pid = self.child.pid

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.child.kill()
        self._reap()

    def stop(self, within_s: float = STOP_S) -> int:
        """SIGTERM; the exit status. Raises TimeoutExpired (after a SIGKILL) where it does not end in time."""
        self.child.send_signal(signal.SIGTERM)
        try:
            return self._reap(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _reap(self, within_s: float | None = None) -> int:
        status = self.child.wait(within_s)
        if self.child.stdout is not None:
            self.child.stdout.close()
        if self._log is not None:
            self._log.close()
        return status

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                return
        else:
            self._reap()


def mock(core: int | None = None) -> tuple[Process, int]:
    """A mock provider, and its port."""
    process = Process([sys.executable, "-m", "benchmarks.load.mock"], core=core, stdout=subprocess.PIPE)
    assert process.child.stdout is not None
    line = process.child.stdout.readline()
    if not line:
        process.kill()
        raise OSError("the mock provider did not start")
    return process, int(line)
