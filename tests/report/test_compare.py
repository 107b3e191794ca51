"""From answers to a verdict, and the forms it is shown in."""

import io
import json
import re
from decimal import Decimal

import pytest
from rich.console import Console

from farthing.errors import InvalidRequest
from farthing.report.compare import compare
from farthing.report.compare_answers import Answer, AnswersFile
from farthing.report.compare_html import to_html
from farthing.report.compare_json import to_json
from farthing.report.compare_terminal import print_comparison
from farthing.report.compare_words import headline


def answer(model, id, right, cost_pico=1_000_000, latency_us=1000, error=None):
    is_right = None if error else right
    return Answer(f"{model}{id}", str(id), model, "q", "a", is_right, error, cost_pico, latency_us, 10, 0, 2)


def answers(model, rights, cost_pico=1_000_000):
    return [answer(model, id, bool(right), cost_pico, 1000 * (id + 1)) for id, right in enumerate(rights)]


def test_a_cheap_model_that_keeps_up_is_taken_and_the_doubt_is_told():
    found = compare("t", 100, {
        "big": answers("big", [1] * 90 + [0] * 10, 50_000_000),
        "small": answers("small", [1] * 88 + [0] * 12, 1_000_000),
        "tiny": answers("tiny", [1] * 60 + [0] * 40, 100_000),
    }, 0.05, {})  # fmt: skip
    verdict = found.verdict
    assert (verdict.best, verdict.cheapest, verdict.num_rows) == ("big", "small", 100)
    assert verdict.of("tiny").is_worse
    assert verdict.of("small").p_value == pytest.approx(0.25)  # two rows of two
    assert verdict.of("small").rows_needed > 100
    assert [model.name for model in found.models] == ["tiny", "small", "big"]
    assert all(model.is_on_front for model in found.models)
    said = headline(found)
    assert said.startswith(
        "small is the cheapest that is not significantly worse than the best, big, and 50.0× cheaper"
    )
    assert "undecided: the best leads by 2.0 points" in said
    even = compare("t", 4, {"a": answers("a", [1, 1, 0, 0]), "b": answers("b", [1, 1, 0, 0], 9_000_000)}, 0.05, {})
    assert headline(even).startswith("Take a: the best")
    ahead = {"a": answers("a", [1, 0] * 50), "b": answers("b", [0, 1] * 50, 9_000_000)}
    assert headline(compare("t", 100, ahead, 0.05, {})).startswith("Take a: ")


def test_a_model_that_is_dearer_and_no_better_is_off_the_front():
    found = compare("t", 4, {"a": answers("a", [1, 1, 1, 0]), "b": answers("b", [1, 1, 0, 0], 9_000_000)}, 0.05, {})
    assert [model.is_on_front for model in found.models] == [True, False]
    assert found.verdict.cheapest == "a"


def test_an_unknown_price_stays_unknown():
    found = compare("t", 3, {"x": answers("x", [1, 1, 1], None), "y": answers("y", [1, 1, 0])}, 0.05, {})
    x = found.models[-1]
    assert (x.name, x.usd_per_1000, x.is_on_front) == ("x", None, False)
    assert (found.verdict.best, found.verdict.cheapest) == ("x", "y")
    document = to_json(found)
    assert document["models"][-1]["usd_per_1000"] is None
    assert any("price is not known" in note for note in document["notes"])
    only = compare("t", 3, {"x": answers("x", [1, 1, 1], None)}, 0.05, {})
    assert only.verdict.cheapest is None
    one = [*answers("z", [1, 1])[:1], answer("z", 1, True, None)]
    assert compare("t", 2, {"z": one}, 0.05, {}).models[0].usd_per_1000 is None


def test_errors_are_wrong_answers_and_no_latencies():
    rows = [answer("m", 0, True), answer("m", 1, False, latency_us=10**9, error="upstream_timeout: slow")]
    (model,) = compare("t", 2, {"m": rows}, 0.05, {}).models
    assert (model.accuracy, model.num_errors, model.p95_us) == (0.5, 1, 1000)
    assert model.usd_per_1000 == Decimal("0.001")


def test_latencies_are_ranks_that_were_measured():
    (model,) = compare("t", 20, {"m": answers("m", [1] * 20)}, 0.05, {}).models
    assert (model.p50_us, model.p95_us) == (10_000, 19_000)


def test_what_was_interrupted_is_compared_on_the_rows_all_have():
    found = compare("t", 10, {"a": answers("a", [1] * 10), "b": answers("b", [0] * 4)}, 0.05, {}, is_partial=True)
    assert found.verdict.num_rows == 4
    assert any("4 of 10" in note for note in to_json(found)["notes"])
    given_up = compare("t", 2, {"a": answers("a", [1, 1]), "b": []}, 0.05, {"b": "401: no key"})
    assert given_up.verdict.against == ()
    assert any("no key" in note for note in to_json(given_up)["notes"])
    assert compare("t", 2, {}, 0.05, {}).verdict is None


def test_every_form_says_the_same():
    found = compare("<task>", 6, {
        "a&b": answers("a&b", [1, 1, 1, 1, 0, 0], 2_000_000),
        "free": answers("free", [1, 1, 0, 0, 0, 0], 0),
        "c": answers("c", [1, 1, 1, 1, 1, 0], 300_000_000),
    }, 0.05, {})  # fmt: skip
    page = to_html(found)
    for text in ("a&amp;b", "&lt;task&gt;", "83.3%", "<svg", "free", "polyline"):
        assert text in page
    assert not re.search(r"<script|style=|https?:", page)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', page)]
    assert heights == sorted(heights, reverse=True)  # the dearer the better here
    out = io.StringIO()
    print_comparison(found, Console(file=out, width=200, markup=False))
    for text in ("a&b", "66.7%", "$0.30", "$0.00", "Best: c"):
        assert text in out.getvalue()
    document = json.loads(json.dumps(to_json(found), default=str))
    assert document["verdict"]["cheapest_not_worse"] == "free"
    assert document["models"][0]["accuracy_high"] <= 1


def test_answers_are_kept_and_a_line_cut_off_is_dropped(tmp_path):
    path = tmp_path / "answers.jsonl"
    first, second = answers("m", [1, 0])
    file = AnswersFile(path)
    file.add(first)
    file.close()
    with path.open("ab") as out:
        out.write(b'{"key": "half')
    file = AnswersFile(path)
    assert file.found == {first.key: first}
    file.add(second)
    file.close()
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["0", "1"]
    path.write_text("{}\n")
    with pytest.raises(InvalidRequest, match="line 1 is no answer of farthing compare"):
        AnswersFile(path)
    assert path.read_text() == "{}\n"
