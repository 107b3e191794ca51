"""Labelled rows: what is read, what is right, and how a line that cannot be used is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.report.compare_match import find_choice, is_right, normalized, without_thoughts
from farthing.report.compare_task import read_task


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_prompts_messages_and_the_requests_own_fields(tmp_path):
    first = {"id": "a", "prompt": "Capital of Peru?", "answer": "Lima", "max_tokens": 9}
    second = {
        "model": "m",
        "stream": True,
        "messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": [{"text": "6 · 7?"}]}],
        "answer": 42,
        "match": "number",
    }
    one, two = read_task(write(tmp_path / "task.jsonl", first, "", second))
    assert (one.id, one.answers, one.match) == ("a", ("Lima",), "normalized")
    assert one.body == {"messages": [{"role": "user", "content": "Capital of Peru?"}], "max_tokens": 9}
    assert (two.id, two.answers, two.prompt) == ("line 3", ("42",), "6 · 7?")
    assert set(two.body) == {"messages"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q"}, "answer is missing"),
        ({"answer": "a"}, "give either messages or prompt"),
        ({"prompt": "q", "messages": [], "answer": "a"}, "give either messages or prompt"),
        ({"messages": [], "answer": "a"}, "messages must be a list"),
        ({"prompt": "q", "answer": ""}, "answer is ''"),
        ({"prompt": "q", "answer": "!?"}, "neither letters nor digits"),
        ({"prompt": "q", "answer": "a", "match": "fuzzy"}, "match is 'fuzzy'; allowed: exact"),
        ({"prompt": "q", "answer": "two", "match": "number"}, "is not one number"),
        ({"prompt": "q", "answer": "(", "match": "regex"}, "is not a regular expression"),
        ({"prompt": "q", "answer": "c", "choices": ["a", "b"]}, "is not among the choices"),
        ({"prompt": "q", "answer": "a", "choices": ["a"]}, "two strings or more"),
        ({"prompt": "q", "answer": "a", "choices": ["a", "A."]}, "choices must differ"),
        ({"prompt": "q", "answer": "a", "choices": ["a", "b"], "match": "exact"}, "exclude each other"),
        ({"prompt": "q", "answer": "a", "macth": "exact"}, "unknown key 'macth'; did you mean 'match'?"),
        ({"prompt": "q", "answer": "a", "n": 2}, "n must be 1"),
        ({"prompt": "q", "answer": "a", "id": True}, "id is True"),
        ("[1]", "list instead of an object"),
        ('{"prompt": ', "not JSON"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, said):
    path = write(tmp_path / "task.jsonl", {"prompt": "q", "answer": "a"}, row)
    with pytest.raises(InvalidRequest, match="line 2: ") as told:
        read_task(path)
    assert said in str(told.value)


def test_ids_are_unique_and_many_bad_rows_are_counted(tmp_path):
    with pytest.raises(InvalidRequest, match=r"line 2: id 'x' is there twice"):
        read_task(write(tmp_path / "task.jsonl", *[{"id": "x", "prompt": "q", "answer": "a"}] * 2))
    with pytest.raises(InvalidRequest, match=r"line 5: .*\(and 4 more\)"):
        read_task(write(tmp_path / "task.jsonl", *["{}"] * 9))
    with pytest.raises(InvalidRequest, match="no row in it"):
        read_task(write(tmp_path / "task.jsonl", ""))


@pytest.mark.parametrize(
    ("text", "answer", "match", "right"),
    [
        (" Lima\n", "Lima", "exact", True),
        ("lima", "Lima", "exact", False),
        ("  LIMA. ", "Lima", "normalized", True),
        ("It is Lima.", "Lima", "normalized", False),
        ("It is Lima.", "Lima", "contains", True),
        ("Limassol", "Lima", "contains", False),
        ("So 6 · 7 = 1,042.50 dollars.", "1042.5", "number", True),
        ("first 42, then 43", "42", "number", False),
        ("-3", "3", "number", False),
        ("−3", "-3", "number", True),
        ("$5", "5", "number", True),
        ("about 0.3333333", "0.33333333", "number", True),
        ("none", "0", "number", False),
        ("ticket AB-123", r"\b[A-Z]{2}-\d+", "regex", True),
    ],
)
def test_what_is_right(text, answer, match, right):
    assert is_right(text, ("something else entirely", answer) if match != "number" else (answer,), match) is right


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ('"card_fee"', "card_fee"),
        ('{"intent": "Card fee"}', "card_fee"),
        ("Card fee!", "card_fee"),
        ("The intent is card fee charged.", "card_fee_charged"),
        ("card fee or top up", None),
        ("nothing", None),
        ("card feed", None),
        ("{}", None),
    ],
)
def test_the_choice_in_an_answer(text, choice):
    assert find_choice(text, ["card_fee", "card_fee_charged", "top_up"]) == choice


def test_thoughts_are_no_answer():
    assert without_thoughts("<think>42? no\n</think>\n\n43") == "\n\n43"
    assert without_thoughts("<think>never ends") == "<think>never ends"


def test_normalized():
    assert normalized("  Straße_Nr. 5!\n") == "strasse nr 5"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["id", "prompt", "messages", "answer", "choices", "match", "n", "max_tokens"])
ROW = st.dictionaries(KEYS, JSON | st.sampled_from(["a", ["a", "b"], "number", [{"role": "user", "content": "q"}]]))


@given(st.lists(JSON | ROW, max_size=4), st.text(max_size=20))
def test_whatever_stands_in_the_file_it_is_rows_or_one_error(tmp_path_factory, lines, said):
    path = tmp_path_factory.mktemp("task") / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    try:
        rows = read_task(path)
    except InvalidRequest:
        return
    for row in rows:
        assert isinstance(row.prompt, str)
        assert find_choice(said, row.choices) in (None, *row.choices)
        assert is_right(said, row.answers, row.match) in (True, False)
        if row.match in ("exact", "normalized", "contains"):
            assert is_right(row.answers[0], row.answers, row.match)
