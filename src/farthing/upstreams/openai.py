"""Any endpoint that speaks OpenAI's chat completions and completions: OpenAI, vLLM, llama.cpp, Groq, DeepSeek, Ollama.

What the client sent goes out as it is, unknown fields and all, but for four things: the model's name, `stream`, the
usage that every stream is asked for, and a limit of output tokens where the configuration sets one, or where a budget
applies: then every call goes out with one, for a provider that was told no limit keeps none. It is written anew from
what was parsed (6 to 160 µs for 100 KB), never patched into the client's bytes: a body that names a field twice would
mean one thing here and another to the provider.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from farthing.economics.usage import Usage
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.convert import as_chat
from farthing.upstreams.convert_fields import dumps, mapping
from farthing.upstreams.estimate import LIMITS, max_usage, num_choices
from farthing.upstreams.hosted import Exchange, answer, client_headers
from farthing.upstreams.hosted_config import Hosted, read_hosted
from farthing.upstreams.http import Http
from farthing.upstreams.openai_answer import OpenAIReader
from farthing.upstreams.settings import Table

__all__ = ["OpenAIUpstream", "from_config"]

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
CLIENT_HEADERS = ("openai-beta", "traceparent", "tracestate")


class OpenAIUpstream:
    def __init__(
        self, name: str, hosted: Hosted, *, is_usage_asked: bool = True, limit_field: str | None = None
    ) -> None:
        self.name = name
        self.provider = hosted.provider
        self._hosted = hosted
        self._http = Http(name, hosted.endpoint)
        self._is_usage_asked = is_usage_asked
        # OpenAI's reasoning models refuse the old name; few others know the new one.
        self._limit_field = limit_field or ("max_completion_tokens" if self.provider == "openai" else "max_tokens")

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        tally.upstream, tally.provider, tally.model = self.name, self.provider, call.model
        asked = as_chat(call) if call.wire == "messages" else call
        body, is_capped = self._body(asked, is_converted=asked is not call)
        is_same_wire = asked is call
        exchange = Exchange(
            name=self.name,
            http=self._http,
            path=PATHS[asked.wire],
            body=body,
            headers=client_headers(call, CLIENT_HEADERS),
            reader=OpenAIReader(self.name, self._hosted.endpoint.secret, is_raw=is_same_wire and call.is_stream),
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
        return max_usage(as_chat(call) if call.wire == "messages" else call, self._hosted.max_output_tokens)

    async def models(self) -> list[str]:
        return await self._hosted.list_models(self._http, "/models")

    async def aclose(self) -> None:
        await self._http.aclose()

    def _body(self, call: Call, *, is_converted: bool) -> tuple[bytes, bool]:
        """(what goes out, whether its limit is the budget's)."""
        body: dict[str, Any] = {**call.body, "model": call.model}
        options = body.pop("stream_options", None)
        body.pop("stream", None)
        if call.is_stream:
            options = {**mapping(options or {}, "stream_options")}
            if self._is_usage_asked:
                options["include_usage"] = True
            body |= {"stream": True} | ({"stream_options": options} if options else {})
        is_capped = self._limit(call, body, is_converted=is_converted)
        return dumps(body, "body"), is_capped

    def _limit(self, call: Call, body: dict[str, Any], *, is_converted: bool) -> bool:
        """Lowers the limits of output tokens in place, or sets one. Whether the budget's is now the lowest."""
        key = self._limit_field if call.wire == "chat" else "max_tokens"
        if is_converted and "max_tokens" in body:
            body[key] = body.pop("max_tokens")
        names = [name for name in LIMITS if isinstance(body.get(name), int)]
        limits = [body[name] for name in names]
        if self._hosted.max_output_tokens is not None:
            limits.append(self._hosted.max_output_tokens)
        is_capped = False
        if call.max_output_tokens is not None:
            budget = max(1, call.max_output_tokens // num_choices(call.body))
            is_capped = budget < min(limits, default=budget + 1)
            limits.append(budget)
        if limits:
            body |= dict.fromkeys(names or [key], min(limits))
        return is_capped


def from_config(name: str, table: Mapping[str, object], host: object = None) -> OpenAIUpstream:  # noqa: ARG001
    """The upstream of a table of farthing.toml, kind "openai". Raises InvalidRequest.

    [[upstream]]
    name = "groq"
    kind = "openai"
    base_url = "https://api.groq.com/openai/v1"   # without it: OpenAI's own
    api_key_env = "GROQ_API_KEY"
    models = ["llama-3.1-8b-instant"]             # without it: what the endpoint lists
    provider = "groq"                             # whose prices; without it guessed from base_url
    include_usage = true                          # ask streams for their usage; false for servers that refuse it
    limit_field = "max_tokens"                    # of a limit that we set in chat calls; OpenAI's is the other one
    """
    settings = Table(name, table)
    is_usage_asked = settings.flag("include_usage", True)
    limit_field = settings.text("limit_field")
    if limit_field not in (None, *LIMITS):
        raise settings.error("limit_field", f"is {limit_field!r}; allowed: {' or '.join(LIMITS)}")
    hosted = read_hosted(settings, "https://api.openai.com/v1", lambda key: {"authorization": f"Bearer {key}"})
    return OpenAIUpstream(name, hosted, is_usage_asked=is_usage_asked, limit_field=limit_field)
