"""A body is read in one way only, or refused."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.server.body import ClientGone, parse_object, read_body
from farthing.upstreams import UpstreamError

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(':\\"{'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.booleans(), st.sampled_from([None, 2]))
def test_every_object_is_read_as_it_is(value, is_ascii, indent):
    raw = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode()
    assert parse_object(raw) == value
    escaped = raw.replace(b"\\\\", b"\\u005c").replace(b":", b":")
    assert parse_object(escaped) == value


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), VALUES, st.booleans())
def test_a_key_twice_is_refused(value, other, is_escaped):
    key = next(iter(value))
    name = json.dumps(key)
    if is_escaped:
        name = '"' + "".join(f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else letter for letter in key) + '"'
    raw = f'{{"a": [{json.dumps(value)[:-1]}, {name}: {json.dumps(other)}}}]}}'
    with pytest.raises(UpstreamError) as caught:
        parse_object(raw.encode())
    assert (caught.value.status, caught.value.code) == (400, "duplicate_key")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'"x"',
        b"null",
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"[" * 101 + b"]" * 101 + b"}",
        b'{"a":' * 2000 + b'"\\u003a"' + b"}" * 2000,
    ],
)
def test_what_is_no_object_is_refused(raw):
    with pytest.raises(UpstreamError) as caught:
        parse_object(raw)
    assert caught.value.status == 400


def reader(*messages):
    waiting = list(messages)

    async def receive():
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()

    return receive


def read(receive, headers=None, most=10, timeout_s=5.0):
    return asyncio.run(read_body(receive, headers or {}, most, timeout_s, lambda _: None))


def piece(data, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


def test_bodies_are_bounded_while_they_are_read():
    assert read(reader(piece(b"12345"), piece(b"67890", False))) == b"1234567890"
    for receive, headers in (
        (reader(piece(b"12345"), piece(b"678901", True)), {}),
        (reader(), {b"content-length": b"11"}),
        (reader(), {b"content-length": b"9" * 4000}),
    ):
        with pytest.raises(UpstreamError) as caught:
            read(receive, headers)
        assert caught.value.status == 413
    with pytest.raises(UpstreamError) as caught:
        read(reader(piece(b"1")), timeout_s=0.01)
    assert caught.value.status == 408
    with pytest.raises(ClientGone):
        read(reader(piece(b"1"), {"type": "http.disconnect"}))
    with pytest.raises(UpstreamError) as caught:
        read(reader(), {b"content-encoding": b"gzip"})
    assert caught.value.status == 415
