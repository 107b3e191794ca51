"""What the engine promises besides the laws (tests/laws): limits, aborts, waiting, seeds, fairness."""

import math

import numpy as np
import pytest

from farthing.engine import EngineConfig
from farthing.errors import CapacityError, InvalidRequest
from farthing.request import Done, Message, Request, SamplingParams, Token
from tests.engine.fake import EOS, TEXT, greedy, logits_of, make_engine, naive, stored

PROMPT = tuple(i % 29 for i in range(50))


def run(engine, *requests):
    """Events in order, until there is no more work."""
    ids = [engine.submit(request) for request in requests]
    events = []
    while engine.has_work:
        events += engine.step()
    return ids, events


def test_streamed_text_is_the_whole_text():
    requests = [greedy(*PROMPT[i:], max_tokens=60, ignore_eos=True) for i in range(6)]
    ids, events = run(make_engine(), *requests)
    for id in ids:
        done = next(event for event in events if isinstance(event, Done) and event.request_id == id)
        tokens = [event for event in events if isinstance(event, Token) and event.request_id == id]
        assert "".join(token.text for token in tokens) == done.text
        assert tuple(token.token_id for token in tokens) == done.token_ids
        assert done.finish_reason == "length"
        assert len(done.token_ids) == 60


def test_an_end_of_sequence_ends_and_is_no_part_of_the_answer():
    answers = {i: naive(PROMPT[i:], SamplingParams(temperature=0, max_tokens=200)) for i in range(8)}
    start = next(i for i, answer in answers.items() if 2 < len(answer) < 200)
    (done,) = make_engine().generate([greedy(*PROMPT[start:], max_tokens=200)])
    assert done.finish_reason == "stop"
    assert list(done.token_ids) == answers[start]
    assert EOS not in done.token_ids
    assert done.usage.output_tokens == len(done.token_ids)
    (longer,) = make_engine().generate([greedy(*PROMPT[start:], max_tokens=200, ignore_eos=True)])
    assert longer.token_ids[: len(done.token_ids) + 1] == (*done.token_ids, EOS)


def text_of(prompt, n):
    ids = naive(prompt, SamplingParams(temperature=0, max_tokens=n, ignore_eos=True))
    return b"".join(TEXT[id] if id < len(TEXT) else b"" for id in ids).decode("utf-8", "replace")


def test_stop_strings_cut_the_text_before_themselves():
    whole = text_of(PROMPT, 60)
    at = next(i for i in range(10, 50) if whole[i : i + 3].isalnum() and whole[i : i + 3].isascii())
    stop = whole[at : at + 3]
    first = whole.index(stop)
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, stop=("nowhere to be found", stop))
    _, events = run(make_engine(), Request(token_ids=PROMPT, params=params))
    done = events[-1]
    assert done.finish_reason == "stop"
    assert done.text == whole[:first]
    assert "".join(event.text for event in events if isinstance(event, Token)) == done.text


def test_a_stop_string_that_does_not_come_is_not_lost():
    whole = text_of(PROMPT, 30)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, stop=(whole[-2:] + "never",))
    _, events = run(make_engine(), Request(token_ids=PROMPT, params=params))
    assert events[-1].text == whole
    assert "".join(event.text for event in events if isinstance(event, Token)) == whole


def test_max_tokens_is_clipped_to_the_context_and_to_the_pages():
    (done,) = make_engine(context=60).generate([greedy(*PROMPT, max_tokens=1000, ignore_eos=True)])
    assert (done.finish_reason, len(done.token_ids)) == ("length", 10)
    (done,) = make_engine(num_pages=7).generate([greedy(*PROMPT, max_tokens=1000, ignore_eos=True)])
    assert (done.finish_reason, len(done.token_ids)) == ("length", 6)


def test_what_can_never_fit_is_refused_at_once():
    engine = make_engine(context=51)
    engine.submit(greedy(*PROMPT))
    for small in (make_engine(context=50), make_engine(num_pages=6)):
        with pytest.raises(CapacityError, match="50 tokens"):
            small.submit(greedy(*PROMPT))
        assert not small.has_work


@pytest.mark.parametrize("token_ids", [(-1,), (40,), (3, 2**40)])
def test_ids_outside_the_vocabulary_are_refused(token_ids):
    with pytest.raises(InvalidRequest, match="0 to 39"):
        make_engine().submit(Request(token_ids=token_ids))


def test_generate_leaves_nothing_behind_when_one_is_refused():
    engine = make_engine()
    with pytest.raises(CapacityError):
        engine.generate([greedy(1, 2, 3), greedy(*PROMPT * 20)])
    assert not engine.has_work
    assert engine.cache.num_leased == 0


def test_generate_keeps_the_order():
    requests = [greedy(*PROMPT[i:], max_tokens=20 - 2 * i, ignore_eos=True) for i in range(8)]
    done = make_engine(max_num_seqs=3).generate(requests)
    assert [len(d.token_ids) for d in done] == [request.params.max_tokens for request in requests]
    assert [d.usage.input_tokens for d in done] == [len(request.token_ids) for request in requests]


def test_followers_wait_and_compute_the_shared_pages_once():
    engine = make_engine(max_num_batched_tokens=64)
    done = engine.generate([greedy(*PROMPT, 1, i, max_tokens=1) for i in range(9)])  # 52 tokens: 6 whole pages of 8
    assert engine.stats().num_computed_tokens == 52 + 8 * (52 - 48)
    assert [d.usage.cache_read_tokens for d in done] == [0] + [48] * 8


def test_without_prefix_caching_everyone_computes():
    engine = make_engine(is_prefix_cached=False)
    done = engine.generate([greedy(*PROMPT, max_tokens=1) for _ in range(4)])
    assert engine.stats().num_computed_tokens == 4 * 50
    assert [d.usage.cache_read_tokens for d in done] == [0] * 4


def test_followers_go_on_when_the_one_they_wait_for_is_aborted():
    engine = make_engine(max_num_batched_tokens=16)
    first = engine.submit(greedy(*PROMPT, 1))
    second = engine.submit(greedy(*PROMPT, 2))
    engine.step()
    aborted = engine.abort(first)
    assert (aborted.finish_reason, aborted.token_ids) == ("abort", ())
    events = []
    while engine.has_work:
        events += engine.step()
    assert events[-1].request_id == second
    assert list(events[-1].token_ids) == naive((*PROMPT, 2), SamplingParams(temperature=0, max_tokens=16))
    assert events[-1].usage.cache_read_tokens == 16
    assert engine.cache.num_leased == 0


def test_one_that_waits_lets_others_pass():
    engine = make_engine(max_num_batched_tokens=30)
    ids = [engine.submit(greedy(*PROMPT, i, max_tokens=30, ignore_eos=True)) for i in (1, 2)]
    other = engine.submit(greedy(9, 9, 9, max_tokens=30, ignore_eos=True))
    events = [event for _ in range(2) for event in engine.step()]
    assert {event.request_id for event in events} == {ids[0], other}


def test_a_prompt_takes_fewer_tokens_of_a_step_while_an_answer_is_written():
    engine = make_engine(context=512, max_num_batched_tokens=48, max_tokens_beside_answers=10)
    computed = []

    def step():
        before = engine.stats().num_computed_tokens
        engine.step()
        computed.append(engine.stats().num_computed_tokens - before)

    engine.submit(greedy(*PROMPT, max_tokens=4, ignore_eos=True))  # 50 tokens
    step()
    step()
    engine.submit(greedy(*(5, 9) * 45, max_tokens=1))
    while engine.has_work:
        step()
    assert computed == [48, 2, 1 + 10, 1 + 10, 1 + 10, 48, 12]


def test_abort_tells_what_there_is_and_gives_pages_back():
    engine = make_engine()
    id = engine.submit(greedy(*PROMPT, max_tokens=60, ignore_eos=True))
    texts = [engine.step()[0].text for _ in range(5)]
    done = engine.abort(id)
    assert (done.finish_reason, len(done.token_ids), done.text) == ("abort", 5, "".join(texts))
    assert engine.abort(id) is None
    assert not engine.has_work
    assert engine.step() == []
    assert engine.cache.num_leased == 0


def test_preemption_takes_the_youngest_and_changes_no_answer():
    engine = make_engine(num_pages=16, is_prefix_cached=False)
    requests = [greedy(*PROMPT[i : i + 20], max_tokens=60, ignore_eos=True) for i in range(4)]
    ids, events = run(engine, *requests)
    assert engine.stats().num_preemptions > 0
    ends = [event.request_id for event in events if isinstance(event, Done)]
    assert ends[0] == ids[0]
    for event in events:
        if isinstance(event, Done):
            request = requests[ids.index(event.request_id)]
            assert list(event.token_ids) == naive(request.token_ids, request.params)


def test_answers_go_on_while_a_long_prompt_is_computed_in_parts():
    engine = make_engine(context=512, max_num_batched_tokens=16)
    first = engine.submit(greedy(1, 2, 3, max_tokens=100, ignore_eos=True))
    engine.step()
    engine.submit(greedy(*PROMPT * 8, max_tokens=2))
    for _ in range(20):
        assert [event.request_id for event in engine.step()] == [first]


def test_a_seed_gives_the_same_answer_in_any_company():
    def asked(seed):
        return Request(token_ids=PROMPT, params=SamplingParams(seed=seed, max_tokens=20, ignore_eos=True))

    (alone,) = make_engine().generate([asked(7)])
    company = make_engine(max_num_batched_tokens=17, num_pages=20).generate([asked(seed) for seed in (3, 7, 8, 7)])
    assert company[1].token_ids == company[3].token_ids == alone.token_ids
    assert len({done.token_ids for done in company}) == 3
    fresh = make_engine().generate([asked(None), asked(None)])
    assert fresh[0].token_ids != fresh[1].token_ids


def test_logprobs_are_those_asked_for():
    def asked(logprobs):
        params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=logprobs)
        return Request(token_ids=PROMPT, params=params)

    ids, events = run(make_engine(), asked(None), asked(0), asked(2), asked(5))
    first = {event.request_id: event for event in reversed(events) if isinstance(event, Token)}
    expected = logits_of(stored(PROMPT, range(len(PROMPT)))).astype(np.float64)
    expected -= np.log(np.exp(expected).sum())
    assert first[ids[0]].logprob is None
    for id, n in zip(ids[1:], (0, 2, 5), strict=True):
        token = first[id]
        assert math.isclose(token.logprob, expected[token.token_id], abs_tol=1e-5)
        assert [top for top, _ in token.top_logprobs] == np.argsort(-expected, kind="stable")[:n].tolist()
        assert all(math.isclose(value, expected[top], abs_tol=1e-5) for top, value in token.top_logprobs)


def test_the_penalty_sees_prompt_and_answer():
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, repetition_penalty=1e6)
    plain = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    penalized, free = make_engine().generate(
        [Request(token_ids=PROMPT[:5], params=params), Request(token_ids=PROMPT[:5], params=plain)]
    )
    assert len({*PROMPT[:5], *penalized.token_ids}) == 35
    assert list(free.token_ids) == naive(PROMPT[:5], plain)


def test_without_kv_cache_every_token_computes_the_whole_sequence():
    engine = make_engine(is_kv_cached=False)
    engine.generate([greedy(*PROMPT, max_tokens=4, ignore_eos=True)] * 2)
    assert engine.stats().num_computed_tokens == 2 * (50 + 51 + 52 + 53)


def test_an_interrupted_step_can_be_taken_again():
    engine = make_engine()
    id = engine.submit(greedy(*PROMPT, max_tokens=12))
    engine.step()
    program, run_batch = engine.program, engine.program.run

    def interrupted(batch):
        run_batch(batch)
        program.run = run_batch
        raise KeyboardInterrupt

    program.run = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    events = []
    while engine.has_work:
        events += engine.step()
    assert events[-1].request_id == id
    assert list(events[-1].token_ids) == naive(PROMPT, SamplingParams(temperature=0, max_tokens=12))


def test_messages_become_the_models_chat():
    message = Message("user", "abc")
    params = SamplingParams(temperature=0, max_tokens=5)
    by_text, by_ids = make_engine().generate(
        [Request(messages=(message,), params=params), Request(token_ids=(0, 1, 2), params=params)]
    )
    assert by_text.token_ids == by_ids.token_ids


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_num_seqs", 0), ("max_num_batched_tokens", 0), ("max_tokens_beside_answers", 0),
     ("page_size", 12), ("num_pages", 0), ("k_codec", "f8"),
     ("product", "int4"), ("num_threads", 0), ("speculation", "on"), ("max_draft_tokens", 0)],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(name, value):
    with pytest.raises(InvalidRequest, match=f"{name} is {value!r}; allowed"):
        EngineConfig(**{name: value})


def test_too_little_memory_for_one_page_is_said():
    with pytest.raises(CapacityError, match="one page of this model takes 384"):
        make_engine(num_pages=None, kv_bytes=100, page_size=16)
