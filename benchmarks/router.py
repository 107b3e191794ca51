"""Which requests need the large model: farthing's scorers on RouteLLM's public results, beside RouteLLM's best.

    FARTHING_DATA=… python -m benchmarks.router [--seeds 10]

Mixtral-8x7B and GPT-4-1106 on MMLU and GSM8K. MMLU with 1,500 random labels, tested on all other rows; GSM8K by
repeated five-fold cross-validation, before the call and as a cascade that checks the small model's answer; both without
any label; MMLU with whole subjects left out, each group a traffic of its own. APGR, CPT and costs are exact areas and
points of the curve; RouteLLM's own convention (deciles) stands beside. Features were chosen on a part of the rows, by a
hash of the prompt; the last column is measured on the other rows alone. Prints a table; the last line is one JSON
document, also in benchmarks/results/router.json. Takes about eight minutes on one core.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.router_data import COSTS, Results, results_folder, routellm
from benchmarks.router_runs import (
    Figure,
    apgr_of,
    cascade_runs,
    cpt_of,
    factor_at,
    figure,
    fold_runs,
    label_runs,
    subject_runs,
)
from farthing.kernels import instruction_sets
from farthing.report.machine import commit, this_machine
from farthing.router.encode import encode_answers, encode_prompts
from farthing.router.metrics import Interval, routellm_scores
from farthing.router.scorers import BEFORE_CALL, learn
from farthing.router.structure import NAMES, prior

RESULTS = Path(__file__).parent / "results" / "router.json"
NUM_LABELS = 1_500
PART = 0.95  # of the large model's accuracy, for costs
Vector = NDArray[np.float64]
PUBLISHED = {  # RouteLLM, arXiv 2406.18665 v4: the best row of each, by its convention; CPTs as shares
    "mmlu": ("RouteLLM's best (SW-ranking, 1,500 labels)", 0.603, 0.354, 0.7155),
    "gsm8k": ("RouteLLM's best (Llama-3-8B)", 0.622, 0.3364, 0.6326),
}


@dataclass(frozen=True)
class Row:
    benchmark: str
    name: str
    apgr: Interval
    cpt50: Interval
    cpt80: Interval
    factor: Interval  # times cheaper than the large model at 95 % of its accuracy
    by_deciles: tuple[float, float, float]  # RouteLLM's APGR, CPT(50 %), CPT(80 %)
    untouched_apgr: Interval  # on the rows that chose nothing
    untouched_factor: Interval


def row(results: Results, name: str, runs: Sequence[Vector], is_cascade: bool = False) -> Row:
    pair, untouched = results.rows.pair, ~results.is_design

    def of(measure: Figure, rows: NDArray[np.bool_] | None = None) -> Interval:
        return figure(measure, runs, pair, rows)

    deciles = []
    for scores in runs:
        kept = np.flatnonzero(np.isfinite(scores))
        deciles.append(routellm_scores(scores[kept], pair.take(kept)))
    means = [float(value) for value in np.mean(deciles, axis=0)]
    factor = factor_at(PART, is_cascade)
    say(f"{results.name}: {name} is measured")
    return Row(
        results.name, name, of(apgr_of), of(cpt_of(0.5)), of(cpt_of(0.8)), of(factor), (means[0], means[1], means[2]),
        of(apgr_of, untouched), of(factor, untouched),
    )  # fmt: skip


def baselines(results: Results, form: Vector) -> list[Row]:
    rng = np.random.default_rng(0)
    pair, ties = results.rows.pair, 1e-9 * rng.random(len(form))
    rows = [
        row(results, "random", [rng.random(len(form)) for _ in range(10)]),
        row(results, "length, no labels", [form[:, NAMES.index("log_chars")] + ties]),
        row(results, "ideal check of the small answer", [1 - pair.small + ties], is_cascade=True),
        row(results, "oracle", [pair.oracle + ties]),
    ]
    if results.name == "mmlu":
        rows.insert(2, row(results, "subject given, 1,500 labels", [_by_subject(results, seed) for seed in range(10)]))
    return rows


def _by_subject(results: Results, seed: int) -> Vector:
    """Mean gap per subject, shrunk by ten rows: what a router could know that is told the subject."""
    train = np.random.default_rng(seed).permutation(len(results.rows))[:NUM_LABELS]
    gap, subjects = results.rows.pair.gap[train], results.subjects[train]
    size = int(results.subjects.max()) + 1
    means = (np.bincount(subjects, gap, size) + 10 * gap.mean()) / (np.bincount(subjects, minlength=size) + 10)
    scores = means[results.subjects]
    scores[train] = np.nan
    return np.asarray(scores)


def measure(folder: Path, seeds: Sequence[int]) -> tuple[list[Row], dict[str, Any]]:
    mmlu, gsm8k = (routellm(name, folder) for name in ("mmlu", "gsm8k"))
    assert gsm8k.rows.answers is not None, "its file has them"
    start = perf_counter()
    of_mmlu, of_gsm8k = encode_prompts(mmlu.rows.prompts), encode_prompts(gsm8k.rows.prompts)
    scoring_us = 1e6 * (perf_counter() - start) / (len(of_mmlu) + len(of_gsm8k))
    rows = [*baselines(mmlu, of_mmlu.forms["form"]), *baselines(gsm8k, of_gsm8k.forms["form"])]
    for results, encoded, other, of_other in ((mmlu, of_mmlu, gsm8k, of_gsm8k), (gsm8k, of_gsm8k, mmlu, of_mmlu)):
        rows.append(row(results, "farthing, no labels (prior)", [prior(encoded.forms["form"])]))
        taught = [_transferred(other, of_other, encoded, seed) for seed in seeds[:3]]
        rows.append(row(results, f"farthing, labels of {other.name} alone", taught))
    rows.append(row(mmlu, "farthing, subjects left out", subject_runs(mmlu, of_mmlu, NUM_LABELS, seeds[:5])))
    rows.append(row(mmlu, "farthing, 1,500 labels", label_runs(mmlu, of_mmlu, NUM_LABELS, seeds)))
    rows.append(row(gsm8k, "farthing, five-fold", fold_runs(gsm8k, of_gsm8k, seeds)))
    answered = encode_answers(gsm8k.rows.prompts, gsm8k.rows.answers)
    runs, fixed = cascade_runs(gsm8k, answered, seeds, PART)
    rows.append(row(gsm8k, "farthing, cascade, five-fold", runs, is_cascade=True))
    marked = np.array(["####" in answer for answer in gsm8k.rows.answers])
    more = {
        "encoding_us_per_prompt": scoring_us,
        "cascade_threshold_from_training_folds": {
            "quality_share": float(np.mean([found.quality_share for found in fixed])),
            "cost_factor": float(np.mean([found.cost_factor for found in fixed])),
        },
        "cascade_answers_with_an_end": asdict(figure(factor_at(PART, True), runs, gsm8k.rows.pair, marked)),
        "share_of_answers_with_an_end": float(marked.mean()),
    }
    return rows, more


def _transferred(other: Results, of_other: Any, encoded: Any, seed: int) -> Vector:
    train = np.sort(np.random.default_rng(seed).permutation(len(other.rows))[:NUM_LABELS])
    quality = learn(of_other.take(train), other.rows.quality[train], BEFORE_CALL, seed).scorer.quality(encoded)
    return np.asarray(quality[:, 1] - quality[:, 0])


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    def named(benchmark: str, name: str) -> Row:
        return next(found for found in rows if found.benchmark == benchmark and found.name == name)

    mmlu, gsm8k = named("mmlu", "farthing, 1,500 labels"), named("gsm8k", "farthing, five-fold")
    cascade = named("gsm8k", "farthing, cascade, five-fold")
    prior_name = "farthing, no labels (prior)"
    return {
        "mmlu": {"apgr": asdict(mmlu.apgr), "cpt50": asdict(mmlu.cpt50), "cpt80": asdict(mmlu.cpt80)},
        "gsm8k": {"apgr": asdict(gsm8k.apgr), "cascade_factor_at_95": asdict(cascade.factor)},
        "unlabelled": {
            "mmlu_apgr": asdict(named("mmlu", prior_name).apgr),
            "gsm8k_apgr": asdict(named("gsm8k", prior_name).apgr),
        },
    }


def table(rows: Sequence[Row]) -> str:
    lines = []
    for benchmark, (name, area, half, most) in PUBLISHED.items():
        lines += ["", f"{benchmark:<41}{'APGR':<22}{'CPT(50 %)':<22}{'CPT(80 %)':<22}", ""]
        lines[-1] = f"{'':<41}{'':<22}{'':<22}{'':<22}"
        lines[-2] += f"{'cheaper at 95 %':<21}{'APGR by deciles':<17}APGR, other rows"
        lines[-1] = f"{name:<41}{area:<22.3f}{half:<22.1%}{most:<22.1%}"
        for found in rows:
            if found.benchmark == benchmark:
                shares = "".join(f"{_percent(share):<22}" for share in (found.cpt50, found.cpt80))
                factor = f"{found.factor.value:.2f} ({found.factor.low:.2f}-{found.factor.high:.2f})"
                lines.append(
                    f"{found.name:<41}{_plain(found.apgr):<22}{shares}{factor:<21}{found.by_deciles[0]:<17.3f}"
                    f"{_plain(found.untouched_apgr)}"
                )
    return "\n".join(lines)


def _plain(found: Interval) -> str:
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"


def _percent(found: Interval) -> str:
    return f"{found.value:.1%} ({found.low:.0%}-{found.high:.0%})"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.router", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="random training parts, and repeats of cross-validation")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}; allowed: 1 and more")
    folder = results_folder()
    if folder is None:
        sys.exit("FARTHING_DATA names no folder with routing/routellm in it: there is nothing to measure on")
    start = perf_counter()
    rows, more = measure(folder, range(args.seeds))
    print(table(rows))
    machine = this_machine(instruction_sets()[0])
    document = {
        **summary(rows), "rows": [asdict(found) for found in rows], **more, "prices_usd_per_million": COSTS,
        "num_seeds": args.seeds, "seconds": perf_counter() - start, "machine": asdict(machine), "commit": commit(),
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{machine}, commit {commit()}, {document['seconds']:.0f} s\n{json.dumps(more)}")
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
