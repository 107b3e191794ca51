"""Scripts for an engine: which requests come when, which are aborted when. Used by the laws."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from farthing.engine import Engine
from farthing.request import Done, Request, SamplingParams, Token


@dataclass
class Script:
    requests: list[tuple[int, Request]]  # (step before which it is submitted, request)
    aborts: list[tuple[int, int]]  # (step before which, which request)


@dataclass
class Played:
    done: dict[int, Done] = field(default_factory=dict)  # by position in the script
    tokens: dict[int, list[Token]] = field(default_factory=dict)


@st.composite
def scripts(draw, vocab_size: int, max_prompt: int, max_tokens: int, max_requests: int = 8) -> Script:
    """Prompts are pieces of few stems, so that many share a prefix, end inside another's, or are the same."""
    token = st.integers(0, vocab_size - 1)
    stems = draw(st.lists(st.lists(token, min_size=max_prompt, max_size=max_prompt), min_size=1, max_size=2))
    requests = []
    for _ in range(draw(st.integers(1, max_requests))):
        stem = draw(st.sampled_from(stems))
        length = draw(st.integers(1, max_prompt) | st.sampled_from([n for n in (8, 16, 24, 32) if n <= max_prompt]))
        tail = draw(st.lists(token, max_size=3))
        prompt = (stem[:length] + tail)[:max_prompt]
        params = SamplingParams(
            temperature=0.0, max_tokens=draw(st.integers(1, max_tokens)), ignore_eos=draw(st.booleans())
        )
        salt = draw(st.sampled_from(["", "", "other"]))
        requests.append((draw(st.integers(0, 12)), Request(token_ids=tuple(prompt), params=params, salt=salt)))
    pairs = st.tuples(st.integers(0, 30), st.integers(0, len(requests) - 1))
    return Script(requests, draw(st.lists(pairs, max_size=2)))


def play(engine: Engine, script: Script) -> Played:
    """Runs the script to its end; checks that pages add up after every step, and none is held at last."""
    played = Played()
    number: dict[int, int] = {}  # request id -> position in the script
    step, last = 0, max(at for at, _ in script.requests)
    while engine.has_work or step <= last:
        for i, (at, request) in enumerate(script.requests):
            if at == step:
                number[engine.submit(request)] = i
        for at, i in script.aborts:
            ids = [id for id, position in number.items() if position == i]
            if at == step and ids and (done := engine.abort(ids[0])):
                played.done[i] = done
        for event in engine.step():
            if isinstance(event, Done):
                played.done[number[event.request_id]] = event
            else:
                played.tokens.setdefault(number[event.request_id], []).append(event)
        engine.cache.check()
        step += 1
        assert step < 20_000, "the engine does not come to an end"
    assert engine.cache.num_leased == 0
    assert played.done.keys() == set(range(len(script.requests)))
    return played
