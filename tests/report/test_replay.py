"""A replay finds what a plain model of an LRU cache finds, and counts what it takes."""

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.report.replay import pages_for_all, replay
from farthing.report.trace import Trace, TraceRequest, read_trace


def trace_of(*requests):
    """A trace of (input_length, output_length, blocks), one a second."""
    made = [
        TraceRequest(float(time), input_length, output_length, np.array(blocks, np.int32))
        for time, (input_length, output_length, blocks) in enumerate(requests)
    ]
    return Trace("made", "mooncake", tuple(made), 1 + max((b for _, _, blocks in requests for b in blocks), default=-1))


def found_by_plain_lru(trace, num_pages, page_size):
    """Tokens found: an independent model. Pages are named by all tokens up to their end, in the order of last use."""
    pages, num_found = OrderedDict(), 0
    for number, request in enumerate(trace.requests):
        tokens = [block for block in request.blocks.tolist() for _ in range(512)][: request.input_length]
        answer = max(0, request.output_length - 1)
        tokens += [f"of {number}"] * (request.input_length - len(tokens) + answer)
        num_needed = -(-len(tokens) // page_size)
        if num_needed > num_pages:
            continue
        names = [tuple(tokens[: (i + 1) * page_size]) for i in range(len(tokens) // page_size)]
        prompt = names[: max(0, (request.input_length - 1) // page_size)]
        found = next((i for i, name in enumerate(prompt) if name not in pages), len(prompt))
        num_found += found * page_size
        evictable = iter([name for name in pages if name not in names[:found]])
        while len(pages) + num_needed - found > num_pages:
            del pages[next(evictable)]
        for name in reversed(names):  # the end of a prefix is of use only as long as its beginning is there
            pages[name] = None
            pages.move_to_end(name)
    return num_found


def test_by_hand():
    one = (1025, 1, [0, 1, 2])  # two complete pages and a token
    trace = trace_of(one, one, (1024, 1, [0, 1]), (1537, 600, [0, 3, 4, 5]), one)
    played = replay(trace, 1000, 512, "lru")
    # The second finds both pages, the third one: its second holds its last token. The fourth finds page 0.
    assert played.cache_read_tokens == 1024 + 512 + 512 + 1024
    assert played.hit_rate == played.cache_read_tokens / (4 * 1025 + 1024 - 1025 + 1537)
    assert (played.num_requests, played.num_hits, played.num_refused) == (5, 4, 0)
    assert played.peak_pages == 2 + 4  # 0 1, then 3 4, one of an answer, and one that is not complete


def test_the_least_recently_used_goes_first():
    a, b, c = ((1025, 1, [n, n + 1, n + 2]) for n in (0, 10, 20))
    assert replay(trace_of(a, b, a, c, a), 5, 512, "lru").cache_read_tokens == 2048  # c takes b's room
    assert replay(trace_of(a, b, a, c, b), 5, 512, "lru").cache_read_tokens == 1024
    assert replay(trace_of(a, b, a, c, b), 9, 512, "lru").cache_read_tokens == 2048


def test_what_is_larger_than_the_cache_is_a_miss_and_counted():
    small, large = (1025, 1, [0, 1, 2]), (3000, 1, [0, 1, 5, 6, 7, 8])
    played = replay(trace_of(small, large, large, small), 5, 512, "lru")
    assert (played.num_refused, played.cache_read_tokens, played.input_tokens) == (2, 1024, 8050)


def test_answers_take_room_and_are_never_found():
    turns = trace_of((512, 513, [0]), (1537, 513, [0, 1, 2, 3]))
    played = replay(turns, 1000, 512, "lru")
    assert played.cache_read_tokens == 512
    assert played.peak_pages == 2 + 4


def test_nothing_is_found_where_nothing_is_known_of_the_prompts():
    played = replay(trace_of(*[(2000, 100, [])] * 20), 100, 512, "lru")
    assert played.hit_rate == 0
    assert played.peak_pages == 4 * 20 + 1  # 2,099 tokens each: the fifth page is given back


def test_requests_without_tokens():
    played = replay(trace_of((0, 0, []), (0, 1, []), (0, 700, [])), 100, 512, "lru")
    assert (played.hit_rate, played.peak_pages) == (0, 2)


requests = st.tuples(
    st.integers(1, 2100), st.integers(0, 1100), st.lists(st.integers(0, 2), min_size=5, max_size=5), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(st.lists(requests, max_size=30), st.integers(1, 20), st.sampled_from([512, 256, 300]))
def test_a_replay_finds_what_plain_lru_finds(made, num_pages, page_size):
    trace = trace_of(*[(n, m, blocks[: n // 512 + (is_whole and n % 512 > 0)]) for n, m, blocks, is_whole in made])
    played = replay(trace, num_pages, page_size, "lru")
    assert played.cache_read_tokens == found_by_plain_lru(trace, num_pages, page_size)
    assert played.peak_pages <= min(num_pages, pages_for_all(trace, page_size))


@pytest.mark.skipif("FARTHING_DATA" not in os.environ, reason="FARTHING_DATA is not set: no trace to play")
@pytest.mark.parametrize(("tokens", "percent"), [(2_560_000, 11.0), (10_240_000, 28.8), (None, 36.6)])
def test_mooncakes_conversations(tokens, percent):
    """The figures that are known of this trace, within a point."""
    trace = read_trace(Path(os.environ["FARTHING_DATA"]) / "traces/mooncake/conversation_trace.jsonl")
    num_pages = pages_for_all(trace, 512) if tokens is None else tokens // 512
    played = replay(trace, num_pages, 512, "lru")
    assert 100 * played.hit_rate == pytest.approx(percent, abs=1)
    assert played.num_refused == 0
