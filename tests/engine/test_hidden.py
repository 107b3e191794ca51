"""Hidden states of prompts: the same whatever company, cache or speculation a request has, and only where wanted."""

from dataclasses import replace

import pytest

from farthing.request import Done
from tests.engine.fake import greedy, logits_of, make_engine, stored

PROMPTS = [tuple((i * step) % 29 for i in range(length)) for step, length in ((1, 50), (1, 40), (3, 17), (5, 1))]


def state_of(prompt):
    return tuple(logits_of(stored(prompt, range(len(prompt))))[:8].tolist())


def asked(prompt, **more):
    return replace(greedy(*prompt, max_tokens=12, **more), wants_hidden=True)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_num_batched_tokens": 16},
        {"is_kv_cached": False},
        {"is_prefix_cached": False, "num_pages": 12},
        {"speculation": "prompt-lookup"},
    ],
)
def test_it_is_the_prompts_last_tokens_in_any_company(config):
    engine = make_engine(**config)
    found = engine.generate([asked(prompt, ignore_eos=True) for prompt in PROMPTS])
    again = engine.generate([asked(prompt, ignore_eos=True) for prompt in PROMPTS])
    for prompt, first, second in zip(PROMPTS, found, again, strict=True):
        assert first.hidden == second.hidden == state_of(prompt)
        assert first.token_ids == second.token_ids


def test_nobody_gets_it_unasked():
    engine = make_engine()
    wanted, unwanted = engine.generate([asked(PROMPTS[0]), greedy(*PROMPTS[0], max_tokens=12)])
    assert wanted.hidden
    assert unwanted.hidden == ()
    assert wanted.token_ids == unwanted.token_ids


def test_an_abort_before_the_prompts_end_has_none():
    engine = make_engine(max_num_batched_tokens=16)
    early, late = engine.submit(asked(PROMPTS[0])), engine.submit(asked(PROMPTS[3]))
    engine.step()
    done = engine.abort(early)
    assert done is not None
    assert done.hidden == ()
    ends = [event for _ in range(20) for event in engine.step() if isinstance(event, Done)]
    assert [(event.request_id, event.hidden) for event in ends] == [(late, state_of(PROMPTS[3]))]
