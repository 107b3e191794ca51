"""The official client's tour over the playing upstream: shapes, errors, cancellation, the books."""

import asyncio
import time
from decimal import Decimal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

MODEL = "play"


@pytest.fixture
def client(server):
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def said(text):
    return [{"role": "user", "content": text}]


def rows_of(server, request_id, count=1, seconds=5.0):
    """The ledger's rows of one request; one that is being cut off may need a moment."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rows = [row for row in server.rows() if row.request_id == request_id]
        if len(rows) >= count:
            break
        time.sleep(0.02)
    assert len(rows) == count
    return rows


def test_a_whole_answer_says_what_it_cost(server, client):
    response = client.chat.completions.with_raw_response.create(model=MODEL, messages=said("say a b c"))
    answer = response.parse()
    assert answer.choices[0].message.content == "abc"
    assert answer.choices[0].message.refusal is None
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.object, answer.model, answer.choices[0].index) == ("chat.completion", MODEL, 0)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (100, 4, 104)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    headers = response.headers
    assert headers["x-farthing-upstream"] == "play"
    assert headers["x-farthing-usage-source"] == "provider"
    [row] = rows_of(server, headers["x-farthing-request-id"])
    assert Decimal(headers["x-farthing-cost-usd"]) == Decimal(row.cost_pico).scaleb(-12)
    assert headers["x-litellm-response-cost"] == headers["x-farthing-cost-usd"]
    assert Decimal(headers["x-farthing-baseline-cost-usd"]) == Decimal(row.baseline_pico).scaleb(-12)
    assert Decimal(str(answer.usage.cost_usd)) == Decimal(row.cost_pico).scaleb(-12)
    assert (row.endpoint, row.status, row.is_stream, row.asked_model) == ("chat", "ok", False, MODEL)


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_stream_has_usage_only_where_asked_for(server, client, is_asked):
    options = {"stream_options": {"include_usage": True}} if is_asked else {}
    stream = client.chat.completions.create(model=MODEL, messages=said("say a b c"), stream=True, **options)
    request_id = stream.response.headers["x-request-id"]
    assert stream.response.headers["cache-control"] == "no-cache"
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    chunks = list(stream)
    [row] = rows_of(server, request_id, seconds=0.1)  # there as soon as the stream's end was read
    assert chunks[0].choices[0].delta.role == "assistant"
    answered = [chunk for chunk in chunks if chunk.choices]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answered) == "abc"
    assert [chunk.choices[0].finish_reason for chunk in answered if chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in answered)
    last = chunks[-1]
    assert bool(last.choices) != is_asked
    if is_asked:
        assert last.usage.total_tokens == 104
        assert Decimal(str(last.usage.cost_usd)) == Decimal(row.cost_pico).scaleb(-12)


def test_choices_tools_and_logprobs(client):
    answer = client.chat.completions.create(model=MODEL, messages=said("two"), n=2)
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "ac", "length"),
        (1, "b", "stop"),
    ]
    answer = client.chat.completions.create(model=MODEL, messages=said("tool"))
    [call] = answer.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "look", '{"a":1}')
    assert answer.choices[0].message.content is None
    answer = client.chat.completions.create(model=MODEL, messages=said("logprobs"), logprobs=True, top_logprobs=2)
    first, second, third = answer.choices[0].logprobs.content
    assert (first.bytes, second.bytes, third.bytes) == ([0xC3], [0xA9], [98])
    assert [top.token for top in first.top_logprobs] == ["é", "x"]
    assert third.logprob == -9999.0  # minus infinity is no JSON
    with client.chat.completions.stream(model=MODEL, messages=said("tool")) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'


def test_completions(server, client):
    answer = client.completions.create(model=MODEL, prompt="logprobs", logprobs=2)
    [choice] = answer.choices
    assert (choice.text, answer.object) == ("éb", "text_completion")
    assert choice.logprobs.text_offset == [0, 1, 1]
    assert choice.logprobs.tokens == ["bytes:\\xc3", "bytes:\\xa9", "b"]
    assert choice.logprobs.top_logprobs[0] == {"é": -0.5, "x": -1.0}
    stream = client.completions.create(model=MODEL, prompt="say a b", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "ab"
    assert server.rows()[-1].endpoint == "completions"


def test_a_providers_own_fields_go_through(client):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=said("raw a b"), stream=True, stream_options=options)
    )
    assert [chunk.model for chunk in chunks] == [MODEL] * 3
    assert [chunk.id for chunk in chunks] == ["theirs"] * 3
    assert chunks[1].x == 1
    assert (chunks[2].usage.theirs, chunks[2].choices) == (7, [])
    assert chunks[2].usage.cost_usd > 0
    assert len(list(client.chat.completions.create(model=MODEL, messages=said("raw a b"), stream=True))) == 2
    whole = client.chat.completions.create(model=MODEL, messages=said("whole"))
    assert (whole.id, whole.model, whole.their_field, whole.usage.x) == ("theirs", MODEL, 1, 1)
    assert whole.usage.cost_usd > 0


@pytest.mark.parametrize(
    ("ask", "kind", "code"),
    [
        ({"model": "plya", "messages": said("say a")}, openai.NotFoundError, "model_not_found"),
        ({"model": MODEL, "messages": []}, openai.BadRequestError, "missing_required_parameter"),
        ({"model": MODEL, "messages": said("say a"), "n": 0}, openai.BadRequestError, "invalid_value"),
        ({"model": MODEL, "messages": said("say a"), "max_tokens": -1}, openai.BadRequestError, "invalid_value"),
        ({"model": MODEL, "messages": said("refuse 429 slow_down")}, openai.RateLimitError, "slow_down"),
        ({"model": MODEL, "messages": said("refuse 403")}, openai.PermissionDeniedError, "refused"),
        ({"model": MODEL, "messages": said("refuse 503")}, openai.InternalServerError, "refused"),
        ({"model": MODEL, "messages": said("bug")}, openai.InternalServerError, "server_error"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_errors_have_the_clients_classes(client, ask, kind, code, is_stream):
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**ask, stream=is_stream)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert "secret prompt" not in str(caught.value)
    if "refuse" in str(ask):
        assert caught.value.response.headers["retry-after"] == "3"


def test_a_wrong_name_says_the_nearest(client):
    with pytest.raises(openai.NotFoundError, match="did you mean 'play'"):
        client.chat.completions.create(model="plya", messages=said("say a"))


def test_an_answer_that_breaks_off_has_no_end(server, client):
    stream = client.chat.completions.create(model=MODEL, messages=said("break a b"), stream=True)
    texts = []

    def read():
        for chunk in stream:
            texts.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="refused with 502"):
        read()
    assert "".join(texts) == "ab"
    [row] = rows_of(server, stream.response.headers["x-request-id"])
    assert (row.status, row.error) == ("error", "upstream_broke")


def test_models(client):
    assert [model.id for model in client.models.list()] == ["play"]
    assert client.models.retrieve("play").owned_by == "play"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/one")


def test_a_stream_that_is_closed_early_stops_the_work(server, client):
    stream = client.chat.completions.create(model=MODEL, messages=said("say forever"), stream=True)
    for _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    [row] = rows_of(server, stream.response.headers["x-request-id"])
    assert (row.status, row.finish_reason) == ("aborted", None)
    assert row.output_tokens >= 3
    assert server.play.num_running == 0


@pytest.mark.parametrize("ask", [{"stream": True}, {"stream": False}])
def test_a_client_that_goes_before_the_first_piece_stops_the_work(server, ask):
    before = len(server.rows())

    async def run():
        async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            task = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=said("hang"), **ask))
            while not server.play.num_running:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    end = time.monotonic() + 5
    while len(server.rows()) == before and time.monotonic() < end:
        time.sleep(0.02)
    assert server.rows()[-1].status == "aborted"
    assert server.play.num_running == 0


def test_async_side_by_side(server):
    async def one(client, i):
        if i % 2:
            answer = await client.chat.completions.create(model=MODEL, messages=said(f"say {i} a"))
            return answer.choices[0].message.content
        stream = await client.chat.completions.create(model=MODEL, messages=said(f"say {i} sleep0.01 a"), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run():
        async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(24)))

    before = len(server.rows())
    assert asyncio.run(run()) == [f"{i}a" for i in range(24)]
    assert len(server.rows()) == before + 24


def test_tags_and_project_are_written_down(server, client):
    headers = {"x-farthing-tags": "red, blue,red", "x-farthing-project": "moon"}
    client.chat.completions.create(model=MODEL, messages=said("say a"), extra_headers=headers)
    row = server.rows()[-1]
    assert (row.tags, row.project, row.key_id) == (("red", "blue"), "moon", None)
    for bad in ({"x-farthing-tags": "x" * 65}, {"x-farthing-tags": ",".join("abcdefghijklmnopqrs")}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages=said("say a"), extra_headers=bad)


def test_metrics_count_it(client):
    client.chat.completions.create(model=MODEL, messages=said("say a"))
    text = client.with_options().get("/../metrics", cast_to=str)
    assert 'farthing_requests_total{endpoint="chat",status="200"}' in text
    assert 'vllm:generation_tokens_total{model_name="gpt-5-nano"}' in text
