"""Answers kept to be given again: what counts as the same request, and a store bounded in bytes and time.

The same request is: the same key domain (the salt, which the server takes from the key; without keys all are one), API,
upstream, model and names of beta features, and a body that is equal as JSON but for what changes no answer (IGNORED).
The order of an object's keys does not matter; anything else does, so a doubt is a miss.

An answer repeats only where the request asks for that: temperature 0, or a seed. `sampled` lifts this for all.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest
from farthing.upstreams import Call, Chunk, Tally

__all__ = [
    "ResponseCacheConfig",
    "ResponseStore",
    "StoreStats",
    "StoredAnswer",
    "request_key",
    "stored_answer",
    "without_seconds",
]

IGNORED = frozenset(
    ("stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
CHUNK_BYTES = 300  # of an object without its texts, about


@dataclass(frozen=True)
class ResponseCacheConfig:
    """[response_cache]. Raises InvalidRequest for a value outside its range."""

    enabled: bool = False
    ttl_s: float = 3600.0
    max_bytes: int = 64 << 20  # of all answers together, about
    sampled: bool = False  # whether answers drawn by chance, without a seed, are given again too

    def __post_init__(self) -> None:
        if not 0 < self.ttl_s <= 366 * 86_400:
            raise InvalidRequest(f"ttl_s is {self.ttl_s!r}; allowed: above 0, at most 31,622,400 (366 days)")
        if self.max_bytes < 1:
            raise InvalidRequest(f"max_bytes is {self.max_bytes!r}; allowed: 1 or more")


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What one computation gave. tally has no engine seconds, for they will not be spent again."""

    chunks: tuple[Chunk, ...]
    tally: Tally
    is_stream: bool
    is_plain: bool  # without a provider's own JSON
    num_bytes: int

    def suits(self, call: Call) -> bool:
        """A provider's own JSON, whole or in pieces, is given again only in the form that it came in."""
        return self.is_plain or self.is_stream == call.is_stream


@dataclass(frozen=True, slots=True)
class StoreStats:
    num_entries: int
    num_bytes: int


def request_key(upstream: str, call: Call, *, is_sampled: bool) -> bytes | None:
    """What equal requests have in common; None for one that is not to be answered from a store."""
    body = call.body
    is_repeatable = body.get("temperature") == 0 or body.get("seed") is not None
    if not (is_repeatable or is_sampled):
        return None
    domain = ["salt", call.salt] if call.salt else ["key", call.key_id]
    names = sorted((n, v) for n, v in call.headers.items() if n.startswith(("anthropic-", "openai-")))
    asked = {name: value for name, value in body.items() if name not in IGNORED}
    whole = [domain, call.endpoint, call.wire, upstream, call.model, names, asked]
    try:
        return hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).digest()
    except orjson.JSONEncodeError:  # a number or a string that JSON has no one form for
        return None


def stored_answer(chunks: list[Chunk], tally: Tally, *, is_stream: bool) -> StoredAnswer:
    num_bytes = sum(map(_num_bytes, chunks)) + CHUNK_BYTES
    if tally.whole is not None:
        num_bytes += 4 * len(orjson.dumps(tally.whole))
    is_plain = tally.whole is None and all(chunk.raw is None for chunk in chunks)
    return StoredAnswer(tuple(chunks), without_seconds(tally), is_stream, is_plain, num_bytes)


def without_seconds(tally: Tally) -> Tally:
    """The same answer given again: its tokens, and no time of this machine or header of its provider."""
    usage = Usage(**{**vars(tally.usage), "input_s": 0.0, "output_s": 0.0})
    return Tally(
        usage, tally.usage_source, tally.upstream, tally.provider, tally.model, tally.is_local, tally.whole,
        is_cut=tally.is_cut,
    )  # fmt: skip


def _num_bytes(chunk: Chunk) -> int:
    texts = len(chunk.text) + len(chunk.reasoning) + sum(len(delta.arguments) for delta in chunk.tool_calls)
    logprobs = sum(1 + len(token.top) for token in chunk.logprobs)
    raw = 0 if chunk.raw is None else 4 * len(orjson.dumps(chunk.raw))  # objects take more than their JSON
    return CHUNK_BYTES * (1 + logprobs) + texts + raw


class ResponseStore:
    """The least recently used goes first. Belongs to the event loop."""

    def __init__(self, config: ResponseCacheConfig, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock_s = clock_s
        self._entries: OrderedDict[bytes, tuple[float, StoredAnswer]] = OrderedDict()  # (expires at, answer)
        self._num_bytes = 0

    def get(self, key: bytes, call: Call) -> StoredAnswer | None:
        found = self._entries.get(key)
        if found is None:
            return None
        expires_s, answer = found
        if expires_s <= self._clock_s():
            self._drop(key)
            return None
        if not answer.suits(call):
            return None
        self._entries.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: StoredAnswer) -> None:
        """An answer larger than the whole store is not kept."""
        self._drop(key)
        if answer.num_bytes > self._config.max_bytes:
            return
        self._entries[key] = (self._clock_s() + self._config.ttl_s, answer)
        self._num_bytes += answer.num_bytes
        while self._num_bytes > self._config.max_bytes:
            self._drop(next(iter(self._entries)))

    def stats(self) -> StoreStats:
        return StoreStats(len(self._entries), self._num_bytes)

    def _drop(self, key: bytes) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._num_bytes -= found[1].num_bytes
