"""Runs the application until a signal says to stop, and then lets what is under way finish.

SIGTERM at the start nothing is served yet: what was opened is closed, and the process ends with 0
SIGTERM, SIGINT      drain: no new answers (503), running ones have drain_s; then the process ends with 0
a second one         ends them at once; their rows are written
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from farthing.errors import InvalidRequest
from farthing.server.app import create_app
from farthing.server.config import ServerConfig
from farthing.server.config_file import Config
from farthing.server.limits import Gate
from farthing.server.notify import notify
from farthing.server.protocol import BoundedProtocol
from farthing.server.service import open_service

__all__ = ["serve", "uvicorn_config"]

BACKLOG = 2048
SWITCH_S = 0.001  # the loop waits at most so long for a thread (ledger, engine) that is in Python; 5 ms by default
ROWS_S = 5.0  # for the rows of answers that were cut off
GOODBYE_S = 3.0  # for connections to close


async def serve(config: Config, announce: Callable[[str], None]) -> None:
    """Returns when the server has stopped. announce is called with its address once it answers. Raises FarthingError
    where it cannot start."""
    sys.setswitchinterval(SWITCH_S)
    with _bound(config.server) as listener, _leaves_at_sigterm():
        async with open_service(config) as service:
            app = create_app(service)
            server = _Server(uvicorn_config(app, config.server))
            stopper = _Stopper(server, service.gate)
            with stopper.listening():
                gc.collect()
                gc.freeze()  # what start-up made stays; later collections need not look at it
                running = asyncio.create_task(server.serve([listener]))
                while not (server.started or running.done()):
                    await asyncio.sleep(0.005)
                announce(_address(config.server.host, listener))
                notify("READY=1")
                await running
                gc.unfreeze()  # so that what an engine holds is let go of with it
            await service.gate.wait_idle(ROWS_S)


@contextmanager
def _leaves_at_sigterm() -> Iterator[None]:
    """While models are loaded there is nothing to drain: SIGTERM cancels this task, and the block is left. The first
    process of a container would not even notice a signal without a handler, and be killed when its time is up."""
    task, loop, is_told = asyncio.current_task(), asyncio.get_running_loop(), False
    assert task is not None

    def leave() -> None:
        nonlocal is_told
        is_told = True
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, leave)
    try:
        yield
    except asyncio.CancelledError:
        if not is_told:
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would close the door before running answers are done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Stopper:
    def __init__(self, server: uvicorn.Server, gate: Gate) -> None:
        self._server = server
        self._gate = gate
        self._draining: asyncio.Task[None] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        else:
            self._gate.cut_all()

    async def _drain(self) -> None:
        notify("STOPPING=1")
        await self._gate.drain()
        await self._gate.wait_idle(ROWS_S)
        self._server.should_exit = True


def uvicorn_config(app: Any, config: ServerConfig, **more: Any) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # anybody can send what is no HTTP; it is no news
    if config.is_access_logged:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    protocol: Any = partial(BoundedProtocol, config)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=config.is_access_logged,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(config.keep_alive_s) or 1,
        timeout_graceful_shutdown=round(GOODBYE_S),
        backlog=BACKLOG,
        **more,
    )


@contextmanager
def _bound(config: ServerConfig) -> Iterator[socket.socket]:
    """Bound before the models are loaded, so that a taken port is told at once; nobody can connect yet."""
    host, port = config.host.strip("[]"), config.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidRequest(f"host {config.host!r} has no address here: {error.strerror}") from None
    family, kind, number, _, address = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)[0]
    with socket.socket(family, kind, number) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            hint = "give another port with --port, or 0 for any free one"
            raise InvalidRequest(f"cannot listen on {host} port {port}: {error.strerror}; {hint}") from None
        listener.setblocking(False)
        yield listener


def _address(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host.strip('[]')}]:{port}" if ":" in host else f"http://{host}:{port}"
