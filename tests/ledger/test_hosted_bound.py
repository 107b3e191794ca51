"""Under a budget a hosted call goes out with the limit that was reserved; what is left is an estimate's error."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from farthing.economics.usage import Usage
from farthing.ledger import LedgerConfig, open_reader
from farthing.ledger.overshoot import Overshoot
from farthing.upstreams import anthropic, openai
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.errors import UpstreamError
from tests.ledger.leaf import MODEL, Leaf, a_call
from tests.ledger.open_books import books_of, budget_of, query, rows_of, used_of
from tests.upstreams.provider import Answer, Provider, as_json

SAID = [{"role": "user", "content": "x" * 288}]  # 104 tokens by the estimate, with the keys around it


def answered(text: str = "hi", finish: str = "stop", prompt: int = 5, completion: int = 2) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return as_json({"model": MODEL, "choices": [choice], "usage": usage})


async def sent(
    config: LedgerConfig, body: dict[str, Any], answer: Answer, kind: Any = openai, wire: Any = "chat", **table: Any
) -> tuple[dict[str, Any], Tally]:
    """What one call under the ledger's budgets sends its provider."""
    async with Provider(answer) as provider, books_of(config) as books:
        leaf = kind.from_config("up", {"base_url": provider.url, "provider": "x"} | table)
        tally = Tally()
        async for _ in books.metered(leaf, provider="x").stream(a_call(body=body, wire=wire), tally):
            pass
        await leaf.aclose()
        return provider.requests[0][2], tally


@pytest.mark.parametrize(
    ("budget", "body", "most"),
    [
        ("1usd/month", {}, {"max_tokens": 4096}),  # what nearly every model gives
        ("1usd/month", {"max_tokens": None}, {"max_tokens": 4096}),
        ("1usd/month", {"max_tokens": 90}, {"max_tokens": 90}),
        ("1000tokens/day", {}, {"max_tokens": 896}),  # 104 are reserved for the prompt
        ("1000tokens/day", {"n": 3}, {"max_tokens": 298}),
        ("1000tokens/day", {"max_completion_tokens": 5000}, {"max_completion_tokens": 896}),
        (
            "0.001104usd/total",
            {},
            {"max_tokens": 500},
        ),  # a token of the answer costs as two of the prompt
        (None, {}, {}),
        (None, {"max_tokens": 10**6}, {"max_tokens": 10**6}),
    ],
)
def test_every_call_has_a_bound_where_a_budget_applies(
    config: LedgerConfig, budget: str | None, body: dict[str, Any], most: dict[str, int]
) -> None:
    if budget is not None:
        budget_of(config, budget)
    out, _ = asyncio.run(sent(config, {"messages": SAID, "unknown": [1]} | body, answered()))
    assert {name: value for name, value in out.items() if name.startswith("max_") and value} == most
    assert (out["messages"], out["unknown"]) == (SAID, [1])


def test_the_field_is_the_upstreams(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")
    out, _ = asyncio.run(sent(config, {"messages": SAID}, answered(), limit_field="max_completion_tokens"))
    assert out["max_completion_tokens"] == 896
    assert "max_tokens" not in out
    out, _ = asyncio.run(sent(config, {"prompt": "a"}, answered(), wire="completions", provider="openai"))
    assert out["max_tokens"] < 1000


def test_anthropic_is_sent_less_than_the_client_asked_for(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")
    message = {"type": "message", "content": [{"type": "text", "text": "a"}], "stop_reason": "max_tokens"}
    usage = {"input_tokens": 9, "output_tokens": 890}
    answer = as_json(message | {"role": "assistant", "model": MODEL, "usage": usage})
    body = {"messages": SAID, "max_tokens": 5000}
    out, tally = asyncio.run(sent(config, body, answer, anthropic, "messages"))
    assert (out["max_tokens"], tally.is_cut) == (896, True)
    assert rows_of(config)[0].finish_reason == "length"


def test_the_provider_ends_the_answer_and_the_budget_is_named(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")
    _, tally = asyncio.run(sent(config, {"messages": SAID}, answered("a b", "length", 100, 896)))
    assert tally.is_cut
    assert used_of(config) == [(996, 0)]


def test_each_choice_gets_a_token_or_none_is_asked_for(config: LedgerConfig) -> None:
    budget_of(config, "107tokens/day")
    out, _ = asyncio.run(sent(config, {"messages": SAID, "n": 3}, answered(completion=3)))
    assert out["max_tokens"] == 1
    with pytest.raises(UpstreamError, match="needed 108 tokens") as caught:
        asyncio.run(sent(config, {"messages": SAID, "n": 4}, answered()))
    assert caught.value.code == "budget_exceeded"
    assert len(rows_of(config)) == 1


def test_an_answer_in_one_piece_that_ignores_its_limit_is_given_and_charged(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")
    _, tally = asyncio.run(sent(config, {"messages": SAID}, answered("word " * 20_000, completion=20_000)))
    assert tally.whole is not None
    assert used_of(config) == [(20_005, 0)]


def test_a_stream_that_ignores_its_limit_is_ended_by_its_words(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")
    event = {"model": MODEL, "choices": [{"index": 0, "delta": {"content": "ord " * 10 + "w"}}]}
    answer = Answer((b"data: " + orjson.dumps(event) + b"\n\n") * 500, is_stuck=True)

    async def tour() -> None:
        async with Provider(answer) as provider, books_of(config) as books:
            leaf, tally = openai.from_config("up", {"base_url": provider.url, "provider": "x"}), Tally()
            call = a_call(body={"messages": SAID, "max_tokens": 100}, is_stream=True)
            found = [chunk async for chunk in books.metered(leaf, provider="x").stream(call, tally)]
            text = "".join(chunk.text for chunk in found)
            assert 100 < len(text.split()) < 120  # the words of two pieces that meet are one
            assert (found[-1].finish_reason, tally.is_cut) == ("length", True)
            await leaf.aclose()

    asyncio.run(tour())


class Honest(Leaf):
    """Says as many words as it was allowed tokens: no tokenizer makes fewer of them."""

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        most = self.max_usage(call)
        for at in range(most.output_tokens):
            yield Chunk(text=" honest", index=at % 2)
        for index in (0, 1):
            yield Chunk(index=index, finish_reason="length")
        tally.usage, tally.usage_source = most, "provider"


def test_an_honest_stream_is_not_ended(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")

    async def tour() -> None:
        async with books_of(config) as books:
            leaf = Honest(most=Usage(10, 0, 400))
            stream = books.metered(leaf).stream(a_call(is_stream=True), Tally())
            assert len([chunk async for chunk in stream]) == 402

    asyncio.run(tour())
    assert used_of(config) == [(410, 0)]


def test_what_the_estimate_missed_is_recorded_and_shown(config: LedgerConfig) -> None:
    dear, other = budget_of(config, "1000tokens/day"), budget_of(config, "1usd/day")
    asyncio.run(sent(config, {"messages": SAID, "max_tokens": 10}, answered(prompt=200, completion=10)))
    asyncio.run(sent(config, {"messages": SAID, "max_tokens": 10}, answered(prompt=300, completion=10)))
    asyncio.run(sent(config, {"messages": SAID, "max_tokens": 10}, answered(prompt=50, completion=10)))
    with open_reader(config.url) as reader:
        found = reader.overshoots(0, 2**62)
        assert found[dear.id] == Overshoot(2, 96 + 196, 196)
        assert found[other.id] == Overshoot(2, (96 + 196) * 10**6, 196 * 10**6)
        assert reader.overshoots(0, rows_of(config)[0].started_us - 10) == {}
    events = query(config, "SELECT reservation_id, amount FROM reservations WHERE event = 'reserve' ORDER BY id")
    assert {event[0] for event in events} == {row.id for row in rows_of(config)}  # which estimate is which row's
