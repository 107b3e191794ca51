"""A whole server on a free port of loopback, in a thread of its own: all of `farthing serve` but the signals."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import uvicorn

from farthing.ledger import Row, open_reader
from farthing.server.app import create_app
from farthing.server.config import ModelEntry, ServerConfig, UpstreamEntry
from farthing.server.config_file import Config
from farthing.server.running import uvicorn_config
from farthing.server.service import Service, open_service

__all__ = ["PLAY", "Running", "serving", "small_local"]

GOLDEN = Path(__file__).parent.parent / "golden"
PLAY = UpstreamEntry("play", "tests.server.play")


def small_local(*names: str | Path) -> UpstreamEntry:
    return UpstreamEntry("local", "local", {"models": [str(GOLDEN / name) for name in names], "threads": 1})


@dataclass
class Running:
    url: str
    service: Service
    ledger: str
    loop: asyncio.AbstractEventLoop

    @property
    def play(self) -> Any:
        """The playing upstream itself."""
        return self.service.catalog.find("play", None).leaf

    def rows(self) -> list[Row]:
        with open_reader(self.ledger) as reader:
            return list(reader.rows(0, 2**62))

    def soon(self, what: Callable[..., Any], *arguments: Any) -> None:
        """Call something in the server's own loop."""
        self.loop.call_soon_threadsafe(what, *arguments)


@contextmanager
def serving(
    folder: Path,
    *upstreams: UpstreamEntry,
    models: tuple[ModelEntry, ...] = (),
    response_cache: Mapping[str, Any] = MappingProxyType({}),
    **server: Any,
) -> Iterator[Running]:
    ledger = f"sqlite:///{folder / 'ledger.db'}"
    config = Config(
        ServerConfig(port=0, **server),
        upstreams=upstreams or (PLAY,),
        models=models,
        ledger={"url": ledger},
        response_cache=response_cache,
        source="test",
    )
    started: threading.Event = threading.Event()
    found: list[Any] = []

    async def run() -> None:
        async with open_service(config) as service:
            runner = uvicorn.Server(uvicorn_config(create_app(service), config.server, port=0))
            task = asyncio.ensure_future(runner.serve())
            while not runner.started:
                await asyncio.sleep(0.005)
            port = runner.servers[0].sockets[0].getsockname()[1]
            loop = asyncio.get_running_loop()
            found.extend([runner, Running(f"http://127.0.0.1:{port}", service, ledger, loop)])
            started.set()
            await task

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            found.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait(30)
    if isinstance(found[0], BaseException):
        raise found[0]
    runner, running = found[:2]
    try:
        yield running
    finally:
        running.soon(running.service.gate.cut_all)
        runner.should_exit = True
        thread.join(30)
    if len(found) > 2:
        raise found[2]
