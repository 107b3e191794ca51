"""Clients that arrive together at a server and read their answers as streams; what they see of it."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.load.client import Answer, Client, events
from benchmarks.load.http1 import request_bytes

__all__ = ["Heard", "Wave", "chat_request", "heard", "send_wave"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """One answer. Seconds are since the wave was sent."""

    first_s: float  # first text that is not empty
    end_s: float
    input_tokens: int
    cache_read_tokens: int
    output_tokens: int
    text: str

    @property
    def decode_tok_s(self) -> float:
        """Tokens a second from the first to the last; the first belongs to the prompt."""
        return (self.output_tokens - 1) / (self.end_s - self.first_s)


@dataclass(frozen=True)
class Wave:
    heard: tuple[Heard, ...]

    @property
    def seconds(self) -> float:
        return max(one.end_s for one in self.heard)

    @property
    def output_tok_s(self) -> float:
        return sum(one.output_tokens for one in self.heard) / self.seconds

    @property
    def decode_tok_s(self) -> float:
        """The sum of the streams' own rates, without the time to their first tokens."""
        return sum(one.decode_tok_s for one in self.heard)

    @property
    def together_tok_s(self) -> float:
        """While all answer: as many times the rate of the one that began last, when no prompt is computed any more."""
        return len(self.heard) * max(self.heard, key=lambda one: one.first_s).decode_tok_s


def chat_request(messages: Sequence[Mapping[str, str]], max_tokens: int, **more: Any) -> bytes:
    """A streamed greedy chat completion of just so many tokens, for farthing and for llama.cpp's server alike."""
    body: Json = {"messages": list(messages), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **more}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"content-type": "application/json"}
    return request_bytes("POST", "/v1/chat/completions", headers, json.dumps(body).encode())


def heard(answer: Answer, started_s: float) -> Heard:
    """Raises ValueError where the answer was not read to its end, has no text, or does not tell what it used."""
    if not answer.is_read or answer.end_s is None:
        raise ValueError(f"an answer with status {answer.status} was not read to its end: {answer.body[:300]!r}")
    first_s, pieces, usage = None, [], None
    for at, event in events(answer):
        for choice in event.get("choices", ()):
            if text := choice["delta"].get("content"):
                first_s = at if first_s is None else first_s
                pieces.append(text)
        usage = event.get("usage") or usage
    if first_s is None or usage is None:
        raise ValueError(f"no text, or no usage, in a stream of {len(answer.body)} bytes: {answer.body[-300:]!r}")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    counts = (usage["prompt_tokens"], cached, usage["completion_tokens"])
    return Heard(first_s - started_s, answer.end_s - started_s, *counts, "".join(pieces))


async def send_wave(port: int, requests: Sequence[bytes]) -> Wave:
    """All at once, each on a new connection that is open before. Raises ValueError where one was not answered."""
    client = Client(port)
    await client.open(len(requests))
    started_s = time.perf_counter()
    answers = await asyncio.gather(*(client.ask(request) for request in requests))
    client.close()
    return Wave(tuple(heard(answer, started_s) for answer in answers))
