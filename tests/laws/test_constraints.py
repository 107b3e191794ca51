"""Law 1 with what requests change in the logits: with biases, penalties and constraints too, answers are the naive ones
in any company, cut into any chunks, put out and let in again."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.fake import VOCAB_SIZE, make_engine
from tests.engine.play import Script, play, scripts
from tests.engine.shaped import Steps, naive_shaped

penalties = st.sampled_from([0.0, 0.0, -2.0, 0.5, 2.0])
biases = st.lists(st.tuples(st.integers(0, VOCAB_SIZE - 1), st.sampled_from([-100.0, -3.0, 2.5, 100.0])), max_size=3)


@st.composite
def shaped_scripts(draw) -> Script:
    script = draw(scripts(VOCAB_SIZE - 1, max_prompt=40, max_tokens=24))

    def vary(request):
        params = replace(
            request.params,
            logit_bias=tuple(draw(biases)),
            presence_penalty=draw(penalties),
            frequency_penalty=draw(penalties),
            logprobs=draw(st.sampled_from([None, 2])),
        )
        stride, num = draw(st.integers(1, 6)), draw(st.integers(1, 30))
        make = (lambda: Steps(stride, num)) if draw(st.booleans()) else None
        return replace(request, params=params, make_constraint=make)

    return Script([(at, vary(request)) for at, request in script.requests], script.aborts)


@settings(max_examples=60, deadline=None)
@given(
    script=shaped_scripts(),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 50),
    num_pages=st.integers(6, 20),
    is_prefix_cached=st.booleans(),
    speculation=st.sampled_from(["off", "prompt-lookup"]),
)
def test_any_schedule_gives_the_naive_answer(script, num_pages, **config):
    played = play(make_engine(num_pages=num_pages, **config), script)
    for i, (_, request) in enumerate(script.requests):
        expected, reason = naive_shaped(request, num_pages * 8)
        done = played.done[i]
        if done.finish_reason == "abort":
            assert list(done.token_ids) == expected[: len(done.token_ids)]
        else:
            assert (list(done.token_ids), done.finish_reason) == (expected, reason)
        assert "".join(token.text for token in played.tokens.get(i, [])) == done.text
