"""A distilled student that writes: CLINC150's intents as JSON, {"intent": …, "domain": …}, teacher and student.

    FARTHING_DATA=… python -m benchmarks.distill_json [--minutes 45] [--rows 500] [--llama-server PROGRAM]

What `farthing distill --task text` does, with a time for each training: SmolLM2-135M-Instruct is tuned on the training
rows and is the teacher; our engine collects what it says at each token of the answers; a student of some of its layers
and of the task's tokens learns from that and from the answers. Test rows are answered greedily, all at once, in weights
of 8 bits: as the models write, and held to a JSON schema that lists the intents and domains. An answer is right where
both fields are. With --llama-server the student's GGUF answers there too: the share of texts that are the same.
What --cache holds is not trained again. The last line is one JSON document, also in results/distill_json.json.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # farthing shares the work among its own threads

from benchmarks.distill_tasks import TEXT_TASK, load_text_task
from benchmarks.intents_data import tasks_folder
from benchmarks.llama_server import Server
from farthing.distill.data import Data, Example
from farthing.distill.job import DistillJob
from farthing.distill.recipe import STUDENT, TEACHER
from farthing.distill.report_file import report_document
from farthing.distill.stages import Telling
from farthing.distill.student import parse_student
from farthing.distill.text_report import measure_text
from farthing.distill.text_run import make_text_student
from farthing.economics.cost import HostCost
from farthing.engine import Engine, EngineConfig
from farthing.kernels import instruction_sets
from farthing.models import Model, load_model
from farthing.models.hub import models_folder
from farthing.report.compare_stats import wilson
from farthing.report.machine import commit, this_machine
from farthing.request import Request, SamplingParams
from farthing.upstreams.grammar import Grammars, json_grammar

RESULTS = Path(__file__).parent / "results" / "distill_json.json"
MODEL = "smollm2-135m-instruct"
MOST_TOKENS = 40  # of an answer


def job_of(options: argparse.Namespace) -> DistillJob:
    ends: dict[str, Any] = {"minutes": options.minutes, "max_length": 96}
    ends["num_threads"] = options.training_threads or options.threads
    return DistillJob(
        teacher=MODEL,
        student=parse_student(options.student),
        output=options.cache / f"{TEXT_TASK}-student",
        teacher_recipe=replace(TEACHER, learning_rate=2e-4, epochs=options.teacher_epochs, frozen_layers=10, **ends),
        student_recipe=replace(STUDENT, batch_size=32, evaluate_every=200, **ends),
        num_variants=0,
        num_threads=options.threads,
    )


def schema_of(data: Data) -> dict[str, Any]:
    answers = [json.loads(row.answer) for row in (*data.train, *data.held_out)]
    fields = {name: {"enum": sorted({answer[name] for answer in answers})} for name in ("intent", "domain")}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def answered(model: Model, rows: Sequence[Example], num_threads: int, schema: Mapping[str, Any] | None) -> list[str]:
    grammar = None if schema is None else Grammars(model).compile(json_grammar(schema, "schema"), "schema")
    params = SamplingParams(temperature=0, max_tokens=MOST_TOKENS)
    engine = Engine(model, EngineConfig(num_threads=num_threads))
    done = engine.generate([Request(row.messages, params=params, make_constraint=grammar) for row in rows])
    return [one.text for one in done]


def judged(answers: Sequence[str], rows: Sequence[Example]) -> dict[str, Any]:
    """Exact: both fields, and nothing else. Intent: that field alone. Well-formed: JSON of the two fields."""
    parsed = [fields_of(answer) for answer in answers]
    right = [fields_of(row.answer) for row in rows]
    exact = sum(one == other for one, other in zip(parsed, right, strict=True))
    intents = sum(one is not None and other is not None and one["intent"] == other["intent"]
                  for one, other in zip(parsed, right, strict=True))  # fmt: skip
    low, high = wilson(exact, len(rows))
    shares = {"exact_match": exact, "intent_right": intents, "well_formed": sum(one is not None for one in parsed)}
    return {name: count / len(rows) for name, count in shares.items()} | {"low": low, "high": high}


def fields_of(answer: str) -> dict[str, str] | None:
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    is_good = isinstance(found, dict) and found.keys() == {"intent", "domain"}
    return found if is_good and all(isinstance(value, str) for value in found.values()) else None


def same_in_llama_cpp(
    program: Path, path: Path, rows: Sequence[Example], ours: Sequence[str], threads: int, log: Path
) -> float:
    """The share of rows that llama.cpp's server answers from the student's GGUF as our engine does, both greedily."""
    same = 0
    with Server(program, path, threads, ["--ctx-size", "512"], log) as server:
        for answer, row in zip(ours, rows, strict=True):
            messages = [{"role": message.role, "content": message.content} for message in row.messages]
            body = {"messages": messages, "temperature": 0, "max_tokens": MOST_TOKENS}
            with closing(server.connect()) as connection:
                connection.request("POST", "/v1/chat/completions", json.dumps(body))
                found = json.load(connection.getresponse())
            same += found["choices"][0]["message"]["content"] == answer
    return same / len(rows)


def progress_line() -> Telling:
    def step(stage: str, progress: Any) -> None:
        if progress.step % 50 == 0:
            print(f"{stage}: {progress.line()}", file=sys.stderr)

    return Telling(stage=lambda name: print(name, file=sys.stderr), step=step)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=45.0, help="of each training, at most")
    parser.add_argument("--teacher-epochs", type=float, default=2.0)
    parser.add_argument("--student", default="layers=0+1+2+3+28+29,vocab=task")
    parser.add_argument("--rows", type=int, default=500, help="test rows that are answered")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--training-threads", type=int, help="where others than --threads: what was trained stays so")
    parser.add_argument("--cache", type=Path, default=models_folder().parent / "distill")
    parser.add_argument("--llama-server", type=Path)
    options = parser.parse_args(arguments)
    folder = tasks_folder()
    if folder is None:
        sys.exit("FARTHING_DATA names no folder with tasks in it: there is nothing to measure on")
    options.cache.mkdir(parents=True, exist_ok=True)
    begun, host, data = time.perf_counter(), HostCost(), load_text_task(folder)
    data = replace(data, held_out=data.held_out[: options.rows])
    job, telling = job_of(options), progress_line()
    made = make_text_student(job, data, telling)
    document = report_document(job, data, made, measure_text(job, data, made, telling), host)
    models = {
        "teacher": load_model(made.teacher, weights=job.format),
        "student": load_model(made.quantized),
    }
    written: dict[str, Any] = {}
    for name, model in models.items():
        free = answered(model, data.held_out, options.threads, None)
        held = answered(model, data.held_out, options.threads, schema_of(data))
        written[name] = {"free": judged(free, data.held_out), "schema": judged(held, data.held_out)}
        if name == "student" and options.llama_server is not None:
            some, log = slice(100), options.cache / "llama-server.log"
            written["same_text_in_llama_cpp"] = same_in_llama_cpp(
                options.llama_server, made.quantized, data.held_out[some], free[some], options.threads, log
            )
    document |= {
        "benchmark": "distill_json",
        "machine": str(this_machine(instruction_sets()[0])),
        "commit": commit(),
        "threads": options.threads,
        "written": written,
        "seconds": time.perf_counter() - begun,
    }
    RESULTS.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for row in document["results"]:
        print(f"  {row['name']:24} {row['accuracy']:.2%}  {row['seconds_per_request'] * 1000:8.2f} ms"
              f"  ${float(row['usd_per_million_requests']):8.4f}/M  {row.get('quality', '')}")  # fmt: skip
    print(json.dumps(written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
