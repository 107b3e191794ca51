"""How much is taken on at once, and the end of taking on: answers under way, bytes of their bodies, draining."""

import asyncio

from farthing.server.config import ServerConfig
from farthing.server.cut import Cut
from farthing.upstreams import UpstreamError

__all__ = ["Gate", "Place"]

RETRY_AFTER_S = 1.0


def _busy(message: str) -> UpstreamError:
    return UpstreamError(message, status=503, code="server_busy", retry_after_s=RETRY_AFTER_S)


class Gate:
    """Every answer has a place while it is under way."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._places: set[Place] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.num_buffered_bytes = 0
        self.is_draining = False

    @property
    def num_running(self) -> int:
        return len(self._places)

    def enter(self) -> "Place":
        """Raises UpstreamError (503) where there is no place."""
        if self.is_draining:
            message = "the server is shutting down; ask another or try again"
            raise UpstreamError(message, status=503, code="server_draining", retry_after_s=RETRY_AFTER_S)
        if len(self._places) >= self._config.max_concurrent:
            raise _busy(f"{self._config.max_concurrent} answers are under way, as many as are allowed; try again")
        place = Place(self)
        self._places.add(place)
        self._idle.clear()
        return place

    def leave(self, place: "Place") -> None:
        self._places.discard(place)
        self.num_buffered_bytes -= place.num_bytes
        if not self._places:
            self._idle.set()

    def count(self, place: "Place", num_bytes: int) -> None:
        if self.num_buffered_bytes + num_bytes > self._config.max_buffered_bytes:
            raise _busy("too many large requests are under way; try again")
        place.num_bytes += num_bytes
        self.num_buffered_bytes += num_bytes

    async def drain(self) -> None:
        """Take on no more, let what runs finish within drain_s, then end what is left."""
        self.is_draining = True
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._idle.wait()
        except TimeoutError:
            self.cut_all()

    def cut_all(self) -> None:
        for place in self._places:
            if place.cut is not None:
                message = "the server was shut down before the answer was complete"
                place.cut(UpstreamError(message, status=503, code="server_draining", retry_after_s=RETRY_AFTER_S))

    async def wait_idle(self, timeout_s: float) -> None:
        """Until the last answer has left, or the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass


class Place:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.num_bytes = 0
        self.cut: Cut | None = None

    def count(self, num_bytes: int) -> None:
        """Bytes of its body that came. Raises UpstreamError (503) where all bodies together are too much."""
        self._gate.count(self, num_bytes)

    def leave(self) -> None:
        self._gate.leave(self)
