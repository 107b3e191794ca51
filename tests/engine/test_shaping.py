"""Biases, penalties and constraints; and what the engine says about requests under way."""

import math
from itertools import pairwise

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.request import Done, Request, SamplingParams, Token
from tests.engine.fake import EOS, VOCAB_SIZE, greedy, logits_of, make_engine, naive, stored
from tests.engine.shaped import Steps, naive_shaped

PROMPT = tuple(i % 29 for i in range(50))


def run(engine, request):
    engine.submit(request)
    events = []
    while engine.has_work:
        events += engine.step()
    return events


def test_a_bias_chooses_and_forbids():
    first = naive(PROMPT, SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))[0]
    chosen = greedy(*PROMPT, max_tokens=5, ignore_eos=True, logit_bias=((7, 100.0),))
    forbidden = greedy(*PROMPT, max_tokens=5, ignore_eos=True, logit_bias=((first, -100.0),))
    plain = greedy(*PROMPT, max_tokens=5, ignore_eos=True)
    done = make_engine().generate([chosen, forbidden, plain])
    assert done[0].token_ids == (7,) * 5
    assert done[1].token_ids[0] != first
    assert list(done[2].token_ids) == naive(PROMPT, plain.params)


def test_a_bias_named_twice_counts_twice():
    request = greedy(*PROMPT, max_tokens=3, ignore_eos=True, logit_bias=((7, 60.0), (7, -100.0), (8, 50.0)))
    (done,) = make_engine().generate([request])
    assert done.token_ids == (8, 8, 8)


@pytest.mark.parametrize("id", [-1, VOCAB_SIZE, 2**40])
def test_a_bias_of_a_token_that_does_not_exist_is_refused(id):
    engine = make_engine()
    with pytest.raises(InvalidRequest, match="0 to 39"):
        engine.submit(greedy(*PROMPT, logit_bias=((id, 1.0),)))
    assert not engine.has_work


@pytest.mark.parametrize(
    "bad",
    [{"logit_bias": ((1, 100.5),)}, {"logit_bias": ((1, math.nan),)}, {"presence_penalty": 2.1}]
    + [{"frequency_penalty": value} for value in (-2.1, math.nan, math.inf)],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(InvalidRequest, match=next(iter(bad))):
        SamplingParams(**bad)


@pytest.mark.parametrize("penalties", [(2.0, 0.0), (0.0, 1.5), (-2.0, 0.3), (1.0, 2.0)])
def test_penalties_count_the_answer_and_not_the_prompt(penalties):
    presence, frequency = penalties
    request = greedy(*PROMPT, max_tokens=40, ignore_eos=True, presence_penalty=presence, frequency_penalty=frequency)
    for speculation in ("off", "prompt-lookup"):
        (done,) = make_engine(speculation=speculation).generate([request])
        assert list(done.token_ids) == naive_shaped(request)[0]


def test_log_probabilities_stay_the_models_own():
    request = greedy(*PROMPT, max_tokens=4, ignore_eos=True, logprobs=3, logit_bias=((7, 100.0),))
    tokens = [event for event in run(make_engine(), request) if isinstance(event, Token)]
    known = list(PROMPT)
    for token in tokens:
        logits = logits_of(stored(known, range(len(known)))).astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum())
        assert token.logprob == pytest.approx(logs[7], abs=1e-5)
        assert [id for id, _ in token.top_logprobs] == list(np.argsort(-logs, kind="stable")[:3])
        assert [value for _, value in token.top_logprobs] == pytest.approx(sorted(logs)[:-4:-1], abs=1e-5)
        known.append(token.token_id)


def constrained(stride, num, *, max_tokens=30, **params):
    asked = SamplingParams(temperature=0, max_tokens=max_tokens, **params)
    return Request(token_ids=PROMPT, params=asked, make_constraint=lambda: Steps(stride, num))


def test_a_constraint_chooses_and_ends_the_answer():
    request = constrained(5, 12)
    engine = make_engine()
    for done in engine.generate([request, request]):  # each has a constraint of its own
        assert (list(done.token_ids), done.finish_reason) == naive_shaped(request)
        assert [id % 5 for id in done.token_ids] == [n % 5 for n in range(12)]
    (cut,) = engine.generate([constrained(5, 12, max_tokens=6)])
    assert (len(cut.token_ids), cut.finish_reason) == (6, "length")
    (full,) = engine.generate([constrained(5, 12, max_tokens=12)])
    assert (len(full.token_ids), full.finish_reason) == (12, "stop")


def test_text_that_was_held_comes_with_a_constraints_last_token():
    events = run(make_engine(), constrained(2, 9, stop=("never seen",)))
    assert isinstance(events[-1], Done)
    assert "".join(event.text for event in events[:-1]) == events[-1].text


def test_a_constraint_without_a_way_on_ends_the_answer():
    class Nothing(Steps):
        def mask(self) -> bytes:
            return bytes(5)

    request = Request(token_ids=PROMPT, params=SamplingParams(ignore_eos=True), make_constraint=lambda: Nothing(1, 9))
    (done,) = make_engine().generate([request])
    assert (done.token_ids, done.finish_reason) == ((), "stop")


def test_constrained_answers_have_no_drafts():
    engine = make_engine(speculation="prompt-lookup")
    engine.generate([constrained(3, 30)])
    assert engine.stats().num_draft_tokens == 0


def test_usage_of_a_request_under_way_grows_and_is_that_of_its_end():
    engine = make_engine(max_num_batched_tokens=16)
    id = engine.submit(greedy(*PROMPT, max_tokens=5, ignore_eos=True))
    assert engine.is_waiting(id)
    assert engine.usage(id).input_tokens == 0
    seen = []
    while True:
        events = engine.step()
        if any(isinstance(event, Done) for event in events):
            break
        assert not engine.is_waiting(id)
        seen.append(engine.usage(id))
    assert [usage.input_tokens for usage in seen] == [16, 32, 48, 50, 50, 50, 50]
    assert [usage.output_tokens for usage in seen] == [0, 0, 0, 1, 2, 3, 4]
    assert all(a.compute_s < b.compute_s for a, b in pairwise(seen))
    assert (events[-1].usage.input_tokens, events[-1].usage.output_tokens) == (50, 5)
    with pytest.raises(InvalidRequest, match=f"id {id}"):
        engine.usage(id)


def test_an_aborted_prompt_has_used_what_was_computed():
    engine = make_engine(max_num_batched_tokens=16)
    id = engine.submit(greedy(*PROMPT))
    engine.step()
    assert engine.abort(id).usage.input_tokens == 16
    waiting = engine.submit(greedy(*PROMPT))
    assert engine.abort(waiting).usage.input_tokens == 0
    assert engine.cache.num_leased == 0


def test_load_counts_who_runs_who_waits_and_the_pages():
    engine = make_engine(max_num_seqs=2)
    assert (engine.load().num_running, engine.load().num_waiting, engine.load().used_share) == (0, 0, 0)
    for i in range(5):
        engine.submit(greedy(i, *PROMPT, max_tokens=30, ignore_eos=True))
    engine.step()
    load = engine.load()
    assert (load.num_running, load.num_waiting) == (2, 3)
    assert load.num_used_pages == engine.cache.num_leased > 0
    assert 0 < load.used_share <= 1
    while engine.has_work:
        engine.step()
    assert engine.load().num_used_pages == 0


def test_the_end_of_sequence_ends_a_constrained_answer_even_where_it_is_ignored():
    class OrEnd(Steps):
        def mask(self) -> bytes:
            bits = np.zeros(VOCAB_SIZE, np.uint8)
            bits[EOS] = 1
            return np.packbits(bits, bitorder="little").tobytes()

    request = Request(
        token_ids=PROMPT, params=SamplingParams(temperature=0, ignore_eos=True), make_constraint=lambda: OrEnd(1, 9)
    )
    (done,) = make_engine().generate([request])
    assert (done.token_ids, done.finish_reason) == ((), "stop")
