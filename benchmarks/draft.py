"""A draft model, distilled from the embedded model on its own outputs, and what it is worth.

    python -m benchmarks.draft teach WORK [--minutes 20 --layers 0+1 --vocab 8192 --prompts 2400]
    python -m benchmarks.draft measure WORK/draft.gguf [--rounds 5 --max-tokens 160]

`teach` lets the model answer prompts (greedily and at temperature 1), keeps its distribution at each token, makes a
student of a few of its layers and the commonest tokens of its vocabulary, trains it on those distributions, and writes
a GGUF. Each stage is kept in WORK; torch and transformers are needed. `measure` runs speculation.py's prompts one at a
time, greedily and sampled, with speculation off, with prompt lookup, with the draft model and with both; rounds
interleaved, medians; texts must be identical. Nothing else should run meanwhile. Prints tables; the last line is one
JSON document, also written to benchmarks/results/draft.json, with the recipe where `teach` wrote the draft model.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: layers are chosen with threads of their own

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.draft_lessons import answers, common_tokens, in_draft_ids, lessons
from benchmarks.intents_data import tasks_folder
from benchmarks.speculation import PROMPTS
from farthing.distill.folder import write_folder
from farthing.distill.recipe import Recipe
from farthing.distill.student import choose_layers, make_student
from farthing.distill.torch_train import train
from farthing.engine import Engine, EngineConfig
from farthing.kernels import instruction_sets
from farthing.models import load_model
from farthing.report.machine import commit, this_machine
from farthing.request import Message, Request, SamplingParams
from farthing.tuning.job import QuantizeJob
from farthing.tuning.run import quantize_model

HERE = Path(__file__).parent
MODES = ("off", "lookup", "draft", "both")


def teach(args: argparse.Namespace) -> None:
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    model = load_model(args.model)
    samples = answers(model, work / "answers.json", args.prompts, args.threads, tasks_folder())
    num_tokens = sum(len(sample.token_ids) - sample.num_prompt_tokens for sample in samples)
    print(f"{len(samples)} answers, {num_tokens:,} tokens", flush=True)
    if args.until == "answers":
        return
    taught = lessons(model, samples, work / "teacher.targets", args.threads, args.taught)
    print("the model's distributions are there", flush=True)
    if args.until == "lessons":
        return
    start = work / f"start-{args.layers}-{args.vocab}"
    if not start.exists():
        if not (work / "folder").exists():
            write_folder(model, work / "folder", dtype="float32")
        numbers = tuple(int(number) for number in args.layers.split("+"))
        texts = [sample.token_ids for sample in samples[:16]]
        layers = numbers if len(numbers) > 1 else choose_layers(model, texts, numbers[0])
        make_student(work / "folder", start, layers, common_tokens(samples, args.vocab))
        print(f"layers {layers}", flush=True)
    student = load_model(start)
    sizes = model.config.vocab_size, student.config.vocab_size
    own = in_draft_ids(taught, model.tokenizer, student.tokenizer, sizes)
    num_held_out = max(8, len(own) // 25)
    recipe = Recipe(
        learning_rate=args.learning_rate,
        ce_weight=args.cross_entropy,
        kl_weight=1 - args.cross_entropy,
        frozen_embeddings=False,
        batch_size=args.batch,
        max_length=400,
        epochs=None,
        num_steps=args.steps,
        minutes=None if args.steps else args.minutes,
        evaluate_every=args.evaluate_every,
        num_threads=args.threads,
    )
    trained = train(
        start,
        work / "student",
        own[num_held_out:],
        own[:num_held_out],
        recipe,
        work=work / "run",
        on_progress=lambda p: print(p.line(), flush=True) if p.step % 20 == 0 else None,
    )
    print(trained, flush=True)
    draft: Path = work / "draft.gguf"
    quantize_model(work / "student", draft, QuantizeJob(args.format), is_overwrite=True)
    lesson = {
        "answers": len(samples),
        "answer_tokens": num_tokens,
        "taught": len(samples[: args.taught]),
        "layers": args.layers,
        "vocabulary": args.vocab,
        "cross_entropy": recipe.ce_weight,
        "learning_rate": recipe.learning_rate,
        "batch": recipe.batch_size,
        "minutes": recipe.minutes,
        "steps": trained.num_steps,
        "train_losses": [point.train_loss for point in trained.history],
        "held_out_losses": [point.loss for point in trained.history],
        "held_out_loss": trained.best.loss,
    }
    lesson_path(draft).write_text(json.dumps(lesson, indent=1) + "\n")


def lesson_path(draft: Path) -> Path:
    """Where `teach` writes what a draft model was taught with, for `measure` to put into its results."""
    return draft.with_suffix(".lesson.json")


class Silent:
    """No drafts of its own: the draft model is asked alone."""

    def propose(self, token_ids: np.ndarray, max_tokens: int) -> np.ndarray:  # noqa: ARG002
        return token_ids[:0]


def engine_of(mode: str, args: argparse.Namespace) -> Engine:
    speculation = {"off": "off", "lookup": "prompt-lookup"}.get(mode, f"draft:{args.draft}")
    config = EngineConfig(num_threads=args.threads, max_num_seqs=args.sequences, speculation=speculation)
    return Engine(load_model(args.model), config, make_drafter=Silent if mode == "draft" else None)


class Measured:
    """One prompt's seconds and answers in each mode, and how its drafts fared."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.token_ids: dict[str, tuple[int, ...]] = {}
        self.counts: dict[str, dict[str, int]] = {}

    def run(self, mode: str, engine: Engine, request: Request) -> None:
        before = engine.stats()
        [done] = engine.generate([request])
        after = engine.stats()
        self.seconds[mode].append(done.usage.output_s)
        if self.token_ids.setdefault(mode, done.token_ids) != self.token_ids["off"]:
            sys.exit(f"{request.messages[0].content!r}: {mode} changed the answer")
        self.counts[mode] = {
            "drafts": after.num_draft_tokens - before.num_draft_tokens,
            "accepted": after.num_accepted_tokens - before.num_accepted_tokens,
            "steps": after.num_steps - before.num_steps,
        }

    def row(self) -> dict[str, object]:
        num_tokens = len(self.token_ids["off"])
        found: dict[str, object] = {"output_tokens": num_tokens}
        for mode, values in self.seconds.items():
            counts = self.counts[mode]
            steps = max(1, num_tokens - counts["accepted"])  # that gave a token, the first not among them
            found[mode] = {"s": statistics.median(values), **counts, "tokens_per_step": num_tokens / steps}
        return found


def measure(args: argparse.Namespace) -> None:
    engines = {mode: engine_of(mode, args) for mode in MODES}
    named = [(group, name, text) for group, prompts in PROMPTS.items() for name, text in prompts.items()]
    rows: dict[float, dict[tuple[str, str], Measured]] = {t: defaultdict(Measured) for t in args.temperatures}
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        order = MODES if number % 2 == 0 else ("off", *reversed(MODES[1:]))
        for temperature in args.temperatures:
            params = SamplingParams(temperature=temperature, max_tokens=args.max_tokens, seed=1)
            for group, name, text in named:
                for mode in order:
                    request = Request((Message("user", text),), params=params)
                    rows[temperature][group, name].run(mode, engines[mode], request)
    document: dict[str, object] = {"rounds": args.rounds, "threads": args.threads}
    for temperature, found in rows.items():
        groups = {group: summary([m.row() for (g, _), m in found.items() if g == group]) for group in (*PROMPTS,)} | {
            "all": summary([m.row() for m in found.values()])
        }
        document[f"temperature_{temperature:g}"] = groups
        for group, modes in groups.items():
            for mode, values in modes.items():
                print(f"t {temperature:g}  {group:24} {mode:7}" + "".join(f"  {k} {v:.3g}" for k, v in values.items()))
    draft = load_model(args.draft)
    document["draft"] = {
        "layers": draft.config.num_layers,
        "vocabulary": draft.config.vocab_size,
        "bytes": draft.weight_bytes,
    }
    if (written := lesson_path(args.draft)).is_file():
        document["lesson"] = json.loads(written.read_text())
    document |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "draft.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


def summary(rows: list[dict[str, object]]) -> dict[str, dict[str, float]]:
    """Of each mode tokens per second, tokens that a step gave, the share of drafts that were right, and the speed
    beside "off", all of them over a group's prompts together."""
    found: dict[str, dict[str, float]] = {}
    num_tokens = sum(int(str(row["output_tokens"])) for row in rows)
    total: dict[str, Mapping[str, float]] = {}
    for mode in MODES:
        parts: list[Mapping[str, float]] = [row[mode] for row in rows]  # type: ignore[misc]
        total[mode] = {key: sum(part[key] for part in parts) for key in ("s", "drafts", "accepted")}
    for mode, sums in total.items():
        found[mode] = {
            "tokens_per_s": num_tokens / sums["s"],
            "tokens_per_step": num_tokens / (num_tokens - sums["accepted"]),
            "accepted_share": sums["accepted"] / max(sums["drafts"], 1),
            "ratio": total["off"]["s"] / sums["s"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(required=True)
    teaching = commands.add_parser("teach")
    teaching.add_argument("work", type=Path)
    teaching.add_argument("--minutes", type=float, default=20)
    teaching.add_argument("--steps", type=int, help="end after so many, whatever the clock says")
    teaching.add_argument("--layers", default="0+1", help="which, or how many")
    teaching.add_argument("--vocab", type=int, default=8192)
    teaching.add_argument("--prompts", type=int, default=2400)
    teaching.add_argument("--taught", type=int, help="answers whose distributions are kept, of the others the text")
    teaching.add_argument("--cross-entropy", type=float, default=0.0, help="its weight; the divergence has the rest")
    teaching.add_argument("--batch", type=int, default=16)
    teaching.add_argument("--learning-rate", type=float, default=1e-3)
    teaching.add_argument("--evaluate-every", type=int, default=100)
    teaching.add_argument("--format", default="q4_1")
    teaching.add_argument("--until", choices=("answers", "lessons", "student"), default="student")
    teaching.set_defaults(command=teach)
    measuring = commands.add_parser("measure")
    measuring.add_argument("draft", type=Path)
    measuring.add_argument("--rounds", type=int, default=5)
    measuring.add_argument("--max-tokens", type=int, default=160)
    measuring.add_argument("--sequences", type=int, default=1)
    measuring.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    measuring.set_defaults(command=measure)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
