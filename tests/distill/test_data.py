"""What is taught and what is measured on: cleaned, and split by content alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.distill.data import Example, collected, examples_of_task, examples_of_traffic, to_ask
from farthing.distill.pii import personal_data
from farthing.distill.split import held_out, text_key
from farthing.errors import InvalidRequest
from farthing.ledger.traffic import Traffic
from farthing.request import Message


def rows(num: int, labels: tuple[str, ...] = ("card", "rate")) -> list[Example]:
    return [Example(str(i), (Message("user", f"question {i}"),), labels[i % len(labels)], f"f:{i}") for i in range(num)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=30))
def test_a_row_stays_on_its_side(texts: list[str]) -> None:
    """In whatever order and company it comes, and with more held out it is never less held out."""
    side = dict(zip(texts, held_out(texts, 0.3), strict=True))
    shuffled = sorted(texts)
    assert [side[text] for text in shuffled] == held_out(shuffled, 0.3).tolist()
    assert (held_out(texts, 0.3) <= held_out(texts, 0.5)).all()
    for text in texts:
        assert held_out([text.upper()], 0.3)[0] == held_out([text.upper() + "  "], 0.3)[0]


def test_the_share_is_kept_and_the_split_never_changes() -> None:
    texts = [f"how do I do the thing number {i}" for i in range(4000)]
    assert abs(held_out(texts, 0.1).mean() - 0.1) < 0.015
    # Fixed for ever: who collects again must not train on what was measured.
    assert np.flatnonzero(held_out(texts[:60], 0.1)).tolist() == FIRST_HELD_OUT
    with pytest.raises(InvalidRequest, match="allowed: 0 to"):
        held_out(texts, 0.7)


FIRST_HELD_OUT = [11, 42, 49, 50, 56, 57]


def test_duplicates_count_once_and_are_never_on_both_sides() -> None:
    again = [Example("x", (Message("user", " Question 3?"),), "rate", "f:x")]
    data = collected([*rows(60), *again], share=0.3)
    assert data.dropped == {"said again": 1}
    found = [row for row in (*data.train, *data.validation, *data.held_out) if text_key(row.text) == "question 3"]
    assert [row.answer for row in found] == ["rate"]  # the last answer
    assert data.labels == ("card", "rate")


def test_test_rows_are_measured_on_and_teach_nothing() -> None:
    test = rows(70)[55:]
    data = collected(rows(60), test=test, share=0.2)
    assert {row.text for row in data.held_out} == {row.text for row in test}
    turned = collected(rows(60)[::-1], test=test[::-1], share=0.2)
    assert (turned.train, turned.held_out) == (data.train, data.held_out)
    assert data.dropped == {"asked in the test rows too": 5}
    assert not {row.text for row in test} & {row.text for row in (*data.train, *data.validation)}
    assert len(data.train) + len(data.validation) == 55


def test_the_digest_is_of_what_is_taught() -> None:
    data, turned = collected(rows(60), share=0.3), collected(rows(60)[::-1], share=0.3)
    assert data.digest == turned.digest
    assert data.digest != collected(rows(61), share=0.3).digest
    assert data.digest != collected(rows(60), share=0.2).digest


def test_personal_data_is_left_out() -> None:
    bad = [
        Example("a", (Message("user", "my mail is ann.lee@example.org"),), "card", "f:a"),
        Example("b", (Message("user", "and my phone?"),), "call +44 20 7946 0958", "f:b"),
    ]
    data = collected([*rows(60), *bad], share=0.3)
    assert data.dropped == {"with personal data": 2}


def test_answers_name_labels() -> None:
    odd = [
        Example("a", (Message("user", "one"),), '{"intent": "card"}', "f:a", ("card", "rate")),
        Example("b", (Message("user", "two"),), "That is clearly: rate.", "f:b", ("card", "rate")),
        Example("c", (Message("user", "three"),), "neither", "f:c", ("card", "rate")),
    ]
    data = collected([*rows(60), *odd], share=0.2)
    assert data.labels == ("card", "rate")
    assert data.dropped == {"whose answer names no label": 1}
    assert {row.answer for row in (*data.train, *data.validation, *data.held_out)} == {"card", "rate"}


def test_free_texts_have_no_labels() -> None:
    texts = [Example(str(i), (Message("user", f"q {i}"),), f"answer number {i}", f"f:{i}") for i in range(60)]
    assert collected(texts, share=0.3).labels is None
    assert collected(rows(60), kind="text", share=0.3).labels is None
    assert collected(texts[:30], kind="labels", share=0.3).labels is not None


def test_too_little_is_told() -> None:
    with pytest.raises(InvalidRequest, match="too few"):
        collected(rows(6))


def test_task_files_and_traffic(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    lines = [
        {"id": "q1", "prompt": "where is my card", "answer": ["card"], "choices": ["card", "rate"]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "answer": "rate"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second = examples_of_task(path)
    assert (first.text, first.answer, first.source) == ("where is my card", "card", "task.jsonl:q1")
    assert second.messages == (Message("system", "s"), Message("user", "u"))
    path.write_text(json.dumps({"messages": [{"role": "tool", "content": "x"}], "answer": "a"}))
    with pytest.raises(InvalidRequest, match="tools cannot be distilled"):
        examples_of_task(path)
    traffic = [Traffic("r1", "where", "large", "card"), Traffic("r2", "when", "small", "rate")]
    assert [e.source for e in examples_of_traffic(traffic, "large")] == ["ledger:r1:large"]


PERSONAL = {
    "write to ann.lee+x@mail.example.co.uk please": "email",
    "my card is 4111 1111 1111 1111, expired": "card",
    "IBAN DE89 3704 0044 0532 0130 00": "iban",
    "call me at +1 (415) 555-2671": "phone",
    "ring 020 7946 0958 now": "phone",
    "SSN 078-05-1120": "ssn",
    "from 192.168.10.12 it fails": "ip",
    "key sk-abcdefghijklmnop1234": "secret",
    "postgres://bob:hunter2@db/x": "secret",
}
INNOCENT = (
    "top up of 1,000,000 failed", "order 12345678 is late", "pi is 3.14159265358979", "version 1.2.3.400",
    "on 2024-01-31 at 10:30", "4111 1111 1111 1112 is no card", "what is the exchange rate of 100.50?", "room 101",
    "DE00 3704 0044 0532 0130 00 fails", "a@b", "1234-5678",
)  # fmt: skip


def test_personal_data_by_rule() -> None:
    for text, kind in PERSONAL.items():
        assert kind in personal_data(text), text
    for text in INNOCENT:
        assert personal_data(text) == (), text
    assert personal_data(". ".join(PERSONAL)) == ("email", "secret", "iban", "card", "ssn", "ip", "phone")


def said_after(system: str, text: str, label: str) -> Example:
    messages = (
        Message("system", system),
        Message("user", "hello"),
        Message("assistant", "yes?"),
        Message("user", text),
    )
    return Example(system, messages, label, f"f:{system}")


def test_in_a_task_of_labels_rows_that_end_alike_are_one() -> None:
    """A classifier reads the last text alone: what was said before it does not make a row another one."""
    again = [said_after("be kind", f"question {i}", "rate") for i in range(20)]
    data = collected([*rows(60), *again], share=0.3)
    sides = [[text_key(row.text) for row in part] for part in (data.train, data.validation, data.held_out)]
    assert sorted(key for side in sides for key in side) == sorted(f"question {i}" for i in range(60))
    assert data.dropped == {"said again": 20}
    test = [said_after("be quick", f"Question {i}!", "card") for i in (3, 3, 7, 8)]
    data = collected([*rows(60), *again], test=[*test, said_after("be slow", "question 3", "rate")], share=0.2)
    assert [row.answer for row in data.held_out if text_key(row.text) == "question 3"] == ["rate"]
    assert data.dropped == {"said again": 20, "asked in the test rows too": 3, "of --test said again": 2}
    texts = [said_after(str(i), "go on", f"answer {i}") for i in range(60)]  # a model that writes reads all of it
    data = collected(texts, kind="text", share=0.3)
    assert len(data.train) + len(data.validation) + len(data.held_out) == 60


def test_what_was_left_out_of_the_test_rows_is_told() -> None:
    bad = [Example("a", (Message("user", "my mail is ann.lee@example.org"),), "card", "f:a"),
           Example("b", (Message("user", "two"),), "neither", "f:b", ("card", "rate"))]  # fmt: skip
    data = collected(rows(60), test=[*rows(70)[60:], *bad], share=0.2)
    assert data.dropped == {"of --test with personal data": 1, "of --test whose answer names no label": 1}


def test_nobody_is_asked_what_teaches_nothing() -> None:
    own = Example("c", (Message("user", "three"),), "write to ann.lee@example.org", "f:c")  # its answer is set aside
    bad = [Example("a", (Message("user", "my mail is ann.lee@example.org"),), "card", "f:a"), rows(3)[2], own]
    asked, dropped = to_ask([*rows(20), *bad], rows(5))
    assert [row.text for row in asked] == [*(f"question {i}" for i in range(5, 20)), "three"]
    assert dropped == {"with personal data": 1, "said again": 1, "asked in the test rows too": 5}
    data = collected(rows(60), share=0.3, dropped=dropped)
    assert data.dropped == dropped
