"""Whatever comes: never a 5xx, never a crash, and what is refused has the API's own form."""

import json

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case

from tests.server.serving import serving, small_local

PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"),
    "/v1/feedback",
)
WORDS = (
    *("model", "messages", "prompt", "input", "stream", "n", "max_tokens", "max_output_tokens", "stop", "tools"),
    *("tool_choice", "response_format", "logprobs", "top_logprobs", "logit_bias", "stream_options", "system", "seed"),
    *("include_usage", "role", "content", "type", "text", "function", "name", "temperature", "thinking", "metadata"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["play", "user", "assistant", "system", "say a", "text", "\ud800", "\0", "x" * 500]),
)
KEYS = st.sampled_from(WORDS) | st.text(max_size=4)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=4), max_leaves=10)
GOOD = {"model": "play", "max_tokens": 5, "prompt": "say a", "input": "say a"} | {
    "messages": [{"role": "user", "content": "say a"}]
}
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def client(server):
    with httpx2.Client(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    with serving(folder, small_local("llama")) as server, httpx2.Client(base_url=server.url, timeout=20) as client:
        yield client


def check(path, answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error["message"]
        assert path.startswith("/v1/messages") == (answer.json().get("type") == "error")
        assert error["type"].endswith(("_error", "_too_large"))


@QUICK
@given(path=st.sampled_from(PATHS), changes=st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_good_requests_gone_wrong(client, path, changes):
    body = json.dumps({**GOOD, **changes})  # NaN, huge numbers and halves of surrogate pairs included
    check(path, client.post(path, content=body.encode()))


@settings(QUICK, max_examples=100)
@given(path=st.sampled_from(PATHS), changes=st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_good_requests_gone_wrong_at_the_engine(engine, path, changes):
    check(path, engine.post(path, content=json.dumps({**GOOD, "model": "llama", **changes}).encode()))


@QUICK
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(client, path, body):
    check(path, client.post(path, content=body))


@QUICK
@given(
    path=st.sampled_from(PATHS),
    headers=st.dictionaries(
        st.sampled_from(
            ["authorization", "x-api-key", "x-farthing-tags", "x-farthing-project", "traceparent", "content-type"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=90),
    ),
)
def test_any_headers(client, path, headers):
    raw = [(name.encode(), value.strip().encode("latin-1")) for name, value in headers.items()]
    check(path, client.post(path, content=json.dumps(GOOD).encode(), headers=raw))


def test_the_openapi_document_is_held(server):
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    found = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=20, deadline=None, database=None)
        @given(case=operation.as_strategy())
        def run(case: Case) -> None:
            answer = case.call(timeout=20)
            assert answer.status_code < 500, answer.text
            assert answer.headers["content-type"][0].startswith(("application/json", "text/event-stream"))

        run()
        found += 1
    assert found == len(PATHS) + 4
