"""What code in an answer shows of itself."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.router.code import CODE_NAMES, code_checks, code_in
from farthing.router.encode import encode_answers
from farthing.router.train import train
from farthing.router.trained import Trained
from tests.router.rows import labelled

PROMPT = 'def mean(values: list[float]) -> float:\n    """Of the values."""\n'
BODY = "    return sum(values) / len(values)\n"
GOOD = f"Here it is:\n```python\n{PROMPT}{BODY}```\nIt divides."
FAULTS = ("no_parse", "is_unclosed", "open_brackets", "lacks_asked", "lacks_arguments", "lacks_return",
          "only_placeholder", "unknown_names", "unused_arguments", "json_broken", "no_code_though_asked")  # fmt: skip


def of(answer: str, prompt: str = PROMPT) -> dict[str, float]:
    return dict(zip(CODE_NAMES, map(float, code_checks(prompt, answer)), strict=True))


@pytest.mark.parametrize(
    "answer", [GOOD, BODY, f"```\n{BODY}```", f"```py\n\n{BODY}```", f"~ text\n\n```python\n{PROMPT}{BODY}```"]
)
def test_a_whole_answer_has_no_fault(answer: str) -> None:
    found = of(answer)
    assert found["has_code"] == found["is_python"] == found["asks_code"] == found["defines_asked"] == 1
    assert {name: found[name] for name in FAULTS if found[name]} == {}


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (GOOD[:-22], "is_unclosed"),
        (GOOD.replace("sum(values)", "sum(values"), "no_parse"),
        (GOOD.replace("sum(values)", "sum(values"), "open_brackets"),
        (GOOD.replace("def mean", "def average"), "lacks_asked"),
        (GOOD.replace("(values: list[float])", "()"), "lacks_arguments"),
        (GOOD.replace("return sum", "total = sum"), "lacks_return"),
        (GOOD.replace("sum(values)", "total(values)"), "unknown_names"),
        ("    pass\n", "only_placeholder"),
        ('    """Later."""\n    raise NotImplementedError("later")\n', "only_placeholder"),
        ("    return 3.0\n", "unused_arguments"),
        ("I cannot do that.", "no_code_though_asked"),
        ('```json\n{"a": 1,}\n```', "json_broken"),
        ("```c\nint f(int a) { return g(a; }\n```", "open_brackets"),
    ],
)
def test_what_is_wrong_shows(answer: str, name: str) -> None:
    assert of(answer)[name] > 0


def test_text_without_code_is_all_zero() -> None:
    assert not code_checks("What is 3 + 4?", "It is 7.").any()
    assert code_in("What is a list?", "import duties rise.") == []


def test_other_languages_only_count_brackets() -> None:
    found = of("```c\nint f(int a) { return a; /* ) */ }\n```", "Write it in C:\n```c\nint f(int a);\n```")
    assert found["has_code"] == 1
    assert found["is_python"] == found["no_parse"] == found["unknown_names"] == 0


@pytest.mark.parametrize(
    "answer",
    ["(" * 5_000, "-" * 8_000 + "1", "not " * 2_000 + "x", "x" + ".a" * 4_000, "lambda:" * 1_000 + "0",
     "[" * 90 + "]" * 90, "1" + "+1" * 3_900, "if x:\n " * 900, "\x00", "```" * 2_000, "'''" + "\\" * 500],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "```python\n", "```json\n", "    "])
def test_hostile_answers_are_only_data(prefix: str, answer: str) -> None:
    found = code_checks(PROMPT, prefix + answer)
    assert found.shape == (len(CODE_NAMES),)
    assert np.isfinite(found).all()


@given(st.text(alphabet="def (x):\n\t `~retun\"'\\[]{}#=1.,", max_size=300))
def test_any_text_has_finite_checks(text: str) -> None:
    for prompt in ("", PROMPT, text):
        assert np.isfinite(code_checks(prompt, text)).all()


def test_nothing_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    of(f"```python\nopen({str(mark)!r}, 'w')\n```")
    assert not mark.exists()


def test_a_check_learns_from_code_and_old_files_do_without(tmp_path: Path) -> None:
    rows = labelled(80, seed=1)
    assert rows.answers is not None
    plain = train(rows)
    assert plain.check is not None
    assert "code" not in plain.check.scorer.forms  # no answer has any
    rng = np.random.default_rng(0)
    is_right = rng.random(len(rows)) < 0.5
    answers = tuple(GOOD if right else GOOD.replace("sum(values)", "sum(values") for right in is_right)
    prompts = tuple(f"{prompt}\n{PROMPT}" for prompt in rows.prompts)
    coded = replace(rows, prompts=prompts, answers=answers, quality=np.column_stack([is_right, np.ones(len(rows))]))
    trained = train(coded)
    trained.save(tmp_path / "router")
    again = Trained.load(tmp_path / "router")
    assert again.check is not None
    assert "code" in again.check.scorer.forms
    good, broken = again.p_right(["New.\n" + PROMPT] * 2, [GOOD, GOOD.replace("len(values)", "len(values")])
    assert good > broken + 0.3


@pytest.mark.skipif("FARTHING_DATA" not in os.environ, reason="FARTHING_DATA is not set: HumanEval is needed")
def test_humaneval_references_and_broken_ones() -> None:
    with gzip.open(Path(os.environ["FARTHING_DATA"]) / "text" / "HumanEval.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    whole = [of(f"```python\n{row['prompt']}{row['canonical_solution']}```", row["prompt"]) for row in rows]
    assert sum(found["no_parse"] + found["lacks_asked"] + found["only_placeholder"] for found in whole) == 0
    assert sum(found["unknown_names"] + found["unused_arguments"] for found in whole) == 0
    cut = [of((f"```python\n{row['prompt']}{row['canonical_solution']}")[:-30], row["prompt"]) for row in rows]
    assert all(found["is_unclosed"] for found in cut)
    renamed = [row["prompt"].replace(f"def {row['entry_point']}(", "def other(") for row in rows]
    for row, prompt in zip(rows, renamed, strict=True):
        assert of(f"```python\n{prompt}{row['canonical_solution']}```", row["prompt"])["lacks_asked"] == 1


def test_encoded_answers_carry_it() -> None:
    assert encode_answers([PROMPT], [GOOD]).forms["code"].shape == (1, len(CODE_NAMES))


def test_a_function_of_mathematics_is_not_asked_for() -> None:
    assert not code_checks("Let the function f(x) be odd. What is f(0)?", "It is 0.").any()
    assert of("I cannot.", "Write a function called mean(values) in Python.")["no_code_though_asked"] == 1
