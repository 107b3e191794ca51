"""What providers report as used, brought to one meaning: economics.usage.Usage.

    provider                 reads as
    OpenAI and compatible    prompt_tokens holds cached ones, completion_tokens holds reasoning
    DeepSeek                 prompt_cache_hit_tokens
    Moonshot                 cached_tokens beside prompt_tokens
    xAI, Gemini              completion_tokens without reasoning: total_tokens shows it
    llama.cpp                timings.prompt_n, cache_n, predicted_n where there is no usage
    Anthropic                input_tokens without cache; counts grow from event to event

A count that no honest provider reports (negative, no whole number, more than MAX_COUNT) is refused: what is billed is
never nonsense. null is not reported; 0 is a measured 0.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from farthing.economics.usage import Usage
from farthing.upstreams.errors import UpstreamError

__all__ = ["MAX_COUNT", "AnthropicUsage", "malformed", "openai_usage", "parse_json", "timings_usage"]

MAX_COUNT = 10**9  # a hundred times the longest context there is
CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "num_cached_tokens")
WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")


def malformed(what: str) -> UpstreamError:
    return UpstreamError(
        f"the upstream's answer is malformed: {what}", status=502, code="upstream_malformed", is_retryable=True
    )


def parse_json(data: bytes) -> object:
    """Raises UpstreamError (502) for what is no JSON: NaN, cut off, invalid UTF-8, absurdly nested."""
    try:
        return orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise malformed("not JSON") from error


def _count(value: object, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise malformed(f"usage.{name} is no count between 0 and {MAX_COUNT:,}")
    return value


def _first(names: tuple[str, ...], *places: Mapping[str, Any]) -> int | None:
    for place in places:
        for name in names:
            count = _count(place.get(name), name)
            if count is not None:
                return count
    return None


def _part(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = usage.get(name)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise malformed(f"usage.{name} is no object")
    return part


def openai_usage(usage: object) -> Usage | None:
    """None where it says nothing: null, or an object without counts. Raises UpstreamError (502) for nonsense."""
    if usage is None:
        return None
    if not isinstance(usage, Mapping):
        raise malformed("usage is no object")
    prompt = _count(usage.get("prompt_tokens"), "prompt_tokens")
    output = _count(usage.get("completion_tokens"), "completion_tokens")
    total = _count(usage.get("total_tokens"), "total_tokens")
    if prompt is None:
        return None
    if output is None:
        output = max(0, (total or prompt) - prompt)
    details = _part(usage, "prompt_tokens_details")
    read = _first(CACHED, details, usage) or 0
    written = _first(WRITTEN, details, usage) or 0
    written_1h = _count(_part(details, "cache_creation").get("ephemeral_1h_input_tokens"), "ephemeral_1h") or 0
    out_details = _part(usage, "completion_tokens_details")
    reasoning = _first(("reasoning_tokens",), out_details, usage) or 0
    unexplained = max(0, (total or 0) - prompt - output)
    if read + written > prompt or (unexplained and unexplained == read + written and unexplained != reasoning):
        prompt += read + written  # evidently not in it
    elif unexplained or reasoning > output:  # thinking that was not put into completion_tokens
        missing = unexplained or reasoning
        output += missing
        reasoning = max(reasoning, missing)
    return Usage(
        input_tokens=prompt,
        cache_read_tokens=read,
        output_tokens=output,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(written_1h, written),
        reasoning_tokens=min(reasoning, output),
    )


def timings_usage(timings: object) -> Usage | None:
    """llama.cpp's own counts, for versions that stream no usage."""
    if not isinstance(timings, Mapping):
        return None
    computed = _count(timings.get("prompt_n"), "timings.prompt_n")
    output = _count(timings.get("predicted_n"), "timings.predicted_n")
    if computed is None or output is None:
        return None
    cached = _count(timings.get("cache_n"), "timings.cache_n") or 0
    return Usage(computed + cached, cached, output)


class AnthropicUsage:
    """Adds up the usage of message_start and of each message_delta. Counts are cumulative, so the largest is the last;
    a later event that leaves one out, or says 0 for it, takes nothing back."""

    NAMES = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")

    def __init__(self) -> None:
        self._most = dict.fromkeys((*self.NAMES, "1h"), 0)
        self.is_reported = False

    def add(self, usage: object) -> None:
        """Raises UpstreamError (502) for nonsense."""
        if usage is None:
            return
        if not isinstance(usage, Mapping):
            raise malformed("usage is no object")
        split = _part(usage, "cache_creation")
        long = _count(split.get("ephemeral_1h_input_tokens"), "cache_creation.ephemeral_1h_input_tokens") or 0
        short = _count(split.get("ephemeral_5m_input_tokens"), "cache_creation.ephemeral_5m_input_tokens") or 0
        for name in self.NAMES:
            count = _count(usage.get(name), name)
            if count is not None:
                self._most[name] = max(self._most[name], count)
                self.is_reported = True
        self._most["1h"] = max(self._most["1h"], long)
        self._most["cache_creation_input_tokens"] = max(self._most["cache_creation_input_tokens"], long + short)

    @property
    def usage(self) -> Usage:
        fresh, output, read, written = (self._most[name] for name in self.NAMES)
        return Usage(
            input_tokens=fresh + read + written,
            cache_read_tokens=read,
            output_tokens=output,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(self._most["1h"], written),
        )
