"""Rows train, calibrate or judge, never two of these; advice where nothing is proven; evaluation and explanation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Goal
from farthing.router.evaluate import evaluate
from farthing.router.explain import explain, explain_answer
from farthing.router.label import Label
from farthing.router.labels_file import Costs
from farthing.router.learning import calibrate_on, evaluate_on, train_on
from farthing.router.origin import chosen_part, prompt_hashes
from farthing.router.trained import Trained
from tests.router.rows import labelled

DEAR = Costs({"model-0": 1.0, "model-1": 10.0, "model-2": 100.0}, "USD per request")


def labels_of(num_rows: int, seed: int = 0, num_models: int = 2) -> dict[str, dict[str, Label]]:
    rows = labelled(num_rows, seed, num_models)
    answers = rows.answers or ()
    return {
        prompt: {
            name: Label(float(rows.quality[i, j]), answers[i] if j == 0 else None, 10**9 * 10**j)
            for j, name in enumerate(rows.models)
        }
        for i, prompt in enumerate(rows.prompts)
    }


@pytest.fixture(scope="module")
def labels() -> dict[str, dict[str, Label]]:
    return labels_of(1200)


@pytest.fixture(scope="module")
def trained(labels: Any) -> Trained:
    found = train_on(labels).trained
    for mode in ("route", "cascade"):
        found = calibrate_on(found, labels, Goal("share", 0.9), mode).trained
    return found


def test_no_row_is_used_twice(labels: Any, trained: Trained) -> None:
    origin = trained.origin
    assert not set(origin.trained) & set(origin.calibrated)
    evaluation, told = evaluate_on(trained, labels)
    others = [hash for hash in prompt_hashes(tuple(labels)) if hash not in {*origin.trained, *origin.calibrated}]
    assert evaluation.num_rows == len(others) > 150
    assert any("left out: they trained or calibrated it" in line for line in told)
    assert evaluate_on(trained, labels, is_all=True)[0].num_rows == len(others) + len(origin.calibrated)
    assert 0.4 < len(origin.trained) / len(labels) < 0.6


def test_the_file_keeps_which_rows_and_what_unit(trained: Trained, tmp_path: Path) -> None:
    trained.save(tmp_path / "r")
    again = Trained.load(tmp_path / "r")
    assert (again.origin.trained == trained.origin.trained).all()
    assert (again.origin.calibrated == trained.origin.calibrated).all()
    replace(trained, origin=replace(trained.origin, unit="USD per million tokens")).save(tmp_path / "r")
    assert Trained.load(tmp_path / "r").origin.unit == "USD per million tokens"


@given(st.lists(st.text(min_size=1), min_size=1), st.floats(0.01, 1))
def test_a_prompt_falls_always_into_the_same_part(prompts: list[str], share: float) -> None:
    whole = chosen_part(prompts, share, "train")
    assert [chosen_part([prompt], share, "train")[0] for prompt in prompts] == whole.tolist()
    assert (chosen_part(prompts, 1.0, "train")).all()
    assert (chosen_part(prompts, share / 2, "train") <= whole).all()
    assert (prompt_hashes([f" {prompt}\n" for prompt in prompts]) == prompt_hashes(prompts)).all()


@pytest.mark.parametrize("num_models", [2, 3])
def test_an_evaluation_holds_what_needs_no_router(num_models: int) -> None:
    labels = labels_of(700, seed=4, num_models=num_models)
    found, _ = evaluate_on(train_on(labels, 0.6).trained, labels)
    assert [policy.name for policy in found.singles] == list(found.models)
    assert found.best_single.quality == max(policy.quality for policy in found.singles)
    assert found.oracle.quality >= found.best_single.quality
    assert found.oracle.cost <= found.singles[-1].cost
    [route, cascade] = found.modes
    assert (route.points[0].quality, route.points[-1].quality) == (found.singles[-1].quality, found.singles[0].quality)
    assert cascade.points[0].cost == pytest.approx(found.singles[0].cost + found.singles[-1].cost)
    assert route.chosen is None
    assert cascade.apgr is not None
    assert cascade.apgr.low > 0.6 > 0.5  # its answers show what is wrong
    assert found.drift is not None
    assert found.drift.alarms == ()


def test_the_models_that_count_may_be_named_in_any_order() -> None:
    labels = labels_of(120, seed=15, num_models=3)
    made = train_on(labels, 1.0, DEAR, ["model-2", "model-0"])
    assert (made.trained.models, made.trained.costs) == (("model-0", "model-2"), (1.0, 100.0))
    assert evaluate_on(made.trained, labels_of(60, seed=16, num_models=3))[0].models == ("model-0", "model-2")


def test_without_a_gap_there_is_none_to_recover(trained: Trained) -> None:
    rows = labelled(60, seed=9)
    same = replace(rows, quality=np.repeat(rows.quality[:, :1], 2, axis=1))
    found = evaluate(trained, same)
    assert [mode.apgr for mode in found.modes] == [None, None]
    assert found.best_single.name == "model-0"  # of equals the cheaper


def test_too_few_rows_say_how_many_are_needed(trained: Trained) -> None:
    few = labels_of(30, seed=5)
    with pytest.raises(InvalidRequest, match="at least 20 are needed, so about 40 in the file"):
        train_on(few)
    with pytest.raises(InvalidRequest, match="at least 20 are needed"):
        calibrate_on(trained, few, Goal("share", 0.9), "route")
    with pytest.raises(InvalidRequest, match="at least 20 are needed"):
        evaluate_on(trained, labels_of(10, seed=6))
    with pytest.raises(InvalidRequest, match="--part is 0"):
        train_on(few, 0)


def test_advice_where_nothing_is_proven(trained: Trained) -> None:
    few = labels_of(60, seed=7)
    made = calibrate_on(trained, few, Goal("share", 0.95, 0.01), "route", 1.0)
    assert made.trained.proven["route"].price == float("-inf")
    assert "nothing cheaper than always the dearest model is proven" in made.told[-1]
    made = calibrate_on(trained, few, Goal("quality", 0.99), "route", 1.0)
    assert made.trained.proven["route"].price is None
    assert "no threshold that saves keeps the goal" in made.told[-1]
    made = calibrate_on(trained, labels_of(40, seed=8), Goal("quality", 0.76), "cascade", 1.0)
    assert made.trained.proven["cascade"].price is None
    assert "proven on 40 rows; about 52 like these should do" in made.told[-1]


def test_a_cascade_that_always_asks_both_is_told_of(trained: Trained) -> None:
    made = calibrate_on(trained, labels_of(40, seed=18), Goal("share", 0.99, 0.01), "cascade", 1.0)
    assert made.trained.proven["cascade"].price == float("-inf")
    assert "pays for both" in made.told[-1]
    [cascade] = [mode for mode in evaluate_on(made.trained, labels_of(60, seed=19))[0].modes if mode.mode == "cascade"]
    assert cascade.chosen is not None
    assert cascade.chosen.share == 1.0


def test_always_the_cheapest_needs_no_advice(trained: Trained) -> None:
    made = calibrate_on(trained, labels_of(300, seed=20), Goal("share", 0.2), "route", 1.0)
    assert made.trained.proven["route"].price == float("inf")
    assert made.told == ()


def test_a_large_model_that_is_no_better_is_told_of() -> None:
    same = {prompt: {name: replace(row["model-0"], cost_pico=row[name].cost_pico) for name in row}
            for prompt, row in labels_of(60, seed=18).items()}  # fmt: skip
    assert "model-1 is no better than model-0 on these rows" in train_on(same, 1.0).told[-1]


def test_costs_of_another_unit_are_refused(trained: Trained, labels: Any) -> None:
    with pytest.raises(InvalidRequest, match="give the same"):
        evaluate_on(trained, labels, Costs({"model-0": 1.0, "model-1": 2.0}, "USD per million tokens"))


def test_rows_without_costs_take_the_routers(trained: Trained) -> None:
    bare = {prompt: {name: replace(label, cost_pico=None) for name, label in row.items()}
            for prompt, row in labels_of(80, seed=11).items()}  # fmt: skip
    found, _ = evaluate_on(trained, bare)
    assert tuple(policy.cost for policy in found.singles) == trained.costs


def test_feedback_on_one_model_moves_that_model() -> None:
    """The kitchen's prompts were right with the small model six times in ten; feedback says: always."""
    base = labels_of(200, seed=12)
    kitchen = {prompt: {"model-0": Label(1.0, "They have 2 + 2 = 4.\n#### 4")}
               for prompt in labelled(200, seed=13, topics=("kitchen",)).prompts}  # fmt: skip
    before = train_on(base, 1.0).trained
    made = train_on({**kitchen, **base}, 1.0, has_partial=True)
    assert made.num_rows > 350
    prompt = labelled(1, seed=14, topics=("kitchen",)).prompts[0]
    was, now = explain(before, prompt).quality, explain(made.trained, prompt).quality
    assert now["model-0"] > was["model-0"] + 0.1
    assert abs(now["model-1"] - was["model-1"]) < 0.1
    assert made.trained.check is not None


def test_an_explanation_adds_up_and_names_what_it_read(trained: Trained) -> None:
    prompt = "Say what the judge and the plea and the tort and the appeal have to do with 3 and 4?"
    why = explain(trained, prompt)
    assert why.model == trained.decide(prompt).model == "model-1"
    assert why.usual + sum(reason.amount for reason in why.parts) == pytest.approx(why.lead)
    assert why.lead == pytest.approx(why.quality["model-1"] - why.quality["model-0"])
    assert why.threshold is not None
    assert why.lead > why.threshold
    assert {reason.what for reason in why.words} & {"judge", "plea", "tort", "appeal"}
    garden = explain(trained, "Say what the rose and the soil and the seed and the leaf have to do with 3 and 4?")
    assert garden.model == "model-0"
    assert garden.threshold is not None
    assert garden.lead <= garden.threshold


def test_an_answer_is_explained_by_its_checks(trained: Trained) -> None:
    prompt = "Say what the judge and the plea and the tort and the appeal have to do with 12 and 5?"
    wrong = explain_answer(trained, prompt, "They have 12 + 5 = <<12+5=19>>19.\n#### 19")
    right = explain_answer(trained, prompt, "They have 12 + 5 = <<12+5=17>>17.\n#### 17")
    assert wrong.p_right < right.p_right - 0.3
    for found in (wrong, right):
        assert found.threshold is not None
        assert found.escalates is (found.p_right < found.threshold)
    assert any("wrong" in reason.what and reason.amount < 0 for reason in wrong.reasons)


def test_an_uncalibrated_router_still_explains(labels: Any) -> None:
    why = explain(train_on(labels).trained, "Say what the rose has to do with it?")
    assert (why.model, why.threshold) == (None, None)
    assert why.parts


def test_log_probabilities_of_the_small_answers_count() -> None:
    """Answers that look alike, whose model was sure only where it was right."""
    sure, rng = {}, np.random.default_rng(3)
    for prompt in labelled(600, seed=17).prompts:
        is_right = bool(rng.random() < 0.5)
        small = Label(float(is_right), "It has.", 1, -0.1 if is_right else -2.0, -0.5 if is_right else -6.0)
        sure[prompt] = {"model-0": small, "model-1": Label(1.0, None, 10)}
    blind = {
        prompt: row | {"model-0": replace(row["model-0"], logprob_mean=None, logprob_least=None)}
        for prompt, row in sure.items()
    }
    areas = []
    for labels in (sure, blind):
        cascade = evaluate_on(train_on(labels).trained, labels)[0].modes[1]
        assert cascade.apgr is not None
        areas.append(cascade.apgr.value)
    assert areas[0] > areas[1] + 0.2
    assert areas[1] < 0.6
