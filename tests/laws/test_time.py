"""Law 3, time: the seconds given to requests sum to the engine's busy seconds, whatever happens to them."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.economics.usage import Usage
from tests.engine.fake import VOCAB_SIZE, make_engine
from tests.engine.play import play, scripts


@settings(max_examples=60, deadline=None)
@given(
    script=scripts(VOCAB_SIZE - 1, max_prompt=40, max_tokens=12),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 50),
    num_pages=st.integers(6, 20),
    is_kv_cached=st.booleans(),
)
def test_seconds_and_tokens_are_conserved(script, **config):
    engine = make_engine(**config)
    played = play(engine, script)
    stats = engine.stats()
    usages = [done.usage for done in played.done.values()]
    assert math.isclose(math.fsum(usage.compute_s for usage in usages), stats.busy_s, rel_tol=0, abs_tol=1e-9)
    assert math.isclose(sum(usages, Usage()).compute_s, stats.busy_s, rel_tol=0, abs_tol=1e-9)
    assert (stats.busy_s > 0) == (stats.num_steps > 0)  # all may be aborted before the first step
    assert sum(usage.output_tokens for usage in usages) == stats.num_output_tokens
    assert sum(usage.cache_read_tokens for usage in usages) == stats.num_cached_tokens
    for i, (_, request) in enumerate(script.requests):
        usage = played.done[i].usage
        if played.done[i].finish_reason == "abort":  # so much of the prompt as was computed or found
            assert usage.cache_read_tokens <= usage.input_tokens <= len(request.token_ids)
        else:
            assert usage.input_tokens == len(request.token_ids) > usage.cache_read_tokens
        assert usage.output_tokens == len(played.done[i].token_ids)
        assert min(usage.input_s, usage.output_s) >= 0
        if usage.output_tokens <= 1 and played.done[i].finish_reason != "abort":
            assert usage.input_s > 0
