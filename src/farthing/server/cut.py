"""Ends an answer from outside: its client went away, its time is up, the server stops."""

import asyncio
from contextlib import suppress
from types import TracebackType

from farthing.server.body import ClientGone, Receive

__all__ = ["Cut"]


class Cut:
    """`async with Cut(receive, …) as cut:` around the work of one answer, in the task that does it.

    While it is open, a watcher waits for the client to go away. cut(reason) cancels the work wherever it waits, and the
    block ends with reason instead of CancelledError. A cancellation from elsewhere passes through.
    """

    def __init__(self, receive: Receive, timeout_s: float, too_slow: Exception) -> None:
        """too_slow is the reason after timeout_s."""
        self._receive = receive
        self._timeout_s = timeout_s
        self._too_slow = too_slow
        self._reason: Exception | None = None
        self._is_open = False
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, reason: Exception) -> None:
        if self._is_open and self._reason is None:
            assert self._task is not None
            self._reason = reason
            self._task.cancel()

    async def __aenter__(self) -> "Cut":
        self._task = asyncio.current_task()
        self._is_open = True
        self._watcher = asyncio.create_task(self._watch())
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self, self._too_slow)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watcher is not None
        assert self._task is not None
        self._is_open = False
        assert self._timer is not None
        self._watcher.cancel()
        self._timer.cancel()
        if self._reason is None:
            return
        if not isinstance(error, asyncio.CancelledError):
            # The work ended before the cancellation reached it: let it arrive here, not at whoever waits next.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if self._task.uncancel() > 0:
            return  # somebody else cancelled too
        if error is not None:
            raise self._reason from None

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self(ClientGone())
                return
