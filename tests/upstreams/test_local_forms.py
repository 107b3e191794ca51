"""Answers of a given form: JSON by a schema, and calls of tools that must come. The models have random weights, so what
holds, holds by the grammar alone."""

import asyncio
import json

import pytest

from farthing.upstreams import UpstreamError
from farthing.upstreams.local import LocalUpstream
from farthing.upstreams.local_config import LocalConfig
from tests.upstreams.tool_model import LLAMA_TEMPLATE, TEMPLATE, answer, reason_of, text_of, user, write_model

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["age", "kind"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "it", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
MARKS = ("</tool_call>", "<tool_call>")
KINDS = {"plain": {}, "control": {"control": MARKS}, "llama3": {"template": LLAMA_TEMPLATE}, "none": {"template": None}}
KINDS["thinks"] = {"template": TEMPLATE + "{# <think> #}"}


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {
        name: LocalUpstream(name, LocalConfig(models=(str(write_model(folder / name, **kind)),), threads=1))
        for name, kind in KINDS.items()
    }
    yield made
    for upstream in made.values():
        asyncio.run(upstream.aclose())


def ask(upstream, **body):
    return asyncio.run(answer(upstream, {"messages": user("hi"), "max_tokens": 400, "seed": 5} | body))


def outcome(upstream, **body):
    """The chunks, or the error."""
    try:
        return ask(upstream, **body)[0], None
    except UpstreamError as error:
        return [], error


def test_thoughts_cannot_be_switched_off(upstreams):
    _, error = outcome(upstreams["thinks"], reasoning_effort="none", max_tokens=2)
    assert error is not None
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", "reasoning_effort")
    assert outcome(upstreams["plain"], reasoning_effort="none", max_tokens=2)[1] is None


def test_a_call_at_the_end_is_not_continued(upstreams):
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {}}]}
    body = {"max_tokens": 5, "messages": [*user("hi"), call]}
    with pytest.raises(UpstreamError, match=r"messages\.1: a call of a tool cannot be continued"):
        asyncio.run(answer(upstreams["plain"], body, "messages"))


def form(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, **more}}


def is_pet(value):
    return value.keys() == {"age", "kind"} and 0 <= value["age"] <= 99 and value["kind"] in ("cat", "dog")


@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_holds_for_all_choices(upstreams, strict):
    chunks, tally = ask(upstreams["none"], response_format=form(SCHEMA, strict=strict), n=5)
    texts = [text_of(chunks, index) for index in range(5)]
    assert all(is_pet(json.loads(text)) for text in texts)
    assert len(set(texts)) > 1
    assert {reason_of(chunks, index) for index in range(5)} == {"stop"}
    assert tally.usage.output_tokens > 5


def test_the_same_request_gives_the_same_json(upstreams):
    texts = {text_of(ask(upstreams["none"], response_format=form(SCHEMA))[0]) for _ in range(3)}
    assert len(texts) == 1


@pytest.mark.parametrize("seed", range(4))
def test_json_object_is_an_object_or_cut(upstreams, seed):
    chunks, _ = ask(upstreams["none"], response_format={"type": "json_object"}, seed=seed, max_tokens=800)
    text = text_of(chunks)
    assert text.startswith("{")
    if reason_of(chunks) == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        assert reason_of(chunks) == "length"


def test_json_that_is_cut_ends_with_length(upstreams):
    chunks, tally = ask(upstreams["none"], response_format=form(SCHEMA), max_tokens=5)
    assert (reason_of(chunks), tally.usage.output_tokens) == ("length", 5)
    assert json.dumps(SCHEMA)  # what came is the beginning of an answer
    assert text_of(chunks).startswith('{"age"'[:5])


def test_log_probabilities_of_constrained_answers_are_the_models(upstreams):
    chunks, _ = ask(upstreams["none"], response_format=form(SCHEMA), logprobs=True, top_logprobs=1)
    tokens = [token for chunk in chunks for token in chunk.logprobs]
    assert "".join(token.token for token in tokens) == text_of(chunks)
    assert any(token.token != token.top[0][0] for token in tokens)  # the model would have said something else
    assert all(token.logprob <= token.top[0][2] + 1e-6 for token in tokens)


BAD = [
    ({"type": "foo"}, "Invalid type"),
    ({"type": "string", "pattern": "(a"}, "regex"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"$ref": "#"}, "no answer can satisfy it$"),
    ({"$ref": "http://example.com/x"}, "cannot be used"),
    ({"type": "object", "unevaluatedProperties": False}, "Unimplemented"),
    ({"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(9000)}}, "bytes"),
]


@pytest.mark.parametrize(("schema", "said"), BAD)
def test_schemas_that_cannot_be_used_are_refused_with_the_reason(upstreams, schema, said):
    with pytest.raises(UpstreamError, match=said) as caught:
        ask(upstreams["none"], response_format=form(schema))
    assert (caught.value.status, caught.value.param) == (400, "response_format.json_schema.schema")


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE = [
    {"type": "string", "pattern": "(.*a){30}"},
    {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    {"type": "string", "pattern": "(.*(x|y)){9}.{200}z"},
    {"type": "array", "minItems": 1_000_000, "items": {"type": "string"}},
    {"type": "string", "minLength": 1_000_000},
    {"enum": [f"value{i}" for i in range(12_000)]},
    {"x-guidance": {"whitespace_flexible": True}, "type": "array", "items": {"type": "integer"}},
    nested(60),
    nested(300),
    nested(900),
    {"const": "\ud800"},
    {"const": float("nan")},
]


@pytest.mark.parametrize("schema", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_schemas_are_refused_or_answered_and_the_next_is_served(upstreams, schema):
    chunks, error = outcome(upstreams["none"], response_format=form(schema), max_tokens=100)
    if error is None:
        assert reason_of(chunks) in ("stop", "length")
        assert not any(chunk.text.isspace() for chunk in chunks[:5])
    else:
        assert error.status == 400
    assert reason_of(ask(upstreams["none"], max_tokens=3, ignore_eos=True)[0]) == "length"


def test_compiled_grammars_are_kept_and_bounded(upstreams):
    for i in range(40):
        ask(upstreams["none"], response_format=form({"enum": [f"value {i}"]}), max_tokens=2)
    grammars = upstreams["none"]._models["none"]._grammars
    assert len(grammars._kept) == 16


def calls_of(chunks, index=0):
    calls = [call for chunk in chunks if chunk.index == index for call in chunk.tool_calls]
    return [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("kind", ["plain", "control", "llama3"])
class TestTools:
    def test_a_named_tool_is_called_by_its_schema(self, upstreams, kind):
        choice = {"type": "function", "function": {"name": "weather"}}
        chunks, _ = ask(upstreams[kind], tools=[WEATHER, CLOCK], tool_choice=choice, n=3)
        for index in range(3):
            ((name, arguments),) = calls_of(chunks, index)
            assert name == "weather"
            assert is_pet(arguments)
            assert (text_of(chunks, index), reason_of(chunks, index)) == ("", "tool_calls")

    def test_required_calls_one_of_the_tools(self, upstreams, kind):
        for seed in range(3):
            chunks, _ = ask(upstreams[kind], tools=[WEATHER, CLOCK], tool_choice="required", seed=seed)
            if reason_of(chunks) == "tool_calls":
                calls = calls_of(chunks)
                assert calls
                assert {name for name, _ in calls} <= {"weather", "clock"}
                assert all(is_pet(arguments) for name, arguments in calls if name == "weather")
            else:
                assert reason_of(chunks) == "length"

    def test_auto_answers_as_the_model_likes_and_none_hides_the_tools(self, upstreams, kind):
        for choice in ("auto", "none"):
            chunks, tally = ask(upstreams[kind], tools=[WEATHER], tool_choice=choice, max_tokens=20)
            assert reason_of(chunks) in ("length", "stop")
            assert (tally.usage.input_tokens > 60) == (choice == "auto")

    def test_with_a_form_it_is_a_call_or_json(self, upstreams, kind):
        seen = set()
        for seed in range(8):
            chunks, _ = ask(upstreams[kind], tools=[WEATHER], response_format=form(SCHEMA), seed=seed, max_tokens=300)
            reason = reason_of(chunks)
            seen.add(reason)
            if reason == "stop":
                assert is_pet(json.loads(text_of(chunks)))
            elif reason == "tool_calls":
                assert all(name == "weather" and is_pet(arguments) for name, arguments in calls_of(chunks))
        assert seen & {"stop", "tool_calls"}

    def test_a_conversation_with_calls_goes_on(self, upstreams, kind):
        call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
        messages = [
            *user("hi"),
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "noon"},
        ]
        chunks, _ = ask(upstreams[kind], messages=messages, tools=[CLOCK], max_tokens=5, ignore_eos=True)
        assert reason_of(chunks) == "length"


def test_a_model_without_tools_says_so(upstreams):
    with pytest.raises(UpstreamError, match="has no tools") as caught:
        ask(upstreams["none"], tools=[CLOCK])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    with pytest.raises(UpstreamError, match="tool_calls") as caught:
        ask(upstreams["none"], messages=[*user("hi"), {"role": "assistant", "tool_calls": [call]}])
    assert caught.value.code == "unsupported_parameter"


def test_a_tools_schema_that_cannot_be_used_is_refused(upstreams):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "foo"}}}
    with pytest.raises(UpstreamError, match="Invalid type") as caught:
        ask(upstreams["plain"], tools=[tool], tool_choice="required")
    assert (caught.value.status, caught.value.param) == (400, "tools")
