"""POST /v1/messages/count_tokens: how many tokens a request's input has. Nothing is computed, so nothing is billed."""

from farthing.ledger import Key
from farthing.server.asking import Asking
from farthing.server.body import parse_object
from farthing.server.calls import make_call
from farthing.server.messages import Messages, count_tokens
from farthing.server.reply import send_json
from farthing.server.service import Service

__all__ = ["TokenCounter"]


class TokenCounter:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, asking: Asking, key: Key | None, raw: bytes) -> None:
        asked = Messages().parse_count(parse_object(raw))
        served = self._service.catalog.find(asked.model, key)
        call = make_call(asking.id, asked, "count_tokens", served.model, key, raw, asking.sent, ())
        await send_json(asking.send, 200, await count_tokens(served.leaf, call), asking.headers)
