"""A cascade of three models: each answer is checked, and where it is not good enough a dearer model is asked."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farthing.errors import CorruptModel, InvalidRequest
from farthing.ledger import LedgerConfig
from farthing.router.calibrate import Goal
from farthing.router.config import RouterConfig
from farthing.router.curve import Checked, cascade_outcome
from farthing.router.evaluate import evaluate
from farthing.router.explain import explain_answer
from farthing.router.label import Label
from farthing.router.labelled import Answers, Labelled
from farthing.router.labels_file import to_rows
from farthing.router.learning import train_on
from farthing.router.train import calibrate, train
from farthing.router.trained import Check, Trained
from farthing.upstreams import Tally, UpstreamError
from tests.ledger.open_books import books_of, rows_of
from tests.router.rows import labelled
from tests.router.test_router import Scripted, answer, check_books, failed, router_of, said, text_of

COSTS = (1.0, 4.0, 30.0)
CHANCES = (0.5, 0.75, 0.95)
RIGHT, WRONG = "They have 3 + 4 = <<3+4=7>>7.\n#### 7", "They have 3 + 4 = <<3+4=9>>9.\n#### 9"


def three(num_rows: int, seed: int) -> Labelled:
    """Answers show whether they are right, mostly."""
    rng = np.random.default_rng(seed)
    right = rng.random((num_rows, 3)) < CHANCES
    shows = np.where(rng.random((num_rows, 3)) < 0.9, right, ~right)
    texts = [tuple(RIGHT if shown else WRONG for shown in shows[:, model]) for model in range(2)]
    prompts = tuple(f"{prompt} ({i})" for i, prompt in enumerate(labelled(num_rows, seed).prompts))
    names = ("small", "middle", "large")
    return Labelled(names, COSTS, prompts, right.astype(np.float64), texts[0], None, {1: Answers(texts[1])})


@pytest.fixture(scope="module")
def trained() -> Trained:
    return calibrate(train(three(400, 1)), three(600, 2), Goal("share", 0.9), "cascade")


def test_each_step_takes_the_model_that_is_worth_most() -> None:
    """With perfect checks, at a price low enough, every request ends at the cheapest model that is right."""
    rows = three(200, 3)
    seen = (0.0, 1.0, 1.0, 1.0)  # of middle: three of four right
    perfect = {0: Checked(rows.quality[:, 0], (0.75, 0.95)), 1: Checked(rows.quality[:, 1], (0.95,), seen)}
    found = cascade_outcome(rows, perfect)(0.01)  # large is worth 0.65, middle 0.75 + 0.65 / 4 - 0.04
    right = rows.quality > 0
    first, second = right[:, 0], ~right[:, 0] & right[:, 1]
    assert (found.cost == np.where(first, 1.0, np.where(second, 5.0, 35.0))).all()
    assert (found.quality == np.where(first | second, 1.0, rows.quality[:, 2])).all()
    unseen = {0: perfect[0]}  # without a check of middle it is worth 0.71 at 0.01, and large more where cost is nothing
    assert set(cascade_outcome(rows, unseen)(0.01).cost) == {1.0, 5.0}
    assert set(cascade_outcome(rows, unseen)(0.001).cost) == {1.0, 31.0}
    assert set(cascade_outcome(rows, perfect)(float("-inf")).cost) == {31.0}
    assert set(cascade_outcome(rows, perfect)(float("inf")).cost) == {1.0}
    assert found.max_cost == 35.0 >= found.cost.max()


def test_three_steps_keep_their_goal_for_less_than_two(trained: Trained) -> None:
    rows = three(1000, 4)
    two = Labelled(("small", "large"), (1.0, 30.0), rows.prompts, rows.quality[:, [0, 2]], rows.answers)
    other = three(400, 1)
    fewer = train(Labelled(two.models, two.costs, other.prompts, other.quality[:, [0, 2]], other.answers))
    more = three(600, 2)
    fewer = calibrate(
        fewer,
        Labelled(two.models, two.costs, more.prompts, more.quality[:, [0, 2]], more.answers),
        Goal("share", 0.9),
        "cascade",
    )
    of_three = cascade_outcome(rows, trained.checked(rows))(trained.price("cascade"))
    of_two = cascade_outcome(two, fewer.checked(two))(fewer.price("cascade"))
    assert of_three.quality.mean() >= 0.88 * rows.quality[:, 2].mean()
    assert of_three.cost.mean() < 0.8 * of_two.cost.mean()
    evaluation = evaluate(trained, rows)
    [mode] = [mode for mode in evaluation.modes if mode.mode == "cascade"]
    assert mode.chosen is not None
    assert mode.chosen.cost == pytest.approx(of_three.cost.mean())


def test_the_file_keeps_every_check(trained: Trained, tmp_path: Path) -> None:
    trained.save(tmp_path / "router")
    again = Trained.load(tmp_path / "router")
    assert set(again.checks) == {0, 1}
    for model in (0, 1):
        for text in (RIGHT, WRONG):
            p_right = again.p_right(["What?"], [text], model=model)
            assert p_right == trained.p_right(["What?"], [text], model=model)
            assert (again.next_model(p_right, model) == trained.next_model(p_right, model)).all()
    assert again.checks[0].next_quality == trained.checks[0].next_quality
    assert len(again.checks[0].next_quality) == 2
    with pytest.raises(InvalidRequest, match="without large's answers"):
        again.p_right(["What?"], [RIGHT], model=2)


def test_a_file_of_two_steps_stays_one(trained: Trained, tmp_path: Path) -> None:
    """As they were written before there were more: the second model's quality alone."""
    first = trained.checks[0]
    old = replace(trained, checks={0: replace(first, next_quality=first.next_quality[:1])})
    old.save(tmp_path / "old")
    again = Trained.load(tmp_path / "old")
    assert again.next_model(np.array([0.0]), price=float("-inf")).tolist() == [1]
    rows = three(100, 5)
    assert set(cascade_outcome(rows, again.checked(rows))(float("-inf")).cost) == {5.0}


def test_a_file_that_lies_about_its_checks(trained: Trained, tmp_path: Path) -> None:
    first, second = trained.checks[0], trained.checks[1]
    bad: list[dict[int, Check]] = [{1: second}, {0: first, 1: replace(second, spread=(0.5, 1.5))}]
    bad += [{0: replace(first, next_quality=quality)} for quality in ((0.5, 0.5, 0.5), (1.5,), ())]
    for checks in bad:
        replace(trained, checks=checks).save(tmp_path / "bad")
        with pytest.raises(CorruptModel):
            Trained.load(tmp_path / "bad")


def test_calibration_wants_the_answers_that_are_checked(trained: Trained) -> None:
    with pytest.raises(InvalidRequest, match="needs answers of middle"):
        calibrate(trained, replace(three(100, 6), later={}), Goal("share", 0.9), "cascade")
    with pytest.raises(InvalidRequest, match="between the first and the dearest"):
        replace(three(100, 6), later={2: Answers(("x",) * 100)})


def test_labels_with_answers_of_more_models_make_more_checks() -> None:
    rows = three(120, 7)
    labels = {
        prompt: {
            "large": Label(rows.quality[i, 2], "never read", 30),
            "middle": Label(rows.quality[i, 1], rows.later[1].texts[i], 4),
            "small": Label(rows.quality[i, 0], (rows.answers or ())[i], 1),
        }
        for i, prompt in enumerate(rows.prompts)
    }
    found, told = to_rows(labels)
    assert (found.models, set(found.later), told.lines) == (("small", "middle", "large"), {1}, ())
    assert set(train_on(labels, part=1.0).trained.checks) == {0, 1}
    first = rows.prompts[0]
    labels[first] = {**labels[first], "middle": Label(1.0, None, 4)}
    found, told = to_rows(labels)
    assert (set(found.later), told.lines) == (set(), ("answers of middle not used: 1 prompts have none",))


def test_explain_names_who_is_asked(trained: Trained) -> None:
    why = explain_answer(trained, "What?", WRONG)
    assert why.escalates
    assert why.next_model in ("middle", "large")
    assert explain_answer(trained, "What?", RIGHT).p_right > why.p_right


@pytest.fixture
def config(tmp_path: Path) -> LedgerConfig:
    return LedgerConfig(url=f"sqlite:///{tmp_path / 'ledger.db'}", spool_folder=str(tmp_path / "spool"))


@pytest.fixture(scope="module")
def file(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("three") / "router"
    trained.save(path)
    return path


def run(config: LedgerConfig, file: Path, small: Any, middle: Any, large: Any, call: Any) -> Any:
    async def work() -> Any:
        tally = Tally()
        async with books_of(config) as books:
            # at this price a doubtful answer of small goes to middle, and one of middle to large
            router = router_of(books, (small, middle, large), RouterConfig(file=file, mode="cascade", price=0.008))
            try:
                found: Any = await answer(router, call, tally)
            except UpstreamError as error:
                found = error
            return found, tally, router.router_stats()

    found, tally, stats = asyncio.run(work())
    return found, tally, rows_of(config), stats


@pytest.mark.parametrize(
    ("small", "middle", "statuses", "model"),
    [
        (RIGHT, RIGHT, ["ok"], "model-small"),
        (WRONG, RIGHT, ["discarded", "ok"], "model-middle"),
        (WRONG, WRONG, ["discarded", "discarded", "ok"], "model-large"),
    ],
)
def test_every_step_is_checked_and_billed(
    config: LedgerConfig, file: Path, small: str, middle: str, statuses: list[str], model: str
) -> None:
    call = said()
    leaves = (Scripted("small", (small,)), Scripted("middle", (middle,)), Scripted("large", ("forty-two",)))
    chunks, tally, rows, stats = run(config, file, *leaves, call)
    assert [row.status for row in rows] == statuses
    assert (tally.model, rows[-1].served_model) == (model, model)
    assert text_of(chunks) == {"model-small": small, "model-middle": middle}.get(model, "forty-two")
    assert (stats.num_drafts, stats.num_escalated) == (1, int(len(statuses) > 1))
    check_books(config, call, rows)


def test_who_fails_is_passed_over_and_the_last_draft_is_better_than_none(config: LedgerConfig, file: Path) -> None:
    call = said()
    large = Scripted("large", ("forty-two",))
    chunks, _, rows, _ = run(config, file, Scripted("small", (WRONG,)), Scripted("middle", error=failed()), large, call)
    assert ([row.status for row in rows], text_of(chunks)) == (["discarded", "error", "ok"], "forty-two")
    check_books(config, call, rows)


def test_the_dearest_draft_is_given_after_all(config: LedgerConfig, file: Path) -> None:
    call = said()
    leaves = (Scripted("small", (WRONG,)), Scripted("middle", (WRONG + " ",)), Scripted("large", error=failed()))
    chunks, tally, rows, _ = run(config, file, *leaves, call)
    assert (text_of(chunks), tally.route) == (WRONG + " ", "cascade kept: nobody else could answer")
    assert [row.status for row in rows] == ["discarded", "discarded", "error"]
    check_books(config, call, rows)
