"""Clients that ask and ask again, and note what they saw: the other side of the books."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.load.client import Answer, Client
from benchmarks.load.http1 import request_bytes
from benchmarks.load.serving import MODEL, REQUEST_ID

__all__ = ["MODES", "Patience", "Seen", "chat", "clients"]

MODES = ("now", "paced-2", "paced-20")  # of the mock: at once, over 64 ms, over 640 ms
WEIGHTS = (20, 4, 1)  # so that as many answers end at any moment as can, and some are always under way
AWAY_S = 0.02  # before the next try at a server that is not there
Patience = Callable[[random.Random], float | None]  # after how many seconds a client goes away; None: never


@dataclass
class Seen:
    """What clients know. `read`: request ids of answers that were read to their end."""

    read: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)  # answers that had begun, and ended before their end
    statuses: Counter[int] = field(default_factory=Counter)  # 0: no answer at all
    num_sent: int = 0

    def note(self, answer: Answer) -> None:
        self.num_sent += 1
        self.statuses[answer.status] += 1
        if answer.status == 200:
            (self.read if answer.is_read else self.cut)[answer.headers[REQUEST_ID]] += 1


def chat(model: str, key: str | None, *, is_stream: bool, text: str = "Hello.", max_tokens: int = 64) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
    if is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return request_bytes("POST", "/v1/chat/completions", headers, json.dumps(body).encode())


def mixed(keys: Sequence[str], draw: random.Random) -> bytes:
    """Whole answers and streams, quick and slow, from each of the keys."""
    [mode] = draw.choices(MODES, WEIGHTS)
    return chat(f"{mode}/{MODEL}", draw.choice(keys), is_stream=draw.random() < 0.5)


async def clients(
    num: int,
    port: int,
    make: Callable[[random.Random], bytes],
    stop: asyncio.Event,
    seen: Seen,
    seed: int,
    patience: Patience = lambda _: None,
) -> None:
    """Each asks as soon as it has its answer, until `stop`; answers under way are read to their end."""

    async def one(draw: random.Random) -> None:
        client = Client(port)
        while not stop.is_set():
            answer = await client.ask(make(draw), within_s=patience(draw))
            seen.note(answer)
            if answer.status in (0, 503):
                await asyncio.sleep(AWAY_S)
        client.close()

    await asyncio.gather(*(one(random.Random(f"{seed} {number}")) for number in range(num)))
