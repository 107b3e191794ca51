"""Law 6, the wire is golden: recorded transcripts read the same however they are cut, and cost as whole answers do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.upstreams import Call, Chunk, UpstreamError
from farthing.upstreams.anthropic_answer import AnthropicReader
from farthing.upstreams.convert import as_chat, as_messages
from farthing.upstreams.openai_answer import OpenAIReader
from farthing.upstreams.sse import Event, Events, EventTooLong

WIRE = Path(__file__).parents[1] / "golden" / "wire"
TRANSCRIPTS = sorted(WIRE.glob("*.sse"))
PAIRS = [path for path in TRANSCRIPTS if path.with_suffix(".json").exists()]


def events(*pieces: bytes) -> list[Event]:
    parser = Events()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def reader(path: Path) -> Any:
    kind = AnthropicReader if path.stem.startswith("anthropic") else OpenAIReader
    return kind("up", None, is_raw=True)


def read(path: Path, *pieces: bytes) -> tuple[list[Chunk], Any, str]:
    """(chunks, reader, the error's code if one came)."""
    made = reader(path)
    chunks: list[Chunk] = []
    try:
        for event in events(*pieces):
            chunks += made.event(event)
    except UpstreamError as error:
        return chunks, made, error.code
    return chunks, made, ""


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_cut_at_any_byte_changes_nothing(path: Path) -> None:
    data = path.read_bytes()
    expected = events(data)
    assert expected
    for at in range(len(data) + 1):
        assert events(data[:at], data[at:]) == expected
    assert events(*(bytes([byte]) for byte in data)) == expected


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_line_ends_and_comments_change_nothing(path: Path) -> None:
    data = path.read_bytes().replace(b"\r\n", b"\n")
    expected = events(data)
    for end in (b"\r\n", b"\r"):
        other = data.replace(b"\n", end)
        assert events(other) == expected
        assert events(*(bytes([byte]) for byte in other)) == expected
    assert events(b"\xef\xbb\xbf: hello\n\nretry: 5\nid: 7\n\n" + data.replace(b"data: ", b"data:")) == expected


@settings(max_examples=60, deadline=None)
@given(path=st.sampled_from(TRANSCRIPTS), data=st.data())
def test_any_cutting_gives_the_same_chunks_and_usage(path: Path, data: st.DataObject) -> None:
    whole = path.read_bytes()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=40)))
    pieces = [whole[low:high] for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    chunks, made, code = read(path, *pieces)
    expected, other, other_code = read(path, whole)
    assert (chunks, code) == (expected, other_code)
    assert (made.usage, made.model, made.is_complete) == (other.usage, other.model, other.is_complete)


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_streamed_usage_is_buffered_usage(path: Path) -> None:
    _, streamed, code = read(path, path.read_bytes())
    buffered = reader(path)
    buffered.whole(orjson.loads(path.with_suffix(".json").read_bytes()))
    assert code == ""
    assert streamed.is_complete
    assert streamed.usage is not None
    assert (streamed.usage, streamed.model) == (buffered.usage, buffered.model)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_what_is_handed_on_renders_back_to_what_came(path: Path) -> None:
    """Raw chunks put together are the recorded ones, but for usage, and for choices told one by one."""
    chunks, _, _ = read(path, path.read_bytes())
    recorded = [orjson.loads(event.data) for event in events(path.read_bytes()) if event.data != b"[DONE]"]
    if path.stem.startswith("anthropic"):
        expected = [event for event in recorded if event["type"] != "error"]
    else:
        expected = [
            {key: value for key, value in event.items() if key != "usage"} | {"choices": [choice]}
            for event in recorded
            for choice in event.get("choices", ())
        ]
    assert [chunk.raw for chunk in chunks] == expected


def test_many_lines_make_one_event_and_a_long_one_is_refused() -> None:
    assert events(b"event: a\ndata: 1\ndata\ndata:  2\n\ndata: 3") == [Event("a", b"1\n\n 2"), Event("", b"3")]
    assert events(b"event: a\n\ndata: 1\n\n") == [Event("", b"1")]
    for line in (b"data: " + b"x" * 50, b"data: xxxx\n" * 10):
        parser = Events(max_event_bytes=40)
        for at in range(40):
            parser.feed(line[at : at + 1])
        with pytest.raises(EventTooLong):
            parser.feed(line[40:])


TEXT = st.text(min_size=1, max_size=20)
ADDRESS = st.sampled_from(["https://a.example/b.png", "http://c.example/d?e=f"])
SOURCE = st.one_of(
    st.builds(lambda url: {"type": "url", "url": url}, ADDRESS),
    st.builds(
        lambda data: {"type": "base64", "media_type": "image/png", "data": data}, st.from_regex(r"[A-Za-z0-9+/]{4}")
    ),
)
PART = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.builds(lambda source: {"type": "image", "source": source}, SOURCE),
)
INPUT = st.dictionaries(TEXT, st.one_of(TEXT, st.integers(-(2**53), 2**53), st.booleans(), st.none()), max_size=3)


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A conversation of Anthropic's form that both wires can say, in the form that as_messages writes."""
    made: list[dict[str, Any]] = []
    for at in range(draw(st.integers(1, 4))):
        parts = draw(st.lists(PART, min_size=2, max_size=4))
        made.append({"role": "user", "content": draw(st.one_of(TEXT, st.just(parts)))})
        num_tools = draw(st.integers(0, 3))
        if num_tools == 0:
            made.append({"role": "assistant", "content": draw(TEXT)})
            continue
        ids = [f"call_{at}_{number}" for number in range(num_tools)]
        texts = draw(st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT), max_size=1))
        uses = [{"type": "tool_use", "id": name, "name": draw(TEXT), "input": draw(INPUT)} for name in ids]
        made.append({"role": "assistant", "content": [*texts, *uses]})
        results = [{"type": "tool_result", "tool_use_id": name, "content": draw(st.text(max_size=9))} for name in ids]
        made.append({"role": "user", "content": [*results, *draw(st.lists(PART, min_size=2, max_size=3))]})
        made.append({"role": "assistant", "content": draw(TEXT)})
    return made


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    tool = st.builds(
        lambda name, description: {"name": name, "description": description, "input_schema": {"type": "object"}},
        TEXT,
        TEXT,
    )
    choice = st.sampled_from(
        [
            {"type": "auto"},
            {"type": "any"},
            {"type": "none"},
            {"type": "tool", "name": "f"},
            {"type": "any", "disable_parallel_tool_use": True},
        ]
    )
    optional = {
        "system": TEXT,
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(1, 100),
        "stop_sequences": st.lists(TEXT, min_size=1, max_size=4),
        "metadata": st.builds(lambda name: {"user_id": name}, TEXT),
        "stream": st.booleans(),
    }
    body = draw(st.fixed_dictionaries({"max_tokens": st.integers(1, 10**6)}, optional=optional))
    if draw(st.booleans()):
        body |= {"tools": draw(st.lists(tool, min_size=1, max_size=3)), "tool_choice": draw(choice)}
    return body | {"model": "m", "messages": draw(turns())}


@settings(max_examples=80, deadline=None)
@given(body=bodies())
def test_messages_to_chat_and_back(body: dict[str, Any]) -> None:
    there = as_chat(Call("1", "messages", body, "m"))
    back = as_messages(there)
    assert back.body == body
    assert as_chat(back).body == there.body


KEYS = st.sampled_from(
    ["role", "content", "type", "text", "source", "url", "id", "name", "input", "tool_calls", "function", "image_url"]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            KEYS,
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
ASKED = st.sampled_from(
    ["messages", "system", "tools", "tool_choice", "stop", "stop_sequences", "metadata", "user", "max_tokens", "n"]
)
TOLD = st.sampled_from(["choices", "usage", "model", "error", "type", "delta", "message", "content"])


def status_of(work: Callable[[], object]) -> int:
    try:
        work()
    except UpstreamError as error:
        return error.status
    return 200


@settings(max_examples=150, deadline=None)
@given(body=st.dictionaries(ASKED, JSON, max_size=4), content=JSON)
def test_anything_is_converted_or_refused_as_the_clients_fault(body: dict[str, Any], content: Any) -> None:
    messages = [{"role": role, "content": content} for role in ("user", "assistant", "system", "tool")]
    for asked in (body, body | {"messages": messages}):
        assert status_of(lambda: as_chat(Call("1", "messages", asked, "m"))) in (200, 400)  # noqa: B023
        assert status_of(lambda: as_messages(Call("1", "chat", asked, "m"))) in (200, 400)  # noqa: B023


@settings(max_examples=200, deadline=None)
@given(body=st.dictionaries(TOLD, JSON))
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    for path in (Path("openai"), Path("anthropic")):
        made = reader(path)
        assert status_of(lambda: made.event(Event("", orjson.dumps(body)))) in (200, 400, 404, 429, 502, 504)  # noqa: B023
        assert status_of(lambda: made.whole(body)) in (200, 400, 404, 413, 422, 429, 502, 504)  # noqa: B023
        usage = made.usage
        assert usage is None or min(vars(usage).values()) >= 0


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(TRANSCRIPTS), data=st.data())
def test_a_damaged_transcript_is_read_or_refused(path: Path, data: st.DataObject) -> None:
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    _, made, code = read(path, bytes(whole))
    assert code == "" or code.isprintable()
    assert made.usage is None or min(vars(made.usage).values()) >= 0
