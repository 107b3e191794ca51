"""`farthing serve` for a benchmark or a test: its configuration, its process, and what its ledger holds afterwards."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.processes import ROOT, START_S, Process
from farthing.ledger import Row, open_reader

__all__ = [
    "MODEL",
    "REQUEST_ID",
    "Gateway",
    "config",
    "create_key",
    "free_port",
    "gateway",
    "ledger_url",
    "local",
    "local_config",
    "rows",
    "settled",
    "start",
]

MODEL = "gpt-4o-mini"  # the mock's; behind each of its modes as MODE/gpt-4o-mini
REQUEST_ID = "x-request-id"
FAR_US = 1 << 62
FARTHING = (sys.executable, "-m", "farthing")


@dataclass(frozen=True)
class Gateway:
    port: int
    pid: int
    key: str  # without a budget
    budget_key: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def config(folder: Path, mock_port: int, modes: Iterable[str], ledger: str = "") -> Path:
    """farthing.toml in `folder`, its ledger beside it unless `ledger` (lines of that table) says otherwise: an upstream
    and a model for each mode of the mock."""
    ledger = ledger or f'url = "{ledger_url(folder)}"'
    lines = ["[server]", "require_keys = true", "max_concurrent = 4096", "[ledger]", ledger]
    for mode in modes:
        lines += ["[[upstream]]", f'name = "{mode}"', 'kind = "openai"']
        lines += [f'base_url = "http://127.0.0.1:{mock_port}/{mode}/v1"', 'provider = "openai"']
        lines += ["[[model]]", f'name = "{mode}/{MODEL}"']
        lines += [f'upstreams = [{{ upstream = "{mode}", model = "{MODEL}" }}]']
    path = folder / "farthing.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def ledger_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.db'}"


def start(path: Path | None, port: int, core: int | None = None, log: Path | None = None) -> Process:
    """The server, once it answers. OSError where it ends or says nothing, with what it said."""
    given = [] if path is None else ["--config", str(path)]
    process = Process([*FARTHING, "serve", *given, "--port", str(port)], core=core, log=log)
    until = time.monotonic() + START_S
    while not _is_healthy(port):
        if process.child.poll() is not None or time.monotonic() > until:
            process.kill()
            said = log.read_text(errors="replace")[-2000:] if log is not None else "see above"
            raise OSError(f"farthing serve did not start: {said}")
        time.sleep(0.02)
    return process


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    connection.close()
    return False


def create_key(path: Path, name: str, *options: str) -> str:
    """A new key of ours, in the ledger that the configuration names. Raises CalledProcessError."""
    command = [*FARTHING, "keys", "create", "--name", name, "--config", str(path), "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    secret: str = json.loads(done.stdout)["secret"]
    return secret


@contextmanager
def gateway(folder: Path, mock_port: int, modes: Iterable[str], core: int | None = None) -> Iterator[Gateway]:
    """farthing in front of a mock, with two keys; one of them has a budget that is never reached."""
    path, port = config(folder, mock_port, modes), free_port()
    keys = create_key(path, "load"), create_key(path, "budget", "--budget", "1000000usd/month")
    with start(path, port, core) as process:
        yield Gateway(port, process.pid, *keys)


def local_config(folder: Path, model: str, *settings: str) -> Path:
    """The local engine alone, without keys. `settings`: lines for its table."""
    lines = ["[ledger]", f'url = "{ledger_url(folder)}"']
    lines += ["[[upstream]]", 'name = "local"', 'kind = "local"', f'models = ["{model}"]', *settings]
    path = folder / "farthing.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def local(folder: Path, model: str, threads: int) -> Iterator[int]:
    """The local engine behind HTTP, its ledger in `folder`. Gives the port."""
    port = free_port()
    with start(local_config(folder, model, f"threads = {threads}"), port):
        yield port


def rows(url: str) -> list[Row]:
    """All of the ledger, by time."""
    with open_reader(url) as reader:
        return list(reader.rows(0, FAR_US))


def settled(url: str) -> Counter[str]:
    """How many rows each answered request has."""
    return Counter(row.request_id for row in rows(url) if row.status == "ok")
