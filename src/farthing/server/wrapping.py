"""What upstreams that stand around another one have in common: all but `stream` is the inner one's."""

from farthing.economics.usage import Usage
from farthing.server.messages import CountsTokens
from farthing.upstreams import Call, Upstream

__all__ = ["Wrapping"]


class Wrapping:
    """Has count_tokens only where the inner one has it."""

    def __init__(self, upstream: Upstream) -> None:
        self.name = upstream.name
        self._upstream = upstream
        if isinstance(upstream, CountsTokens):
            self.count_tokens = upstream.count_tokens

    def max_usage(self, call: Call) -> Usage:
        return self._upstream.max_usage(call)

    async def models(self) -> list[str]:
        return await self._upstream.models()

    async def aclose(self) -> None:
        await self._upstream.aclose()
