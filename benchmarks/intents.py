"""What the embedded model is good for on two intent tasks: alone, before a large model, and behind a linear one.

    FARTHING_DATA=… python -m benchmarks.intents [--limit 500] [--large gemini-3.5-flash]

Three stages on BANKING77 and CLINC150: a linear model on hashed n-grams, the embedded model (a question's likelihood
under examples of each candidate intent), and a large model, for which the reference answers stand in: always right, at
a hosted model's list price for a prompt with all intents, after an assumed --large-latency-s. Everything that is chosen
(weights, thresholds) is chosen on validation rows; the test rows are looked at once. Dollars of this machine are the
seconds that were measured, at its price per hour. The last line is one JSON document, also in
benchmarks/results/intents.json. Whole: some 15 minutes on two cores.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.intents_cascade import Outcome, Stage, choose_thresholds, curve, serve
from benchmarks.intents_data import Intents, Split, load_intents, tasks_folder
from benchmarks.intents_embedded import Embedded
from benchmarks.intents_linear import Nearest, train_linear
from benchmarks.intents_scores import Scored, all_stages, fit_weights, score
from farthing.economics.cost import HostCost
from farthing.economics.prices import Price, PriceBook
from farthing.kernels import instruction_sets
from farthing.report.compare_stats import wilson
from farthing.report.machine import commit, this_machine

RESULTS = Path(__file__).parent / "results" / "intents.json"
MODEL = "smollm2-135m-instruct"
SURE = 0.98
TARGETS = (0.95, 0.97, 0.98, 0.99)
SHARES = tuple(i / 20 for i in range(21))


def figures(found: Outcome) -> dict[str, Any]:
    low, high = wilson(int(found.right.sum()), len(found.right))
    return {
        "accuracy": float(found.right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "usd_per_1000": float(found.usd.mean() * 1000),
        "p50_s": float(np.quantile(found.seconds, 0.5)),
        "p95_s": float(np.quantile(found.seconds, 0.95)),
        "shares": found.shares,
    }


def share_at(validation: Stage, test: Stage, accuracy: float) -> dict[str, Any]:
    """The share of the test rows that a stage keeps with the lowest threshold that kept `accuracy` on validation."""
    order = np.argsort(-validation.confidence, kind="stable")
    running = np.cumsum(validation.right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(running >= accuracy)
    threshold = float(validation.confidence[order[reached[-1]]]) if len(reached) else np.inf
    kept = test.confidence >= threshold
    num_right = int(test.right[kept].sum())
    low, high = wilson(num_right, int(kept.sum()))
    return {
        "threshold": threshold,
        "share": float(kept.mean()),
        "accuracy": num_right / max(1, int(kept.sum())),
        "accuracy_low": low,
        "accuracy_high": high,
    }


def ratio_interval(dear: Outcome, cheap: Outcome) -> tuple[float, float]:
    """95 % of how many times cheaper, rows drawn with replacement."""
    rng = np.random.default_rng(0)
    num = len(dear.usd)
    drawn = [
        (dear.usd[rows].mean() / cheap.usd[rows].mean()) for rows in (rng.integers(0, num, num) for _ in range(500))
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def measure(intents: Intents, options: argparse.Namespace, price: Price) -> dict[str, Any]:
    begun = perf_counter()
    linear = train_linear(intents.train.texts, intents.train.labels, len(intents.names))
    trained_s = perf_counter() - begun
    nearest = Nearest(linear, intents.train.texts, intents.train.labels, len(intents.names))
    begun = perf_counter()
    embedded = Embedded(MODEL, intents.names, intents.train, options.examples, options.threads)
    prefixes_s = perf_counter() - begun
    validation, test = (score(part, linear, nearest, embedded) for part in (intents.validation, intents.test))
    weights = fit_weights(validation)

    def stages(scored: Scored, split: Split) -> dict[str, Stage]:
        return all_stages(scored, weights, split, intents, price, options.large_latency_s)

    before, after = stages(validation, intents.validation), stages(test, intents.test)
    sure = {name: share_at(before[name], after[name], SURE) for name in ("linear", "embedded", "linear, then embedded")}
    hard = np.flatnonzero(after["linear"].confidence < sure["linear"]["threshold"])
    return {
        "task": intents.name,
        "intents": len(intents.names),
        "rows": {"train": len(intents.train), "validation": len(validation.labels), "test": len(test.labels)},
        "linear_trained_s": trained_s,
        "prefixes": {"tokens": embedded.num_prefix_tokens, "seconds": prefixes_s},
        "tokens_per_question": embedded.num_tokens / (2 * (len(validation.labels) + len(test.labels))),
        "weights": asdict(weights),
        "alone": {name: figures(serve([stage], [])) for name, stage in after.items()},
        "sure_at_98": sure,
        "hard_rows": {"rows": len(hard), **{name: _alone(stage.take(hard)) for name, stage in after.items()}},
        "embedded_to_large": [
            {"share": share, **figures(found), "random_accuracy": random}
            for share, found, random in curve(after["embedded"], after["large"], SHARES)
        ],
        "targets": [_target(before, after, target) for target in TARGETS],
    }


def _alone(stage: Stage) -> dict[str, float]:
    low, high = wilson(int(stage.right.sum()), len(stage.right))
    return {"accuracy": float(stage.right.mean()), "accuracy_low": low, "accuracy_high": high}


def _target(before: dict[str, Stage], after: dict[str, Stage], target: float) -> dict[str, Any]:
    """Cascades whose thresholds reached the target on validation rows, as they do on the test rows."""
    chains = {
        "large alone": ("large",),
        "linear → large": ("linear", "large"),
        "linear → neighbours → large": ("linear", "linear, then neighbours", "large"),
        "embedded → large": ("embedded", "large"),
        "linear → embedded → large": ("linear", "linear, then embedded", "large"),
    }
    outcomes, rows = {}, {}
    for name, chain in chains.items():
        thresholds = choose_thresholds([before[stage] for stage in chain], target)
        outcomes[name] = serve([after[stage] for stage in chain], thresholds)
        rows[name] = {"thresholds": thresholds, **figures(outcomes[name])}
    three = outcomes["linear → embedded → large"]
    gains = {}
    for name in ("linear → large", "linear → neighbours → large"):
        low, high = ratio_interval(outcomes[name], three)
        gains[name] = {"value": float(outcomes[name].usd.mean() / three.usd.mean()), "low": low, "high": high}
    return {"target": target, "cascades": rows, "embedded_cheaper_than": gains}


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['task']}: {found['intents']} intents, {found['rows']['test']:,} test rows")
    for name, row in found["alone"].items():
        money = f"  ${row['usd_per_1000']:.5f}/1,000  p50 {row['p50_s'] * 1000:.1f} ms" if "p50_s" in row else ""
        print(f"  {name:32} {row['accuracy']:.1%} ({row['accuracy_low']:.1%}–{row['accuracy_high']:.1%}){money}")
    for name, row in found["sure_at_98"].items():
        print(f"  sure at 98 %: {name:22} {row['share']:.1%} of the rows, {row['accuracy']:.1%} of them right")
    hard = found["hard_rows"]
    told = ", ".join(f"{name} {row['accuracy']:.1%}" for name, row in hard.items() if name not in ("rows", "large"))
    print(f"  the linear model's {hard['rows']} unsure rows: {told}")
    print("  embedded → large:  share  accuracy  random  $/1,000  p50 s  p95 s")
    for row in found["embedded_to_large"][::2]:
        print(f"                      {row['share']:5.0%}  {row['accuracy']:8.1%}  {row['random_accuracy']:6.1%}"
              f"  {row['usd_per_1000']:7.4f}  {row['p50_s']:5.2f}  {row['p95_s']:5.2f}")  # fmt: skip
    for target in found["targets"]:
        print(f"  target {target['target']:.0%} on validation rows:")
        for name, row in target["cascades"].items():
            shares = "/".join(f"{share:.0%}" for share in row["shares"])
            print(f"    {name:28} {row['accuracy']:.1%} ({row['accuracy_low']:.1%}–{row['accuracy_high']:.1%})"
                  f"  ${row['usd_per_1000']:.4f}/1,000  p50 {row['p50_s']:.3f} s  p95 {row['p95_s']:.2f} s"
                  f"  {shares}")  # fmt: skip
        for name, gain in target["embedded_cheaper_than"].items():
            low, high = gain["low"], gain["high"]
            print(f"    with the embedded stage {gain['value']:.2f}× ({low:.2f}–{high:.2f}) as cheap: {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default="banking77,clinc150")
    parser.add_argument("--limit", type=int, help="random rows of validation and of test, so many each")
    parser.add_argument("--write", action="store_true", help="keep a sample's results too, not only the whole's")
    parser.add_argument("--examples", type=int, default=16, help="training examples in each intent's prompt")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--large", default="gemini-3.5-flash", help="whose list price the large model has")
    parser.add_argument("--large-latency-s", type=float, default=1.0, help="assumed: nothing is asked of it")
    options = parser.parse_args(arguments)
    folder = tasks_folder()
    if folder is None:
        sys.exit("FARTHING_DATA names no folder with tasks in it: there is nothing to measure on")
    begun = perf_counter()
    price = PriceBook().find(options.large, at=datetime.now(UTC))
    found = []
    for name in options.tasks.split(","):
        found.append(measure(load_intents(folder, name).limited(options.limit), options, price))
        show(found[-1])
        sys.stdout.flush()
    document = {
        "benchmark": "intents",
        "machine": str(this_machine(instruction_sets()[0])),
        "commit": commit(),
        "model": MODEL,
        "limit": options.limit,
        "examples": options.examples,
        "threads": options.threads,
        "usd_per_hour": str(HostCost().usd_per_hour),
        "large": {"priced_as": price.model, "price": price.source.text, "latency_s_assumed": options.large_latency_s},
        "seconds": perf_counter() - begun,
        "tasks": found,
    }
    text = json.dumps(document)
    if options.limit is None or options.write:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
