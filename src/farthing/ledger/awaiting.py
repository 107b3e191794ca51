"""Waiting for the writer in spite of cancellations: what was begun is seen to its end, for a bounded time."""

import asyncio
from typing import Any

__all__ = ["wait_through"]


async def wait_through(future: "asyncio.Future[Any]", timeout_s: float) -> asyncio.CancelledError | None:
    """Returns when the future is done or the time is over; with the cancellation that came meanwhile, to be raised."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    cancelled: asyncio.CancelledError | None = None
    while not future.done() and (left_s := deadline - loop.time()) > 0:
        try:
            await asyncio.wait((future,), timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
