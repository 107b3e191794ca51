"""One request on its way through the server, and what all paths that answer calls do alike: place, key, body, errors.

place -> key -> body -> handler (see answer.py)
  any of them may refuse, and then the error has the API's own form
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from farthing.errors import FarthingError
from farthing.ledger import Key
from farthing.ledger.ids import new_id
from farthing.server.api import Endpoint
from farthing.server.auth import identify
from farthing.server.body import ClientGone, Receive, read_body
from farthing.server.errors import as_upstream_error
from farthing.server.limits import Place
from farthing.server.outcome import GONE, Outcome
from farthing.server.reply import Headers, send_error
from farthing.server.service import Service
from farthing.server.stream import Send
from farthing.upstreams import UpstreamError

__all__ = ["AskEndpoint", "Asking", "failure_of"]

log = logging.getLogger("farthing.server")


@dataclass(frozen=True, slots=True)
class Asking:
    id: str
    receive: Receive
    send: Send
    place: Place
    sent: dict[bytes, bytes]  # the client's headers
    headers: Headers  # that every response has
    outcome: Outcome


Handler = Callable[[Asking, Key | None, bytes], Awaitable[None]]


def failure_of(error: Exception, request_id: str) -> UpstreamError:
    """Any exception as what the client is told. One of our own bugs is logged, by where it happened only: its message
    may repeat what was asked."""
    if isinstance(error, FarthingError):
        return as_upstream_error(error)
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
    log.error("request %s failed: %s at %s", request_id, type(error).__name__, " < ".join(reversed(places)))
    message = f"an error in the server; its log has the request {request_id}"
    return UpstreamError(message, status=500, code="server_error")


class AskEndpoint:
    """An ASGI application for one path. handler raises only before it has sent anything."""

    def __init__(self, api: Endpoint, handler: Handler, service: Service) -> None:
        self._api = api
        self._handler = handler
        self._service = service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        request_id = new_id()
        name = request_id.encode()
        headers: Headers = [(b"x-request-id", name), (b"request-id", name), (b"x-farthing-request-id", name)]
        place, outcome = None, Outcome()
        try:
            place = self._service.gate.enter()
            asking = Asking(request_id, receive, send, place, dict(scope["headers"]), headers, outcome)
            await self._ask(asking)
        except ClientGone:
            pass
        except Exception as error:
            failure = failure_of(error, request_id)
            outcome.failed(failure)
            await send_error(send, failure, self._api.error_body(failure, request_id), headers)
        finally:
            if place is not None:
                place.leave()
            self._observe(outcome)

    async def _ask(self, asking: Asking) -> None:
        config = self._service.config
        key = await identify(asking.sent, self._service.books, is_required=config.require_keys)
        raw = await read_body(
            asking.receive, asking.sent, config.max_body_bytes, config.body_timeout_s, asking.place.count
        )
        await self._handler(asking, key, raw)

    def _observe(self, outcome: Outcome) -> None:
        total_s, first_s = outcome.elapsed_s, outcome.first_token_s
        if first_s is not None:
            outcome.span.first_chunk(first_s)
        error = "client_gone" if outcome.status == GONE else outcome.error
        reason = outcome.finish_reason
        outcome.span.end(outcome.status, outcome.tally, outcome.receipts, finish_reason=reason, error=error)
        self._service.metrics.observe(
            self._api.endpoint,
            outcome.status,
            total_s,
            outcome.receipts,
            finish_reason=reason,
            first_token_s=first_s,
            overhead_s=None if outcome.upstream_s is None else total_s - outcome.upstream_s,
        )
