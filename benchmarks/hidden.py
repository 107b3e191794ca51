"""What a local model's hidden states and an answer's own numbers add to a router, measured with the embedded model.

    FARTHING_DATA=… python -m benchmarks.hidden [--rows 1500] [--mmlu 4000] [--threads 2]

BANKING77: the embedded model answers, a cascade's check judges: with the text alone, with signals (log-probabilities,
margins, agreement of samples), with hidden states, with both. RouteLLM's files: the states that the embedded model has
of MMLU's and GSM8K's prompts, where another model is the small one. APGR, five-fold (of MMLU some 1,500 labels), three
seeds, with and without; differences with 95 % intervals of rows drawn with replacement. Weights are chosen on
half of the rows, by a hash of the prompt; the figures are of the other half. The last line is one JSON document, also
in benchmarks/results/hidden.json. Some ten minutes on two cores.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from benchmarks.hidden_data import MODEL, banking77
from benchmarks.intents_data import tasks_folder
from benchmarks.router_data import Results, results_folder, routellm
from farthing.kernels import instruction_sets
from farthing.report.machine import commit, this_machine
from farthing.report.route_hidden import hidden_states
from farthing.router.encode import Encoded, encode_answers, encode_prompts
from farthing.router.hidden import learn_space
from farthing.router.labelled import Labelled
from farthing.router.metrics import Pair, apgr
from farthing.router.scorers import AFTER_ANSWER, BEFORE_CALL, Recipe, learn

RESULTS = Path(__file__).parent / "results" / "hidden.json"
SEEDS = (0, 1, 2)
NUM_FOLDS = 5
NUM_LABELS = 1_500
WEIGHTS = (0.3, 1.0, 3.0, 10.0)
NUM_DRAWS = 300
Vector = NDArray[np.float64]


def scored(
    rows: Labelled, encoded: Encoded, recipe: Recipe, is_check: bool, seeds: Sequence[int] = SEEDS
) -> list[Vector]:
    """Scores by which rows go to the large model, per seed; each row's by scorers that did not see its label."""
    targets = rows.quality[:, :1] if is_check else rows.quality
    runs = []
    for seed in seeds:
        order, scores = np.random.default_rng(seed).permutation(len(rows)), np.full(len(rows), np.nan)
        for fold in range(NUM_FOLDS):
            test = np.sort(order[fold::NUM_FOLDS])
            train = np.sort(np.setdiff1d(order, test)[:: max(1, len(rows) // NUM_LABELS)])
            quality = learn(encoded.take(train), targets[train], recipe, seed).scorer.quality(encoded.take(test))
            scores[test] = -quality[:, 0] if is_check else quality[:, -1] - quality[:, 0]
        runs.append(scores)
    return runs


def without(encoded: Encoded, *names: str) -> Encoded:
    return Encoded(encoded.texts, {name: values for name, values in encoded.forms.items() if name not in names})


def with_weight(recipe: Recipe, name: str, weight: float) -> Recipe:
    return replace(recipe, weights={**recipe.weights, name: weight})


def by_weight(rows: Labelled, encoded: Encoded, recipe: Recipe, block: str, *, is_check: bool) -> dict[str, float]:
    """APGR by the weight of a block, "0" being without it."""
    everything, found = np.arange(len(rows)), {}
    for weight in (0.0, *WEIGHTS):
        part = encoded if weight else without(encoded, block)
        runs = scored(rows, part, with_weight(recipe, block, weight), is_check, SEEDS[:1])
        found[f"{weight:g}"] = mean_apgr(rows.pair, runs, everything)
    say(f"design half, weight of {block}: {found}")
    return found


def best_of(by_weight: dict[str, float]) -> float:
    """Of the weights that are not 0."""
    return max(WEIGHTS, key=lambda weight: by_weight[f"{weight:g}"])


def mean_apgr(pair: Pair, runs: Sequence[Vector], rows: NDArray[np.int64]) -> float:
    return float(np.mean([apgr(scores[rows], pair.take(rows)) for scores in runs]))


def figures(pair: Pair, runs: dict[str, list[Vector]], base: str) -> dict[str, dict[str, float]]:
    """Of each: its APGR, and what it has more than the base on the same drawn rows."""
    rng, num = np.random.default_rng(0), len(pair.small)
    drawn = [rng.integers(0, num, num) for _ in range(NUM_DRAWS)]
    at_base = [mean_apgr(pair, runs[base], rows) for rows in drawn]
    found = {}
    for name, scores in runs.items():
        more = [mean_apgr(pair, scores, rows) - less for rows, less in zip(drawn, at_base, strict=True)]
        low, high = np.quantile(more, [0.025, 0.975])
        everything = np.arange(num)
        value = mean_apgr(pair, scores, everything)
        found[name] = {
            "apgr": value,
            "more": value - mean_apgr(pair, runs[base], everything),
            "low": float(low),
            "high": float(high),
        }
    return found


def halves(rows: Labelled) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By a hash of the prompt: on one weights are chosen, the other judges."""
    is_first = np.array([crc32(prompt.encode()) % 2 == 0 for prompt in rows.prompts])
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def checked(rows: Labelled) -> dict[str, Any]:
    """A check of the embedded model's answers, with and without what it tells of them."""
    assert rows.answers is not None
    assert rows.hidden is not None
    design, other = halves(rows)
    space = learn_space(rows.hidden.take(design))
    encoded = encode_answers(rows.prompts, rows.answers, space.project(rows.hidden.states), rows.signals)
    parts = {
        "text": without(encoded, "signals", "hidden"),
        "signals": without(encoded, "hidden"),
        "hidden": without(encoded, "signals"),
        "both": encoded,
    }
    chosen = {
        name: by_weight(rows.take(design), parts[name].take(design), AFTER_ANSWER, name, is_check=True)
        for name in ("signals", "hidden")
    }
    recipe = with_weight(AFTER_ANSWER, "hidden", best_of(chosen["hidden"]))
    recipe = with_weight(recipe, "signals", best_of(chosen["signals"]))
    runs = {name: scored(rows.take(other), part.take(other), recipe, True) for name, part in parts.items()}
    return {
        "rows": len(rows),
        "small_is_right": float(rows.quality[:, 0].mean()),
        "design": chosen,
        "judged": figures(rows.take(other).pair, runs, "text"),
        "hidden_beside_signals": figures(rows.take(other).pair, runs, "signals")["both"],
    }


def guessed(results: Results, num_rows: int, num_threads: int) -> dict[str, Any]:
    """Before the call, and on GSM8K after Mixtral's answer: with the embedded model's states of the prompts."""
    rows = results.rows
    if len(rows) > num_rows:
        rows = rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:num_rows]))
    begun = perf_counter()
    hidden = hidden_states(MODEL, num_threads)(rows.prompts)
    seconds = perf_counter() - begun
    say(f"{results.name}: {len(rows)} prompts read in {seconds:.0f} s")
    design, other = halves(rows)
    space = learn_space(hidden.take(design))
    found: dict[str, Any] = {"rows": len(rows), "ms_per_prompt": 1000 * seconds / len(rows)}
    encoded = encode_prompts(rows.prompts, space.project(hidden.states))
    found["before the call"] = _pair(rows, encoded, BEFORE_CALL, design, other, is_check=False)
    if rows.answers is not None:
        encoded = encode_answers(rows.prompts, rows.answers, space.project(hidden.states))
        found["cascade"] = _pair(rows, encoded, AFTER_ANSWER, design, other, is_check=True)
    return found


def _pair(
    rows: Labelled,
    encoded: Encoded,
    recipe: Recipe,
    design: NDArray[np.int64],
    other: NDArray[np.int64],
    *,
    is_check: bool,
) -> dict[str, Any]:
    tried = by_weight(rows.take(design), encoded.take(design), recipe, "hidden", is_check=is_check)
    best = with_weight(recipe, "hidden", best_of(tried))
    base = without(encoded, "hidden")
    runs = {
        "text": scored(rows.take(other), base.take(other), recipe, is_check),
        "hidden": scored(rows.take(other), encoded.take(other), best, is_check),
    }
    return {"design": tried, "judged": figures(rows.take(other).pair, runs, "text")}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_500, help="random test rows of BANKING77")
    parser.add_argument("--mmlu", type=int, default=4_000, help="random rows of MMLU")
    parser.add_argument("--gsm8k", type=int, default=1_307, help="random rows of GSM8K")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    tasks, routing = tasks_folder(), results_folder()
    if tasks is None or routing is None:
        sys.exit("FARTHING_DATA names no folder with tasks and routing in it: there is nothing to measure on")
    found = {}
    for name, measured in (
        ("banking77", lambda: checked(banking77(tasks, options.rows, options.threads))),
        ("gsm8k", lambda: guessed(routellm("gsm8k", routing), options.gsm8k, options.threads)),
        ("mmlu", lambda: guessed(routellm("mmlu", routing), options.mmlu, options.threads)),
    ):
        found[name] = measured()
        print(f"{name}: {json.dumps(found[name], indent=1)}", flush=True)
    document = {"model": MODEL, "commit": commit(), "machine": this_machine(instruction_sets()[0]), **found}
    line = json.dumps(document, default=vars)
    RESULTS.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
