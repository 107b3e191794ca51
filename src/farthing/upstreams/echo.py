"""Answers the last user message back: to try a configuration without a key, and for tests and benchmarks.

Deterministic. A token is a word with the white space before it. It costs what `provider` charges for `priced_as`, or
nothing.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from farthing.economics.usage import Usage
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.convert import as_chat
from farthing.upstreams.estimate import LIMITS, num_choices
from farthing.upstreams.settings import Table

__all__ = ["EchoConfig", "EchoUpstream", "from_config"]

WORD = re.compile(r"\s*\S+|\s+$")
FILLER = "the quick brown fox jumps over the lazy dog "


@dataclass(frozen=True, slots=True)
class EchoConfig:
    models: tuple[str, ...] = ("echo",)
    delay_s: float = 0.0  # before each chunk
    chunks: int | None = None  # how many an answer has; None: one for each word
    bytes: int | None = None  # how long an answer is: the message repeated or cut; None: as the message
    provider: str = "local"
    priced_as: str | None = None  # a model of provider's, to see prices and budgets work


class EchoUpstream:
    def __init__(self, name: str, config: EchoConfig | None = None) -> None:
        self.name = name
        self.config = config or EchoConfig()
        self.provider = self.config.provider
        self.priced_as = self.config.priced_as
        self.is_local = self.priced_as is None

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        tally.upstream, tally.provider, tally.is_local = self.name, self.provider, self.is_local
        tally.model = self.priced_as or call.model
        tally.usage_source = "engine" if self.is_local else "provider"
        count = num_choices(call.body)
        words, is_cut_short = self._words(call, count)
        tally.is_cut = is_cut_short and call.max_output_tokens is not None and not _is_asked(call, len(words))
        num_input = len(WORD.findall(_question(call)))
        num_output = 0
        for index in range(count):
            for at, piece in enumerate(pieces := _pieces(words, self.config.chunks)):
                if self.config.delay_s:
                    await asyncio.sleep(self.config.delay_s)
                num_output += len(piece)
                tally.usage = Usage(input_tokens=num_input, output_tokens=num_output)
                is_covered = _is_covered(call, tally.usage)
                tally.is_cut = tally.is_cut or not is_covered
                is_last = at == len(pieces) - 1 or not is_covered
                finish = "length" if is_cut_short or not is_covered else "stop"
                yield Chunk("".join(piece), index, finish if is_last else None)
                if not is_covered:
                    return

    def max_usage(self, call: Call) -> Usage:
        count = num_choices(call.body)
        words, _ = self._words(call, count)
        return Usage(input_tokens=len(WORD.findall(_question(call))), output_tokens=len(words) * count)

    async def models(self) -> list[str]:
        return list(self.config.models)

    async def aclose(self) -> None:
        pass

    def _words(self, call: Call, count: int) -> tuple[list[str], bool]:
        """(the words of one choice, whether a limit cut them)."""
        text = _question(call)
        if self.config.bytes is not None:
            data = (text or FILLER).encode("utf-8", "replace")
            data = (data * (self.config.bytes // len(data) + 1))[: self.config.bytes]
            text = data.decode("utf-8", "ignore")
        words = WORD.findall(text) or [""]
        limits = [call.body[name] for name in LIMITS if isinstance(call.body.get(name), int)]
        if call.max_output_tokens is not None:
            limits.append(call.max_output_tokens // count)
        most = max(1, min(limits, default=len(words)))
        return words[:most], len(words) > most


def _is_covered(call: Call, usage: Usage) -> bool:
    if call.allowance is None:
        return True
    call.allowance.charge(usage)
    return call.allowance.covers()


def _is_asked(call: Call, num_words: int) -> bool:
    """Whether the client's own limit is as low as that."""
    return any(isinstance(call.body.get(name), int) and call.body[name] <= num_words for name in LIMITS)


def _pieces(words: list[str], count: int | None) -> list[list[str]]:
    """The words in `count` runs of nearly one length; no more runs than words."""
    count = len(words) if count is None else min(count, len(words))
    bounds = [len(words) * at // count for at in range(count + 1)]
    return [words[low:high] for low, high in itertools.pairwise(bounds)]


def _question(call: Call) -> str:
    """The text of the last user message, or the prompt; of anything else nothing."""
    if call.wire == "completions":
        prompt: Any = call.body.get("prompt")
        prompt = prompt[0] if isinstance(prompt, list) and prompt else prompt
        return prompt if isinstance(prompt, str) else ""
    body = as_chat(call).body if call.wire == "messages" else call.body
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
            return "".join(text for text in texts if isinstance(text, str))
    return ""


def from_config(name: str, table: Mapping[str, object], host: object = None) -> EchoUpstream:  # noqa: ARG001
    """The upstream of a table of farthing.toml, kind "echo": the fields of EchoConfig. Raises InvalidRequest."""
    settings = Table(name, table)
    default = EchoConfig()
    config = EchoConfig(
        models=settings.texts("models") or default.models,
        delay_s=settings.number("delay_s", default.delay_s, 0.0, 3600.0),
        chunks=settings.whole("chunks", 1),
        bytes=settings.whole("bytes", 1, 64 << 20),
        provider=settings.text("provider") or default.provider,
        priced_as=settings.text("priced_as"),
    )
    if (config.provider == default.provider) != (config.priced_as is None):
        raise settings.error("priced_as", 'and provider go together, such as "gpt-5-nano" and "openai"')
    settings.end()
    return EchoUpstream(name, config)
