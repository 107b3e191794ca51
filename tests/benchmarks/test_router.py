"""benchmarks/router.py: what is read of RouteLLM's results, that no router sees what it is tested on, its document."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import router
from benchmarks.router_data import MODELS, routellm
from benchmarks.router_runs import cascade_runs, figure, fold_runs, label_runs, subject_runs
from farthing.router.encode import encode_answers, encode_prompts
from farthing.router.metrics import apgr
from tests.router.rows import labelled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the form of RouteLLM's: MMLU of six subjects, GSM8K with answers, a contaminated prompt in each."""
    root = tmp_path_factory.mktemp("data") / "routing" / "routellm"
    for name, num_files, num_rows in (("mmlu", 6, 60), ("gsm8k", 1, 240)):
        (root / name).mkdir(parents=True)
        for number in range(num_files):
            write(root / name / f"{name}_{number}.csv", labelled(num_rows, seed=number), has_answers=name == "gsm8k")
        dropped = labelled(num_rows, seed=0).prompts[0]
        (root / name / "contaminated_prompts.jsonl").write_text(json.dumps({"eval_prompt": dropped}) + "\n")
    return root


def write(path: Path, rows, has_answers: bool) -> None:
    with path.open("w", newline="", encoding="utf-8") as text:
        found = csv.writer(text)
        found.writerow(["prompt", *MODELS, *([f"{name}_response" for name in MODELS] if has_answers else [])])
        for prompt, quality, answer in zip(rows.prompts, rows.quality, rows.answers, strict=True):
            right = [str(value == 1) for value in quality]
            found.writerow([prompt, *right, *([answer, "the large model's text"] if has_answers else [])])


def test_contaminated_prompts_are_dropped_and_the_large_models_text_is_never_read(folder: Path) -> None:
    mmlu, gsm8k = routellm("mmlu", folder), routellm("gsm8k", folder)
    assert len(mmlu.rows) == 359
    assert len(gsm8k.rows) == 239
    assert mmlu.rows.answers is None
    assert not any("large model's text" in answer for answer in gsm8k.rows.answers)
    assert np.bincount(mmlu.subjects).tolist() == [59, 60, 60, 60, 60, 60]
    np.testing.assert_array_equal(mmlu.rows.quality[59], labelled(60, seed=1).quality[0])
    assert 0 < mmlu.is_design.mean() < 0.5


def test_a_row_that_trained_has_no_score_nor_has_its_double(folder: Path) -> None:
    mmlu = routellm("mmlu", folder)
    doubled = type(mmlu)("mmlu", mmlu.rows.take([*range(359), *range(100)]), np.arange(459) % 6)
    (scores,) = label_runs(doubled, encode_prompts(doubled.rows.prompts), 200, [0])
    train = set(np.random.default_rng(0).permutation(459)[:200].tolist())
    seen = {doubled.rows.prompts[i] for i in train}
    assert [bool(np.isnan(score)) for score in scores] == [prompt in seen for prompt in doubled.rows.prompts]


def test_labels_of_a_row_do_not_reach_its_score(folder: Path) -> None:
    """Turning the labels of one fold, or of one group of subjects, round leaves its own scores as they were."""
    gsm8k, mmlu = routellm("gsm8k", folder), routellm("mmlu", folder)
    encoded = encode_prompts(gsm8k.rows.prompts)
    fold = np.random.default_rng(0).permutation(len(gsm8k.rows))[0::5]
    (before,), (after,) = (fold_runs(found, encoded, [0]) for found in (gsm8k, turned(gsm8k, fold)))
    np.testing.assert_array_equal(before[fold], after[fold])
    assert (before != after).any()
    group = np.random.default_rng(0).permutation(6) % 5
    rows = np.flatnonzero(group[mmlu.subjects] == 0)
    encoded = encode_prompts(mmlu.rows.prompts)
    before, after = (subject_runs(found, encoded, 150, [0]) for found in (mmlu, turned(mmlu, rows)))
    np.testing.assert_array_equal(before[0], after[0])
    assert (np.nan_to_num(before[1]) != np.nan_to_num(after[1])).any()


def turned(results, rows):
    quality = results.rows.quality.copy()
    quality[rows] = 1 - quality[rows]
    of = results.rows
    return type(results)(results.name, type(of)(of.models, of.costs, of.prompts, quality, of.answers), results.subjects)


def test_a_cascades_threshold_from_the_training_folds_keeps_about_its_part(folder: Path) -> None:
    gsm8k = routellm("gsm8k", folder)
    runs, fixed = cascade_runs(gsm8k, encode_answers(gsm8k.rows.prompts, gsm8k.rows.answers), [0], 0.95)
    assert apgr(runs[0], gsm8k.rows.pair) > 0.8
    assert fixed[0].quality_share == pytest.approx(0.95, abs=0.08)
    assert fixed[0].cost_factor > 1.3


def test_a_figure_is_the_mean_of_its_runs_within_its_interval() -> None:
    rng = np.random.default_rng(0)
    pair = labelled(300).pair
    runs = [rng.random(300) for _ in range(5)]
    runs[0][:50] = np.nan
    found = figure(apgr, runs, pair)
    assert found.low < found.value < found.high
    kept = [np.flatnonzero(np.isfinite(scores)) for scores in runs]
    expected = np.mean([apgr(scores[rows], pair.take(rows)) for scores, rows in zip(runs, kept, strict=True)])
    assert found.value == pytest.approx(expected)


def test_the_last_line_is_the_document_that_was_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FARTHING_DATA", str(folder.parents[1]))
    monkeypatch.setattr(router, "NUM_LABELS", 150)
    monkeypatch.setattr(sys, "argv", ["router", "--seeds", "1", "--out", str(tmp_path / "router.json")])
    router.main()
    printed = capsys.readouterr().out.strip().split("\n")
    document = json.loads(printed[-1])
    assert {name: sorted(part) for name, part in document.items()} == {
        "mmlu": ["apgr", "cpt50", "cpt80"],
        "gsm8k": ["apgr", "cascade_factor_at_95"],
        "unlabelled": ["gsm8k_apgr", "mmlu_apgr"],
    }
    for part in document.values():
        for interval in part.values():
            assert interval.keys() == {"value", "low", "high"}
            assert interval["low"] <= interval["high"]
    written = json.loads((tmp_path / "router.json").read_text())
    assert {name: written[name] for name in document} == document
    assert written["machine"]["cpu"]
    assert written["commit"]
    assert any(line.startswith("RouteLLM's best") for line in printed)


def test_without_the_data_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARTHING_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["router"])
    with pytest.raises(SystemExit, match="FARTHING_DATA names no folder"):
        router.main()
