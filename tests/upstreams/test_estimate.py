from dataclasses import replace
from typing import Any

import pytest

from farthing.economics.count import count_tokens
from farthing.upstreams import UpstreamError
from farthing.upstreams.estimate import estimate_usage, max_usage, num_choices
from farthing.upstreams.output_limits import MOST_ASSUMED, UNKNOWN_MODEL, assumed_output
from tests.upstreams.provider import make_call

ENGLISH = "Budgets reserve an upper bound before the call and settle what was really used after it has ended. " * 30
CODE = "def settle(row: Row) -> int:\n    return sum(part or 0 for part in (row.input_pico, row.output_pico))\n\n" * 30
CHINESE = "预算在调用之前保留上限，并在调用结束之后结算实际使用的数量。" * 30


@pytest.mark.parametrize("text", [ENGLISH, CODE, CHINESE])
def test_the_bound_holds_and_the_estimate_is_near(text: str) -> None:
    exact = count_tokens(text, "o200k_base")
    call = make_call(messages=[{"role": "user", "content": text}])
    assert exact <= max_usage(call, None).input_tokens <= 2.2 * exact
    assert 0.6 * exact <= estimate_usage(call, 0).input_tokens <= 1.7 * exact
    assert 0.6 * exact <= estimate_usage(call, len(text.encode())).output_tokens <= 1.7 * exact
    assert max_usage(replace(call, model="claude-x"), None).input_tokens > max_usage(call, None).input_tokens


@pytest.mark.parametrize(
    ("body", "budget", "configured", "most"),
    [
        ({}, None, None, UNKNOWN_MODEL),
        ({}, None, 100, 100),
        ({"max_tokens": 50}, None, None, 50),
        ({"max_tokens": 50, "n": 3}, None, None, 150),
        ({"max_tokens": 50, "n": 3}, 70, None, 70),
        ({"max_tokens": 500}, None, 100, 100),
        ({"max_tokens": None}, None, 100, 100),
        ({"max_tokens": 10, "max_completion_tokens": 20}, None, None, 20),
        ({"max_tokens": 0}, None, None, 0),
    ],
)
def test_output_at_most(body: Any, budget: int | None, configured: int | None, most: int) -> None:
    call = replace(make_call(**body), max_output_tokens=budget)
    assert max_usage(call, configured).output_tokens == most


@pytest.mark.parametrize(
    "body",
    [{"max_tokens": -1}, {"max_tokens": 10**10}, {"max_tokens": "5"}, {"max_tokens": 1.5}, {"n": 0}, {"n": 10**6}],
)
def test_limits_that_cannot_be(body: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        max_usage(make_call(**body), None)
    assert (caught.value.status, caught.value.param) == (400, next(iter(body)))


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("gpt-4o-mini-2024-07-18", 16_384),
        ("openai/gpt-4o", 16_384),
        ("gpt-4-turbo", 4096),
        ("gpt-4.1-nano", MOST_ASSUMED),
        ("gpt-5-nano", MOST_ASSUMED),
        ("gpt-5-chat-latest", 16_384),
        ("o3-mini", MOST_ASSUMED),
        ("openai/o1", MOST_ASSUMED),
        ("us.anthropic.claude-3-5-haiku-20241022-v1:0", 8192),
        ("claude-3-haiku-20240307", 4096),
        ("Claude-Haiku-4-5", MOST_ASSUMED),
        ("models/gemini-2.0-flash", 8192),
        ("o1ly-7b", UNKNOWN_MODEL),
        ("", UNKNOWN_MODEL),
    ],
)
def test_no_more_is_assumed_than_a_model_gives(model: str, most: int) -> None:
    assert assumed_output(model) == most


def test_choices() -> None:
    assert num_choices({"prompt": ["a", "b"], "n": 2}) == 4
    assert num_choices({"prompt": [1, 2, 3]}) == 1
    assert num_choices({"prompt": [[1], [2, 3]], "best_of": 5, "n": 2}) == 10


def test_pictures_count_flat_and_token_ids_one_each() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    assert 1600 < max_usage(make_call(messages=[{"role": "user", "content": [picture]}]), 1).input_tokens < 1700
    assert 1000 <= max_usage(make_call("completions", prompt=list(range(1000))), 1).input_tokens < 1500
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    assert max_usage(make_call(messages=deep), 1).input_tokens < 10
