"""The loop on CLINC150's 150 intents, as its users run it: `farthing serve` answers, `farthing learn` teaches, and what
a request costs falls from round to round.

    FARTHING_DATA=… python -m benchmarks.learn [--rounds 3000,3000,6000,3000] [--minutes 6] [--threads 1]

A cascade of a slot, empty at first, and a stand-in for a large model: the reference answers at gpt-5-nano's price (400
tokens in, 8 out: all intents stand in a large model's prompt). What the first version is made from is five layers of
SmolLM2-135M-Instruct that know nothing of the task. Rows of all splits, each asked once, in an order drawn by lot; a
run of `farthing learn` after each round but the last. Costs are the ledger's. The last line is one JSON document, also
in benchmarks/results/learn.json.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.intents_data import tasks_folder
from farthing.distill.folder import write_folder
from farthing.distill.student import make_student
from farthing.kernels import instruction_sets
from farthing.ledger import open_reader
from farthing.models import load_model
from farthing.models.hub import models_folder
from farthing.report.compare_stats import wilson
from farthing.report.machine import commit, this_machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learn.json"
MODEL, LAYERS = "smollm2-135m-instruct", (0, 1, 2, 3, 29)
CLIENTS = 4
Row = tuple[str, str]

TOML = """
[server]
stored_prompts = true
[ledger]
url = "{ledger}"
[[upstream]]
name = "small"
kind = "classifier"
models = ["{slot}"]
weights = "q8_0"
threads = {threads}
[[upstream]]
name = "large"
kind = "tests.distill.oracle"
answers = "{answers}"
[[model]]
name = "assistant"
upstreams = [{{ upstream = "small", model = "intents" }}, {{ upstream = "large", model = "gpt-5-nano" }}]
[model.router]
mode = "cascade"
file = "{slot}"
sticky = false
[learn]
model = "assistant"
slot = "{slot}"
start = "{start}"
bound = {bound}
minutes = {minutes}
threads = {threads}
[learn.recipe]
learning_rate = 0.0005
batch_size = 32
epochs = 8
"""


def questions(folder: Path) -> list[Row]:
    found = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    rows = {text: intent for part in ("train", "val", "test") for text, intent in found[part]}
    order = sorted(rows)
    random.Random(0).shuffle(order)
    return [(text, rows[text]) for text in order]


def start_of(cache: Path) -> Path:
    """Five layers of the embedded model, without a head."""
    whole, start = cache / "smollm2-whole", cache / "smollm2-five-layers"
    if not start.exists():
        if not whole.exists():
            write_folder(load_model(MODEL), whole, dtype="float32")
        make_student(whole, start, LAYERS)
    return start


@contextmanager
def served(config: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (config.parent / "serve.log").open("w") as log:
        command = [sys.executable, "-m", "farthing", "serve", "--config", config, "--port", str(port)]
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while not _is_up(url):
            if server.poll() is not None or time.monotonic() > until:
                sys.exit(f"the server did not start:\n{(config.parent / 'serve.log').read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def _is_up(url: str) -> bool:
    try:
        return httpx2.get(url + "/health").status_code == 200
    except httpx2.TransportError:
        return False


def asked(url: str, ledger: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What these requests cost in the mean, how many were answered as the large model would, and went up to it."""
    since_us = time.time_ns() // 1000

    def ask(row: Row) -> bool:
        body = {"model": "assistant", "messages": [{"role": "user", "content": row[0]}], "max_tokens": 16}
        answer = client.post(url + "/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["choices"][0]["message"]["content"] == row[1])

    with httpx2.Client(timeout=60) as client, ThreadPoolExecutor(CLIENTS) as pool:
        num_right = sum(pool.map(ask, rows))
    time.sleep(3)  # the ledger is written behind the answers; and learn leaves what is younger for the next run
    with open_reader(ledger) as reader:
        written = list(reader.rows(since_us, 2**62))
    assert len({row.request_id for row in written}) == len(rows), "each request stands in the ledger"
    return {
        "requests": len(rows),
        "usd_per_million_requests": sum(row.cost_pico or 0 for row in written) / len(rows) / 1e6,
        "answered_alike": num_right / len(rows),
        "interval": wilson(num_right, len(rows)),
        "sent_up": sum(row.upstream == "large" for row in written) / len(rows),
    }


def learned(config: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "farthing", "learn", "--config", config, "--json"]
    begun = time.perf_counter()
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    time.sleep(4)  # the server looks once a second, and opens what it finds
    return {"seconds": time.perf_counter() - begun, **json.loads(found.stdout)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", default="3000,3000,6000,3000", help="requests of each round")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each training, at most")
    parser.add_argument("--bound", type=float, default=0.05, help="of requests that may be answered otherwise")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", type=Path, help="what the first version is made from, instead of the five layers")
    parser.add_argument("--cache", type=Path, default=models_folder().parent / "distill")
    options = parser.parse_args(arguments)
    folder = tasks_folder()
    if folder is None:
        sys.exit("FARTHING_DATA names no folder with tasks in it: there is nothing to ask")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options.cache.mkdir(parents=True, exist_ok=True)
    rows, start = questions(folder), options.start or start_of(options.cache)
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        (place / "intents" / "versions").mkdir(parents=True)
        (place / "answers.json").write_text(json.dumps(dict(rows)))
        where = {"ledger": f"sqlite:///{place}/ledger.db", "slot": place / "intents", "answers": place / "answers.json"}
        given = {name: getattr(options, name) for name in ("minutes", "bound", "threads")}
        config = place / "farthing.toml"
        config.write_text(TOML.format(start=start, **where, **given))
        sizes = [int(size) for size in options.rounds.split(",")]
        with served(config) as url:
            for number, size in enumerate(sizes):
                first = sum(sizes[:number])
                found = asked(url, str(where["ledger"]), rows[first : first + size])
                if number < len(sizes) - 1:
                    found["learned"] = learned(config)
                rounds.append(found)
                _show(found)
    document = {
        "benchmark": "learn",
        "machine": str(this_machine(instruction_sets()[0])),
        "commit": commit(),
        "labels": len({intent for _, intent in rows}),
        "options": {"start": start.name, **given},
        "rounds": rounds,
    }
    RESULTS.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(json.dumps(document))
    return 0


def _show(found: dict[str, Any]) -> None:
    low, high = found["interval"]
    print(
        f"{found['requests']:6,} requests  ${found['usd_per_million_requests']:6.2f}/M  sent up {found['sent_up']:.1%}"
    )
    print(f"    answered as the large model would: {found['answered_alike']:.1%} ({low:.1%}–{high:.1%})", flush=True)
    if "learned" in found:
        event = found["learned"]["event"]
        said = "nothing" if event is None else f"{event['kind']}: {'; '.join(event['reasons'])}"
        print(f"    learned in {found['learned']['seconds']:.0f} s: {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
