"""Usage as providers report it, with the mistakes that gateways make in reading it (ECONOMICS.md 1.2, 3.3)."""

import pytest

from farthing.economics.usage import Usage
from farthing.upstreams import UpstreamError
from farthing.upstreams.usage_wire import AnthropicUsage, openai_usage, timings_usage


def reported(prompt: int, completion: int | None, **more: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        (reported(10, 5), Usage(10, 0, 5)),
        (reported(10, 5, total_tokens=15, prompt_tokens_details=None), Usage(10, 0, 5)),
        (reported(10, 5, prompt_tokens_details={"cached_tokens": 8}), Usage(10, 8, 5)),
        (reported(10, 5, prompt_tokens_details={"cached_tokens": None}), Usage(10, 0, 5)),
        (reported(10, 5, prompt_cache_hit_tokens=8, prompt_cache_miss_tokens=2), Usage(10, 8, 5)),  # DeepSeek
        (reported(10, 5, cached_tokens=8), Usage(10, 8, 5)),  # Moonshot
        (reported(10, 5, prompt_tokens_details={"cached_tokens": 0}, cached_tokens=8), Usage(10, 0, 5)),  # measured 0
        (
            reported(10, 5, prompt_tokens_details={"cached_tokens": 3, "cache_write_tokens": 4}),
            Usage(10, 3, 5, cache_write_tokens=4),
        ),
        (
            reported(10, 5, total_tokens=15, completion_tokens_details={"reasoning_tokens": 4}),
            Usage(10, 0, 5, reasoning_tokens=4),
        ),
        (  # xAI leaves reasoning out of completion_tokens
            reported(32, 27, total_tokens=407, completion_tokens_details={"reasoning_tokens": 348}),
            Usage(32, 0, 375, reasoning_tokens=348),
        ),
        (reported(32, 27, total_tokens=100), Usage(32, 0, 68, reasoning_tokens=41)),  # Gemini says only the total
        (  # without a total: more thought than said
            reported(32, 27, completion_tokens_details={"reasoning_tokens": 348}),
            Usage(32, 0, 375, reasoning_tokens=348),
        ),
        (reported(10, 5, prompt_tokens_details={"cached_tokens": 90}), Usage(100, 90, 5)),  # cache not in the prompt
        (reported(10, 5, total_tokens=23, prompt_tokens_details={"cached_tokens": 8}), Usage(18, 8, 5)),
        (reported(10, None, total_tokens=10), Usage(10, 0, 0)),
        (reported(10, None), Usage(10, 0, 0)),
        ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, Usage(10, 0, 5)),
        (None, None),
        ({}, None),
        ({"prompt_tokens": None, "completion_tokens": None}, None),
        (reported(0, 0), Usage()),
    ],
)
def test_openai(wire: object, usage: Usage | None) -> None:
    assert openai_usage(wire) == usage


@pytest.mark.parametrize(
    "wire",
    [
        [],
        "12",
        reported(-1, 5),
        reported(1, -5),
        {"prompt_tokens": 1.5},
        {"prompt_tokens": True},
        {"prompt_tokens": "10", "completion_tokens": 5},
        reported(10**12, 5),
        reported(10, 5, prompt_tokens_details=[3]),
        reported(10, 5, prompt_tokens_details={"cached_tokens": -3}),
        reported(10, 5, completion_tokens_details={"reasoning_tokens": float("inf")}),
    ],
)
def test_openai_refuses_nonsense(wire: object) -> None:
    with pytest.raises(UpstreamError) as caught:
        openai_usage(wire)
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


def test_llama_cpp_timings() -> None:
    assert timings_usage({"cache_n": 12, "prompt_n": 9, "predicted_n": 3}) == Usage(21, 12, 3)
    assert timings_usage({"prompt_n": 9, "predicted_n": 3}) == Usage(9, 0, 3)
    assert timings_usage({"prompt_n": 9}) is None
    assert timings_usage(None) is None


def test_anthropic_adds_the_parts_and_keeps_the_largest() -> None:
    usage = AnthropicUsage()
    usage.add(
        {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 30, "output_tokens": 1}
    )
    usage.add(None)
    usage.add({"output_tokens": 25})
    usage.add({"output_tokens": 40, "input_tokens": 0, "cache_read_input_tokens": None})
    assert usage.usage == Usage(60, 30, 40, cache_write_tokens=20)


def test_anthropic_splits_what_is_kept_for_an_hour() -> None:
    usage = AnthropicUsage()
    split = {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 100}
    usage.add({"input_tokens": 1, "cache_creation_input_tokens": 120, "cache_creation": split, "output_tokens": 2})
    assert usage.usage == Usage(121, 0, 2, cache_write_tokens=120, cache_write_1h_tokens=100)


@pytest.mark.parametrize("wire", [7, {"input_tokens": -1}, {"cache_creation": []}, {"output_tokens": 10**10}])
def test_anthropic_refuses_nonsense(wire: object) -> None:
    with pytest.raises(UpstreamError):
        AnthropicUsage().add(wire)
