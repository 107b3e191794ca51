"""Law 1: what is answered does not depend on batching, chunking, prefix hits, preemption or aborts of others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.fake import VOCAB_SIZE, make_engine, naive
from tests.engine.play import play, scripts

any_schedule = given(
    script=scripts(VOCAB_SIZE - 1, max_prompt=40, max_tokens=24),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 50),
    num_pages=st.integers(6, 20),
    context=st.sampled_from([41, 48, 512]),
    is_prefix_cached=st.booleans(),
)


def check(script, num_pages, context, **config):
    engine = make_engine(context=context, num_pages=num_pages, **config)
    played = play(engine, script)
    for i, (_, request) in enumerate(script.requests):
        expected = naive(request.token_ids, request.params, min(context, num_pages * 8))
        done = played.done[i]
        assert list(done.token_ids) == expected[: len(done.token_ids)]
        if done.finish_reason != "abort":
            assert len(done.token_ids) == len(expected)
        assert "".join(token.text for token in played.tokens.get(i, [])) == done.text


@settings(max_examples=100, deadline=None)
@any_schedule
def test_any_schedule_gives_the_naive_answer(**case):
    check(**case)


@pytest.mark.torture
@settings(max_examples=20_000, deadline=None)
@any_schedule
def test_many_schedules_give_the_naive_answer(**case):
    check(**case)


@settings(max_examples=20, deadline=None)
@given(script=scripts(VOCAB_SIZE - 1, max_prompt=40, max_tokens=8, max_requests=4), chunk=st.integers(1, 64))
def test_without_kv_cache_too(script, chunk):
    played = play(make_engine(is_kv_cached=False, max_num_batched_tokens=chunk), script)
    for i, (_, request) in enumerate(script.requests):
        done = played.done[i]
        expected = naive(request.token_ids, request.params)
        assert list(done.token_ids) == (expected if done.finish_reason != "abort" else expected[: len(done.token_ids)])
