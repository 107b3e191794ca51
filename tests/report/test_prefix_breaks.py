"""Where a prefix stopped matching and why: each culprit from requests that differ in it alone, and in company."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.models.tokenizer import Tokenizer, load_tokenizer_gguf
from farthing.report.chat_requests import parse_requests
from farthing.report.culprits import HINTS
from farthing.report.prefix_breaks import Explanation, explain

GOLDEN = Path(__file__).parents[1] / "golden"
PAGE = 4
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
WITH_TOOLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + CHAT

SYSTEM = "You are a helpful assistant of a small shop that sells coins. It is {}. Answer in one short sentence."


@cache
def tokenizer(template: str = CHAT) -> Tokenizer:
    given = json.loads((GOLDEN / "tokenizer" / "tiny_bpe.json").read_text())
    metadata = {f"tokenizer.ggml.{key}": given[key] for key in ("tokens", "merges")}
    metadata |= {"tokenizer.ggml.token_type": given["types"], "tokenizer.ggml.model": "gpt2"}
    metadata |= {"tokenizer.ggml.pre": "gpt-2", "tokenizer.chat_template": template}
    return load_tokenizer_gguf(metadata)


def body(*texts: str, system: str | None = "Be brief and kind.", **more: Any) -> dict[str, Any]:
    """texts are a user's and the assistant's in turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"model": "m", "messages": messages, **more}


def explained(*bodies: dict[str, Any], template: str = CHAT) -> Explanation:
    text = "\n".join(json.dumps(each) for each in bodies)
    return explain(parse_requests("x.jsonl", text.encode()), tokenizer(template), PAGE)


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": f"does {name}", **more}}


A, B, C = tool("add"), tool("buy"), tool("call")
Q1, A1, Q2, A2, Q3 = "What is a farthing?", "A quarter of a penny.", "And a groat?", "Four pence.", "And a crown then?"
UUIDS = "3f2b8c1e-0d4a-4c8e-9b1f-5a6d7e8f9012", "a81d77f0-6b2c-4f9e-8d3a-1c2b3d4e5f60"

CASES = {
    "timestamp": [
        (body(Q1, system=SYSTEM.format(old)), body(Q1, system=SYSTEM.format(new)))
        for old, new in [
            ("2026-11-25 18:59:02", "2026-11-25 19:00:13"),
            ("2026-11-25T18:59:02.123Z", "2026-11-25T18:59:03.004Z"),
            ("18:59", "19:00"),
            ("6:59 PM", "7:01 PM"),
            ("Wednesday", "Thursday"),
            ("November 25, 2026", "November 26, 2026"),
            ("25 Nov 2026", "1 Dec 2026"),
            ("25/11/2026", "26/11/2026"),
            ("1764097142", "1764097999"),
            ("1764097142123", "1764097999456"),
        ]
    ],
    "identifier": [
        (body(Q1, system=SYSTEM.format(old)), body(Q1, system=SYSTEM.format(new)))
        for old, new in [
            UUIDS,
            ("session 9f8e7d6c5b4a", "session 1a2b3c4d5e6f"),
            ("req_8f3kq2", "req_9d1mz7"),
            ("01JDKQ5W3N8ZR7Y2X4T6V9B1CD", "01JDKQ7A2B3C4D5E6F7G8H9J0K"),
            ("visit 41", "visit 42"),
        ]
    ]
    + [(body(Q1, system=f"{UUIDS[0]} {SYSTEM}"), body(Q1, system=f"{UUIDS[1]} {SYSTEM}"))],
    "tools reordered": [(body(Q1, tools=[A, B, C]), body(Q1, A1, Q2, tools=[B, A, C]))],
    "keys reordered": [
        (body(Q1, tools=[A, B]), body(Q1, A1, Q2, tools=[A, dict(reversed(B.items()))])),
        (body(Q1, tools=[tool("add", x=1, y=2)]), body(Q1, tools=[tool("add", y=2, x=1)])),
    ],
    "tools changed": [
        (body(Q1, tools=[A, B]), body(Q1, tools=[A, C])),
        (body(Q1, tools=[A, B]), body(Q1, tools=[A])),
        (body(Q1, tools=[A]), body(Q1)),
        (body(Q1, tools=[tool("add", strict=True)]), body(Q1, tools=[tool("add", strict=False)])),
    ],
    "whitespace": [
        (body(Q1, system="Be brief.\nBe kind."), body(Q1, system="Be brief.\r\nBe kind.")),
        (body(Q1, A1, Q2), body(Q1, A1 + " ", Q2, A2, Q3)),
    ],
    "reordered": [(body(Q1, system='{"a": 1, "b": 2}'), body(Q1, system='{"b": 2, "a": 1}'))],
    "system prompt": [
        (body(Q1, system=SYSTEM.format("day")), body(Q1, system=SYSTEM.format("night"))),
        (body(Q1, system=None), body(Q1)),
        (body(Q1), body(Q1, system=None)),
        (body(Q1, A1, Q2, system="Be brief."), body(Q1, A1, Q2, A2, Q3, system="You sell old coins, and love them.")),
    ],
    "history truncated": [
        (body(Q1, A1, Q2), body(Q2, A2, Q3)),
        (body(Q1, A1, Q2, A2, "x " * 40 + Q3), body(Q1, A1, Q2, A2, Q3, A1, Q1)),
    ],
    "history edited": [
        (body(Q1, A1, Q2), body(Q1, "A quarter of one penny.", Q2, A2, Q3)),
        (body(Q1, A1, Q2), body(Q1, "Summary: coins.", A1, Q2)),
    ],
    "model": [(body(Q1), body(Q1, A1, Q2, model="other"))],
    "appended": [(body(Q1), body(Q1, A1, Q2)), (body(Q1, tools=[A]), body(Q1, A1, Q2, tools=[A]))],
    "same": [(body(Q1), body(Q1))],
    "earlier turn": [(body(Q1, A1, Q2), body(Q1))],
    "other conversation": [(body(Q1), body("Who was the first king of England?")), (body(Q1, system=None), body(Q2))],
}


def test_every_culprit_is_tried() -> None:
    assert set(CASES) | {"first", "template"} == set(HINTS)


@pytest.mark.parametrize("template", [CHAT, WITH_TOOLS])
@pytest.mark.parametrize(("kind", "pair"), [(kind, pair) for kind, pairs in CASES.items() for pair in pairs])
def test_each_culprit(kind: str, pair: tuple[dict[str, Any], dict[str, Any]], template: str) -> None:
    first, second = explained(*pair, template=template).requests
    assert (first.culprit.kind, first.num_found, first.compared_with) == ("first", 0, None)
    assert second.culprit.kind == kind, second.culprit.what
    assert second.compared_with == 0
    assert second.num_found == (0 if kind == "model" else min(second.num_common, second.num_tokens - 1) // PAGE * PAGE)


def test_the_place_is_the_first_token_that_differs() -> None:
    first, second = CASES["timestamp"][2]
    found = explained(first, second).requests[1]
    assert found.earlier is not None
    assert found.now is not None
    assert found.earlier.before == found.now.before
    assert found.earlier.before.endswith("It is 1")
    assert (found.earlier.token, found.now.token) == (b"8", b"9")
    assert found.now.behind.startswith(":00")
    assert found.culprit.what == "a timestamp in message 1 (system): 18:59 became 19:00; the rest is the same"
    assert "newest message" in found.culprit.hint


def test_a_request_is_compared_with_its_own_conversation() -> None:
    coins, kings = body(Q1, system="Coins."), body("Who was the first king?", system="Kings.")
    more = body(Q1, A1, Q2, system="Coins.")
    found = explained(coins, kings, more).requests
    assert [row.culprit.kind for row in found] == ["first", "other conversation", "appended"]
    assert found[2].compared_with == 0


def test_an_id_at_the_very_beginning_is_still_found_out() -> None:
    """Both earlier requests have as many pages in common; the one most alike is the version before."""
    other = body("Who was the first king of England, and of Scotland?", system="1 king.")
    requests = [body(Q1, system=f"{UUIDS[0]} {SYSTEM}"), other, body(Q1, A1, Q2, system=f"{UUIDS[1]} {SYSTEM}")]
    found = explained(*requests).requests[2]
    assert (found.compared_with, found.culprit.kind) == (0, "identifier")
    assert found.num_found <= 2 * PAGE  # what the template begins with


def test_what_comes_first_is_blamed() -> None:
    """Tools and a clock in the system prompt changed: in this template tools come first."""
    first = body(Q1, system=SYSTEM.format("18:59"), tools=[A, B])
    second = body(Q1, system=SYSTEM.format("19:00"), tools=[B, A])
    assert explained(first, second, template=WITH_TOOLS).requests[1].culprit.kind == "tools reordered"
    behind = CHAT + "{{ tools | tojson }}"
    assert explained(first, second, template=behind).requests[1].culprit.kind == "timestamp"


def test_a_template_that_rewrites_history_is_named() -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last else m.content | upper }}{% endfor %}"
    found = explained(body(Q1), body(Q1, A1, Q2), template=template).requests[1]
    assert found.culprit.kind == "template"


def test_models_keep_their_caches_apart() -> None:
    turns = [body(Q1, model="a"), body(Q1, model="b"), body(Q1, A1, Q2, model="a")]
    found = explained(*turns).requests
    assert [row.culprit.kind for row in found] == ["first", "model", "appended"]
    assert found[1].num_found == 0
    assert found[2].num_found > 0


def test_notes_say_what_the_template_does_not_know() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "add"}}]}
    messages = [{"role": "user", "content": Q1}, call, {"role": "tool", "content": "3", "tool_call_id": "c"}]
    plain = explained({"messages": messages, "tools": [A]})
    assert len(plain.notes) == 2
    assert explained(body(Q1)).notes == ()
    assert explained(body(Q1, tools=[A]), template=WITH_TOOLS).notes == ()
    assert explained(body(Q1, tools=[A])).requests[0].num_tokens > explained(body(Q1)).requests[0].num_tokens + 10


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        explain(parse_requests("x", json.dumps(body(Q1)).encode()), without_template(), PAGE)


@cache
def without_template() -> Tokenizer:
    given = json.loads((GOLDEN / "tokenizer" / "tiny_bpe.json").read_text())
    metadata = {f"tokenizer.ggml.{key}": given[key] for key in ("tokens", "merges")}
    metadata |= {"tokenizer.ggml.token_type": given["types"], "tokenizer.ggml.model": "gpt2"}
    return load_tokenizer_gguf(metadata | {"tokenizer.ggml.pre": "gpt-2"})


def test_a_template_that_refuses_names_the_request() -> None:
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}" + CHAT
    with pytest.raises(InvalidRequest, match=r"x\.jsonl, line 2: .*one only"):
        explained(body(Q1, system=None), body(Q1, A1, Q2, system=None), template=refusing)


texts = st.text(st.sampled_from("ab 1:-\né\0{"), max_size=12)
messages = st.lists(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "user", "tool"]), texts),
    min_size=1,
    max_size=4,
)
bodies = st.builds(
    lambda messages, tools, model: {"messages": messages, "tools": tools, "model": model},
    messages,
    st.lists(st.sampled_from([A, B, {"name": "x"}, {}]), max_size=3),
    st.sampled_from(["", "m"]),
)


@settings(max_examples=150, deadline=None)
@given(series=st.lists(bodies, min_size=1, max_size=5), template=st.sampled_from([CHAT, WITH_TOOLS]))
def test_anything_is_explained(series: list[dict[str, Any]], template: str) -> None:
    found = explained(*series, template=template).requests
    assert len(found) == len(series)
    for at, row in enumerate(found):
        assert row.culprit.hint == HINTS[row.culprit.kind]
        assert row.num_found % PAGE == 0
        assert row.num_found < row.num_tokens
        assert (row.compared_with is None) == (at == 0)
        assert row.num_found <= max(row.num_common, 0)
