"""Plays a trace through the cache manager: what it would have found again, how long finding took, what that costs.

The manager is the engine's own (`farthing.cache.KVCache`); only the forward passes are left out, and each token that
would have been computed costs what a token was measured to cost. For each request, in the order of the timestamps:

    match(prompt)      what is found again; never the last token, whose logits are wanted
    grow               room for the prompt and for its answer but the last token, which is never computed
    commit             complete pages can be found from now on: of the prompt, and where the answer completed them
    release            they stay warm, until they are evicted

A request is over before the next one begins. An id of the trace is played as 512 equal tokens, an answer as tokens
that come nowhere else: the next turn of a conversation has ids of its own for what was answered, and whether
the tokens are the same the trace does not say. So answers take room and are never found.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.cache import Eviction, KVCache, Lease
from farthing.report.trace import BLOCK_SIZE, Trace, TraceRequest

__all__ = ["Replayed", "pages_for_all", "replay"]

I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Replayed:
    """What became of a trace in `num_pages` pages. Input tokens include cache_read_tokens."""

    num_requests: int
    num_refused: int  # larger than all pages together: never found, never kept
    num_hits: int  # requests that found a page or more
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    peak_pages: int  # in use at once, warm ones included
    match_s: float  # spent finding
    manage_s: float  # spent granting room, keeping and giving back

    @property
    def hit_rate(self) -> float:
        """The share of the input tokens that was found; 0 where there are none."""
        return self.cache_read_tokens / self.input_tokens if self.input_tokens else 0.0


def pages_for_all(trace: Trace, page_size: int) -> int:
    """Pages with which nothing of the trace is ever evicted (not all of them need be used)."""
    return max(1, sum(-(-_num_computed(request) // page_size) for request in trace.requests))


def replay(
    trace: Trace, num_pages: int, page_size: int, eviction: Eviction, tick: Callable[[int], None] = lambda _: None
) -> Replayed:
    """Play the whole trace; `tick` is called with the number of requests since it was last."""
    player = _Player(trace, KVCache(min(num_pages, pages_for_all(trace, page_size)), page_size, eviction=eviction))
    for number, request in enumerate(trace.requests, 1):
        player.play(request, number)
        if number % 100 == 0:
            tick(100)
    tick(len(trace.requests) % 100)
    return player.result()


class _Player:
    def __init__(self, trace: Trace, cache: KVCache) -> None:
        self.trace = trace
        self.cache = cache
        self.num_refused = self.num_hits = self.cache_read_tokens = self.peak_pages = 0
        self.match_s = self.manage_s = 0.0

    def play(self, request: TraceRequest, number: int) -> None:
        cache = self.cache
        if -(-_num_computed(request) // cache.page_size) > cache.num_pages:
            self.num_refused += 1
            return
        tokens = _tokens(request, self.trace.num_blocks + number)  # [_num_computed]
        began = time.perf_counter()
        lease = cache.match(tokens[: request.input_length])
        found = time.perf_counter()
        assert isinstance(lease, Lease)  # nobody else is computing anything
        num_found = lease.num_tokens
        is_room = cache.grow(lease, len(tokens) - num_found)
        assert is_room  # all pages are free or warm
        num_used = cache.num_pages - cache.num_free
        cache.commit(lease, tokens)
        cache.release(lease)
        self.manage_s += time.perf_counter() - found
        self.match_s += found - began
        self.peak_pages = max(self.peak_pages, num_used)
        self.cache_read_tokens += num_found
        self.num_hits += num_found > 0

    def result(self) -> Replayed:
        trace = self.trace
        return Replayed(
            num_requests=len(trace.requests),
            num_refused=self.num_refused,
            num_hits=self.num_hits,
            input_tokens=trace.input_tokens,
            output_tokens=trace.output_tokens,
            cache_read_tokens=self.cache_read_tokens,
            peak_pages=self.peak_pages,
            match_s=self.match_s,
            manage_s=self.manage_s,
        )


def _num_computed(request: TraceRequest) -> int:
    """Tokens whose keys and values are kept: an answer's last token is chosen, and nothing is computed from it."""
    return request.input_length + max(0, request.output_length - 1)


def _tokens(request: TraceRequest, own: int) -> I32:
    """Ids [_num_computed]: of a block its number, of all that is this request's alone `own`."""
    tokens = np.full(_num_computed(request), own, np.int32)
    num_known = min(request.input_length, len(request.blocks) * BLOCK_SIZE)
    tokens[:num_known] = np.repeat(request.blocks, BLOCK_SIZE)[:num_known]
    return tokens
