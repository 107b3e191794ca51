"""A task whose answer is written, not chosen: CLINC150 as JSON, {"intent": …, "domain": …}; teacher and student.

    FARTHING_DATA=… python -m benchmarks.json_task WORK [--teacher-minutes 15 --student-minutes 15 --test 600]

The embedded model is tuned on the training split, its distribution at each token of the answers is collected by our own
engine, and a student of some of its layers and the task's tokens is trained on it and on the answers. Both are written
as GGUFs and asked the same test rows, greedily, by our engine: exact match, answers that are JSON of the two fields,
intents that are right, tokens per second; and the student's KL divergence from the teacher at each token of the right
answers. With --llama-server PATH the student's GGUF answers some of the rows there too. Each stage is kept in WORK.
Prints a table; the last line is one JSON document, also written to benchmarks/results/json_task.json.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: layers are chosen with threads of their own

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.draft_lessons import in_draft_ids
from benchmarks.intents_data import tasks_folder
from benchmarks.llama_server import Server
from farthing.distill.folder import write_folder
from farthing.distill.progress import Progress
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, SparseTargets
from farthing.distill.student import choose_layers, make_student
from farthing.distill.teacher import TeacherSettings, collect
from farthing.distill.torch_train import train
from farthing.engine import Engine, EngineConfig
from farthing.kernels import instruction_sets
from farthing.models import Model, load_model
from farthing.report.compare_stats import wilson
from farthing.report.machine import commit, this_machine
from farthing.request import Message, Request, SamplingParams
from farthing.tuning.job import QuantizeJob
from farthing.tuning.run import quantize_model

HERE = Path(__file__).parent
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
Row = tuple[str, str]  # utterance, and the JSON that answers it


def rows_of(folder: Path, split: str) -> list[Row]:
    data = json.loads((folder / "clinc150" / "data_full.json").read_text())[split]
    domains = json.loads((folder / "clinc150" / "domains.json").read_text())
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    return [(text, json.dumps({"intent": intent, "domain": domain_of[intent]})) for text, intent in data]


def shuffled(rows: Sequence[Row], num: int, seed: int) -> list[Row]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:num]]


def encoded(model: Model, rows: Sequence[Row]) -> list[Sample]:
    end = model.tokenizer.token_id("<|im_end|>")
    assert end is not None
    found = []
    for text, answer in rows:
        prompt = model.encode_chat((Message("user", text),))
        ids = (*prompt, *model.tokenizer.encode(answer, add_bos=False), end)
        found.append(Sample(ids, num_prompt_tokens=len(prompt)))
    return found


def told(progress: Progress) -> None:
    if progress.step % 20 == 0:
        print(progress.line(), flush=True)


def tuned_teacher(args: argparse.Namespace, tasks: Path) -> Path:
    """The embedded model's folder, with a chat template without a system prompt, trained on the answers."""
    work: Path = args.work
    start, out = work / "start", work / "teacher"
    if not start.exists():
        write_folder(load_model(args.model), work / "start.part", dtype="float32")
        (work / "start.part" / "chat_template.jinja").write_text(TEMPLATE)
        (work / "start.part").replace(start)
    if not out.exists():
        model = load_model(start)
        train_rows = encoded(model, shuffled(rows_of(tasks, "train"), args.train, 0))
        held_out = encoded(model, shuffled(rows_of(tasks, "val"), 128, 1))
        recipe = Recipe(
            learning_rate=args.teacher_rate,
            lora_rank=args.lora,
            batch_size=32,
            max_length=96,
            epochs=args.teacher_epochs,
            minutes=args.teacher_minutes,
            evaluate_every=50,
            num_threads=args.threads,
        )
        print(train(start, out, train_rows, held_out, recipe, work=work / "teacher-run", on_progress=told))
    return out


def taught_student(args: argparse.Namespace, tasks: Path, teacher_folder: Path) -> Path:
    work: Path = args.work
    out, start = work / "student", work / f"student-start-{args.layers}"
    teacher = load_model(teacher_folder)
    rows = shuffled(rows_of(tasks, "train"), args.student_train, 2)
    held_rows = shuffled(rows_of(tasks, "val"), 256, 3)
    samples = encoded(teacher, rows + held_rows)
    settings = TeacherSettings(num_tokens=24, product="int8", num_threads=args.threads)
    taught = collect(teacher, samples, work / "teacher.targets", settings)
    if not start.exists():
        layers = choose_layers(teacher, [sample.token_ids for sample in samples[:24]], args.layers)
        print(f"layers {layers}", flush=True)
        task_rows = rows_of(tasks, "train") + rows_of(tasks, "val")
        make_student(
            teacher_folder, start, layers, sorted({i for s in encoded(teacher, task_rows) for i in s.token_ids})
        )
    if not out.exists():
        student = load_model(start)
        sizes = teacher.config.vocab_size, student.config.vocab_size
        own = in_draft_ids(taught, teacher.tokenizer, student.tokenizer, sizes)
        recipe = Recipe(
            learning_rate=args.student_rate,
            ce_weight=0.5,
            kl_weight=0.5,
            frozen_embeddings=False,
            batch_size=32,
            max_length=96,
            epochs=args.student_epochs,
            minutes=args.student_minutes,
            evaluate_every=100,
            num_threads=args.threads,
        )
        cut = len(rows)
        print(train(start, out, own[:cut], own[cut:], recipe, work=work / "student-run", on_progress=told))
    return out


def asked(path: Path, rows: Sequence[Row], num_threads: int) -> tuple[list[str], dict[str, float]]:
    """Greedy answers to all rows together, and tokens and seconds."""
    engine = Engine(load_model(path), EngineConfig(num_threads=num_threads, max_num_seqs=16))
    params = SamplingParams(temperature=0, max_tokens=48)
    requests = [Request((Message("user", text),), params=params) for text, _ in rows]
    started = time.perf_counter()
    done = engine.generate(requests)
    seconds = time.perf_counter() - started
    num_tokens = sum(len(d.token_ids) for d in done)
    return [d.text for d in done], {"requests_per_s": len(rows) / seconds, "output_tokens_per_s": num_tokens / seconds}


def judged(answers: Sequence[str], rows: Sequence[Row]) -> dict[str, object]:
    exact = sum(answer == right for answer, (_, right) in zip(answers, rows, strict=True))
    parsed = [fields_of(answer) for answer in answers]
    intents = [found is not None and found["intent"] == json.loads(right)["intent"] for found, (_, right) in
               zip(parsed, rows, strict=True)]  # fmt: skip
    low, high = wilson(exact, len(rows))
    return {
        "exact_match": exact / len(rows),
        "interval": [low, high],
        "intent_right": sum(intents) / len(rows),
        "well_formed": sum(found is not None for found in parsed) / len(rows),
    }


def fields_of(answer: str) -> dict[str, str] | None:
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    is_good = isinstance(found, dict) and list(found) == ["intent", "domain"]
    return found if is_good and all(isinstance(value, str) for value in found.values()) else None


def divergence(teacher: Model, student: Model, rows: Sequence[Row], work: Path, num_threads: int) -> dict[str, float]:
    """Nats per token of the right answers, over the teacher's likeliest 49 tokens and all others as one; what the
    student's vocabulary lacks counts with those others."""
    settings = TeacherSettings(num_tokens=49, num_threads=num_threads)
    samples = encoded(teacher, rows)
    theirs = collect(teacher, samples, work / "kl-teacher.targets", settings)
    sizes = teacher.config.vocab_size, student.config.vocab_size
    own = in_draft_ids(theirs, teacher.tokenizer, student.tokenizer, sizes)
    bare = [replace(sample, teacher=None) for sample in own]
    ours = collect(student, bare, work / "kl-student.targets", settings)
    total, agreed, count = 0.0, 0, 0
    for sample, other in zip(own, ours, strict=True):
        p, q = sample.teacher, other.teacher
        assert isinstance(p, SparseTargets)
        assert isinstance(q, SparseTargets)
        assert q.tail_log_mass is not None
        for row in range(len(p.ids)):
            known = dict(zip(q.ids[row].tolist(), np.exp(q.log_probs[row].astype(np.float64)), strict=True))
            probabilities = np.exp(p.log_probs[row].astype(np.float64))
            least = np.exp(float(q.log_probs[row][-1]))  # a token that is not among the student's likeliest has less
            mine = np.array([known.get(int(id), least) for id in p.ids[row]])
            rest, my_rest = max(1 - probabilities.sum(), 0.0), max(1 - mine[probabilities > 0].sum(), 1e-9)
            kept = probabilities > 1e-12
            total += float((probabilities[kept] * np.log(probabilities[kept] / np.maximum(mine[kept], 1e-12))).sum())
            total += rest * np.log(rest / my_rest) if rest > 1e-9 else 0.0
            agreed += int(p.ids[row][0]) == int(q.ids[row][0])
            count += 1
    return {"kl_divergence": total / count, "top1_agreement": agreed / count, "tokens": count}


def in_llama_cpp(args: argparse.Namespace, rows: Sequence[Row]) -> float:
    """The share of rows that llama.cpp's server answers from the student's GGUF as our engine does, both greedily."""
    path = args.work / "student.gguf"
    ours, _ = asked(path, rows, args.threads)
    same = 0
    with Server(args.llama_server, path, args.threads, ["--ctx-size", "512"], args.work / "llama-server.log") as server:
        for answer, (text, _) in zip(ours, rows, strict=True):
            body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 48}
            with closing(server.connect()) as connection:
                connection.request("POST", "/v1/chat/completions", json.dumps(body))
                found = json.load(connection.getresponse())
            same += found["choices"][0]["message"]["content"] == answer
    return same / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--student-train", type=int, default=12000)
    parser.add_argument("--teacher-minutes", type=float, default=15)
    parser.add_argument("--teacher-epochs", type=float, default=2)
    parser.add_argument("--teacher-rate", type=float, default=2e-4)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--student-minutes", type=float, default=15)
    parser.add_argument("--student-epochs", type=float, default=6)
    parser.add_argument("--student-rate", type=float, default=5e-4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--format", default="q8_0")
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--llama-server", type=Path)
    args = parser.parse_args()
    tasks = tasks_folder()
    if tasks is None:
        sys.exit("FARTHING_DATA must name a folder that has tasks/clinc150")
    args.work.mkdir(parents=True, exist_ok=True)
    teacher_folder = tuned_teacher(args, tasks)
    student_folder = taught_student(args, tasks, teacher_folder)
    test = shuffled(rows_of(tasks, "test"), args.test, 4)
    found: dict[str, dict[str, object]] = {}
    for name, folder in (("teacher", teacher_folder), ("student", student_folder)):
        path = args.work / f"{name}.gguf"
        if not path.exists():
            quantize_model(folder, path, QuantizeJob(args.format))
        answers, speed = asked(path, test, args.threads)
        found[name] = {**judged(answers, test), **speed, "bytes": path.stat().st_size}
        print(name, found[name], flush=True)
        (args.work / f"{name}.answers.json").write_text(json.dumps(answers))
    teacher, student = load_model(teacher_folder), load_model(student_folder)
    found["student"] |= divergence(teacher, student, test[:200], args.work, args.threads)
    if args.llama_server is not None:
        found["student"]["same_text_in_llama_cpp"] = in_llama_cpp(args, test[:50])
    document = {**found, "test": len(test), "threads": args.threads, "layers": args.layers, "format": args.format}
    document |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "json_task.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
