"""Whatever JSON a client sends: it is read, or refused with status 400 in the API's own form. Never anything else."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.server.api import Api, Asked, Ending
from farthing.server.messages import Messages
from farthing.server.responses import Responses
from farthing.upstreams import Chunk, Tally, UpstreamError

WORDS = st.sampled_from(
    ["type", "text", "content", "role", "user", "message", "function", "name", "input_text", "function_call", "auto",
     "json_schema", "schema", "format", "call_id", "arguments", "output", "function_call_output", "effort", "enabled"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | st.text(max_size=5)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "system": [{"type": "text", "text": "hi"}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "stop_sequences": ["x"],
    "stream": True,
    "temperature": 0.5,
}
RESPONSES: dict[str, Any] = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "x"},
    ],
    "instructions": "Be brief.",
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "metadata": {"a": "b"},
    "stream_options": {"include_obfuscation": False},
    "stream": True,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, as keys and indices."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in inner for place in places(item, (*path, key))]


def changed(body: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = orjson.loads(orjson.dumps(body))
    target: Any = copy
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return copy


def sent(body: dict[str, Any]) -> dict[str, Any]:
    """As the server reads it from the wire: numbers above 64 bits are floats then."""
    read: dict[str, Any] = orjson.loads(json.dumps(body))
    return read


@pytest.mark.parametrize(
    ("api", "body"), [(Messages(), MESSAGES), (Responses(), RESPONSES)], ids=["messages", "responses"]
)
@settings(max_examples=150)
@given(st.data())
def test_a_body_is_read_or_refused(api: Api, body: dict[str, Any], data: st.DataObject) -> None:
    given_body = data.draw(
        st.builds(changed, st.just(body), st.sampled_from([*places(body), ("unknown",)]), JSON)
        | st.dictionaries(st.sampled_from(sorted(body)), JSON)
    )
    try:
        asked = api.parse(sent(given_body))
    except UpstreamError as refused:
        error = refused
    else:
        answer(api, asked)
        return
    assert error.status == 400
    orjson.dumps(api.error_body(error, "r1"))


def answer(api: Api, asked: Asked) -> None:
    """Whatever was read can be answered, whole and streamed."""
    chunks = [Chunk("Hi"), Chunk(finish_reason="stop")]
    orjson.dumps(api.renderer(asked, "r1", 0).whole(chunks, Ending([], Tally())))
    renderer = api.renderer(asked, "r1", 0)
    events = renderer.start(Tally()) + b"".join(map(renderer.chunk, chunks)) + renderer.end(Ending([], Tally()))
    assert events.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("api", "body"), [(Messages(), MESSAGES), (Responses(), RESPONSES)], ids=["messages", "responses"]
)
def test_the_bodies_that_are_changed_are_themselves_right(api: Api, body: dict[str, Any]) -> None:
    assert api.parse(body).is_stream
