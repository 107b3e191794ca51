"""What is asked of a hosted endpoint, and what becomes of its answers and errors."""

import asyncio
from contextlib import nullcontext
from datetime import UTC, datetime

from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.prices import PriceBook, TokenCounts
from farthing.economics.usage import Usage
from farthing.report.compare_answers import Answer
from farthing.report.compare_run import GIVE_UP, Asking, Candidate, ask_all, body_of, key_of
from farthing.report.compare_task import TaskRow
from farthing.upstreams import Chunk
from farthing.upstreams.openai import from_config
from tests.upstreams.provider import Provider, as_json, run

CANDIDATE = Candidate("up/gpt-5-nano", "gpt-5-nano", False, lambda: nullcontext())
PRICER = Pricer(PriceBook(), HostCost())


def row(id, **body):
    return TaskRow(str(id), {"messages": [{"role": "user", "content": f"q{id}"}], **body}, ("left",), ("left", "right"))


def reply(text):
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return as_json({"id": "c", "object": "chat.completion", "model": "gpt-5-nano", "choices": [choice], "usage": usage})


async def play(rows, *replies, asking=None):
    answers: list[Answer] = []
    async with Provider(*replies) as provider:
        table = {"base_url": provider.url, "provider": "openai", "retries": 0}
        upstream = from_config("up", table)
        stopped = await ask_all(CANDIDATE, upstream, rows, asking or Asking(), PRICER, answers.append)
        await upstream.aclose()
    return answers, stopped, provider


def test_a_hosted_model_is_asked_what_the_row_says_and_priced_by_the_list():
    answers, stopped, provider = run(play([row(1), row(2, temperature=1, max_tokens=5)], reply("It is left.")))
    assert stopped is None
    assert [answer.is_right for answer in answers] == [True, True]
    bodies = [body for _, _, body in provider.requests]
    assert bodies[0] == {
        "model": "gpt-5-nano",
        "messages": [{"role": "user", "content": "q1"}],
        "temperature": 0.0,
        "max_completion_tokens": 256,  # the name that OpenAI's newer models want
    }
    assert (bodies[1]["temperature"], bodies[1]["max_tokens"]) == (1, 5)
    price = PriceBook().find("gpt-5-nano", at=datetime.now(UTC), provider="openai")
    assert answers[0].cost_pico == int(price.bill(TokenCounts(1000, 10)).total_usd.scaleb(12))
    assert (answers[0].input_tokens, answers[0].output_tokens) == (1000, 10)
    assert answers[0].latency_us > 0


def test_errors_among_answers_go_on_and_errors_alone_give_up():
    refusal = as_json({"error": {"message": "no", "code": "nope"}}, status=400)
    answers, stopped, _ = run(play([row(i) for i in range(9)], refusal, reply("right"), refusal))
    assert stopped is None
    assert [answer.is_right for answer in answers] == [None, False, *[None] * 7]
    assert answers[0].error
    answers, stopped, _ = run(play([row(i) for i in range(9)], refusal))
    assert len(answers) == GIVE_UP
    assert "no" in stopped


def test_so_many_at_once_and_each_row_once():
    class Slow:
        name = "slow"
        under_way = most = 0

        async def stream(self, call, tally):  # noqa: ARG002
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0.001)
            self.under_way -= 1
            tally.usage, tally.usage_source, tally.is_local = Usage(1, 0, 1, 0.5, 0.5), "engine", True
            yield Chunk("left", finish_reason="stop")

    slow, answers = Slow(), []
    rows = [row(i) for i in range(20)]
    asyncio.run(ask_all(CANDIDATE, slow, rows, Asking(concurrency=3), PRICER, answers.append))
    assert slow.most == 3
    assert sorted(answer.id for answer in answers) == sorted(row.id for row in rows)
    assert answers[0].cost_pico == 2 * int(HostCost().usd(0.5).scaleb(12))


def test_what_is_asked_has_its_own_key():
    local = Candidate("small", "small", True, lambda: nullcontext())
    form = body_of(row(1), local, Asking())["response_format"]
    assert form["json_schema"]["schema"] == {"type": "string", "enum": ["left", "right"]}
    assert "response_format" not in body_of(row(1), CANDIDATE, Asking())
    assert "temperature" not in body_of(row(1), CANDIDATE, Asking(temperature=None))
    settings = [Asking(), Asking(seed=1), Asking(max_tokens=9), Asking(temperature=1.0)]
    keys = {key_of(row(1), one, asking) for one in (local, CANDIDATE) for asking in settings}
    assert len(keys) == 8
    assert key_of(row(1), local, Asking(concurrency=9)) in keys
