"""Anthropic's messages API, and endpoints that speak it. Chat calls are converted; completions it has none.

Raw as in openai.py: the client's JSON goes out with the model's name, `stream` and a lowered max_tokens; cache_control,
thinking, server tools and beta headers go along. Counts of input are the parts added up, see usage_wire.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from farthing.economics.usage import Usage
from farthing.upstreams.anthropic_answer import AnthropicReader
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.convert import as_messages
from farthing.upstreams.convert_fields import dumps
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.estimate import max_usage
from farthing.upstreams.hosted import Exchange, answer, client_headers
from farthing.upstreams.hosted_config import Hosted, read_hosted
from farthing.upstreams.http import Http
from farthing.upstreams.settings import Table
from farthing.upstreams.usage_wire import malformed

__all__ = ["AnthropicUpstream", "from_config"]

VERSION = "2023-06-01"
CLIENT_HEADERS = ("anthropic-version", "anthropic-beta", "traceparent", "tracestate")
NOT_COUNTED = ("max_tokens", "stream", "metadata", "stop_sequences", "temperature", "top_k", "top_p", "service_tier")


class AnthropicUpstream:
    def __init__(self, name: str, hosted: Hosted) -> None:
        self.name = name
        self.provider = hosted.provider
        self._hosted = hosted
        self._http = Http(name, hosted.endpoint)

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        tally.upstream, tally.provider, tally.model = self.name, self.provider, call.model
        asked = self._messages(call)
        is_same_wire = asked is call
        body, is_capped = self._body(asked)
        exchange = Exchange(
            name=self.name,
            http=self._http,
            path="/v1/messages",
            body=body,
            headers=_headers(call),
            reader=AnthropicReader(self.name, self._hosted.endpoint.secret, is_raw=is_same_wire and call.is_stream),
            is_capped=is_capped,
            is_whole_wanted=is_same_wire and not call.is_stream,
        )
        chunks = answer(exchange, asked, tally)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()

    def max_usage(self, call: Call) -> Usage:
        return max_usage(self._messages(call), self._hosted.max_output_tokens)

    async def models(self) -> list[str]:
        return await self._hosted.list_models(self._http, "/v1/models?limit=1000")

    async def count_tokens(self, call: Call) -> dict[str, Any]:
        """The provider's own count of a messages (or chat) call's input. Raises UpstreamError."""
        asked = self._messages(call)
        body = {key: value for key, value in asked.body.items() if key not in NOT_COUNTED} | {"model": call.model}
        path, headers = "/v1/messages/count_tokens", _headers(call)
        reply = await self._http.post(path, dumps(body, "body"), headers, is_stream=False)
        counted = await reply.json()
        if not isinstance(counted, dict) or not isinstance(counted.get("input_tokens"), int):
            raise malformed("no count of input_tokens")
        return counted

    async def aclose(self) -> None:
        await self._http.aclose()

    def _messages(self, call: Call) -> Call:
        if call.wire == "completions":
            message = f"the model's upstream {self.name!r} has no completions API; use chat completions or messages"
            raise UpstreamError(message, status=400, code="unsupported_endpoint")
        return as_messages(call) if call.wire == "chat" else call

    def _body(self, call: Call) -> tuple[bytes, bool]:
        """(what goes out, whether its limit is the budget's)."""
        body: dict[str, Any] = {**call.body, "model": call.model}
        body.pop("stream", None)
        if call.is_stream:
            body["stream"] = True
        limits = [body["max_tokens"]] if isinstance(body.get("max_tokens"), int) else []
        if self._hosted.max_output_tokens is not None:
            limits.append(self._hosted.max_output_tokens)
        is_capped = False
        if call.max_output_tokens is not None:
            budget = max(1, call.max_output_tokens)
            is_capped = budget < min(limits, default=budget + 1)
            limits.append(budget)
        if limits:
            body["max_tokens"] = min(limits)
        return dumps(body, "body"), is_capped


def _headers(call: Call) -> dict[str, str]:
    return {"anthropic-version": VERSION} | client_headers(call, CLIENT_HEADERS)


def from_config(name: str, table: Mapping[str, object], host: object = None) -> AnthropicUpstream:  # noqa: ARG001
    """The upstream of a table of farthing.toml, kind "anthropic".

        [[upstream]]
        name = "claude"
        kind = "anthropic"
        api_key_env = "ANTHROPIC_API_KEY"
        models = ["claude-haiku-4-5"]     # without it: what the endpoint lists

    Raises InvalidRequest.
    """
    hosted = read_hosted(Table(name, table), "https://api.anthropic.com", lambda key: {"x-api-key": key})
    root = hosted.endpoint.base_url.removesuffix("/v1")  # many write it with, as for OpenAI's kind
    hosted = replace(hosted, endpoint=replace(hosted.endpoint, base_url=root))
    return AnthropicUpstream(name, hosted)
