"""What farthing adds to an upstream that answers at once: one worker on one core, ledger durable, keys on.

    python -m benchmarks.gateway [--seconds 30] [--rounds 3] [--arrivals poisson] [--only whole-1k]

Three processes on loopback: `farthing serve` on the first core, by taskset; a mock provider and the load generator
(this one) on the second. Whole answers of 1 KB at 200 requests/s, streams of 32 chunks at 60/s, request bodies of
1 KB and 100 KB. Beside these: a key with a budget; chunks that come 5 ms apart, as a model's would; an upstream that
takes a second, so that 200 answers are under way. Open loop: requests are sent when their time has come, whatever the
answers do. Each round measures every row straight to the mock and through farthing, the order turned round by round,
after a warm-up that is not counted. Clocks: from the write of the request to the read of the first text, and of the
last byte. Added latency is the difference of two percentiles over all rounds; `outside` is the distribution per request
of the time that passed outside the mock. Included: HTTP both ways, key check, JSON of request and answer, price, ledger
row committed (SQLite, WAL) before the last byte. At the end the ledger must hold exactly one settled row for each
answer read through farthing, or the run fails. Prints a table; the last line is one JSON document, also written to
benchmarks/results/gateway.json.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load import serving
from benchmarks.load.client import Answer, Client, drive
from benchmarks.load.figures import Times, compare, times
from benchmarks.load.http1 import request_bytes
from benchmarks.load.mock import ANSWER_BYTES, NUM_CHUNKS
from benchmarks.load.processes import cores, cpu_s, end_on_sigterm, memory, mock
from benchmarks.load.schedule import ARRIVALS, arrivals
from benchmarks.others import Others
from farthing.kernels import instruction_sets
from farthing.report.machine import commit, this_machine

RESULTS = Path(__file__).parent / "results" / "gateway.json"
INCLUDED = (
    "HTTP from client to farthing and on to the mock over loopback, key check, JSON of request and answer, price, "
    "ledger row committed to SQLite (WAL, synchronous=NORMAL) before the last byte leaves; with a budget also its "
    "reservation, committed before the call"
)
Json = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    name: str
    rate_per_s: float
    body_bytes: int
    is_stream: bool
    mode: str = "now"  # of the mock: an upstream of the configuration, and the mock's path
    is_budgeted: bool = False  # asked with a key that has a budget: its reservation is committed before the call

    def request(self, model: str, path: str, key: str) -> bytes:
        body: Json = {"model": model, "messages": [{"role": "user", "content": ""}], "max_tokens": 256}
        if self.is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        body["messages"][0]["content"] = ("words of a question " * self.body_bytes)[
            : self.body_bytes - len(json.dumps(body))
        ]
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        return request_bytes("POST", path, headers, json.dumps(body).encode())


CELLS = (
    Cell("whole-1k", 200, 1024, False),
    Cell("whole-1k-budget", 200, 1024, False, is_budgeted=True),
    Cell("whole-100k", 200, 100 * 1024, False),
    Cell("stream-1k", 60, 1024, True),
    Cell("stream-100k", 60, 100 * 1024, True),
    Cell("stream-1k-paced", 60, 1024, True, "paced-5"),
    Cell("whole-1k-slow", 200, 1024, False, "paced-1000"),
)


@dataclass
class Found:
    direct: list[Times] = field(default_factory=list)
    through: list[Times] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)  # of farthing, per request, by round


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, args: argparse.Namespace, mock_port: int, gateway: serving.Gateway) -> None:
        self._args, self._gateway = args, gateway
        self._ports = {"direct": mock_port, "through": gateway.port}
        self.found = {cell.name: Found() for cell in args.cells}
        self.read: Counter[str] = Counter()  # request ids of answers that were read through farthing
        self.memory_bytes: list[int] = []

    async def run(self) -> None:
        for number in range(self._args.rounds):
            for cell in self._args.cells:
                for way in ("direct", "through") if number % 2 == 0 else ("through", "direct"):
                    await self._measure(number, cell, way)
            self.memory_bytes.append(memory(self._gateway.pid).rss_bytes)

    async def _measure(self, number: int, cell: Cell, way: str) -> None:
        path = "/v1/chat/completions"
        key = self._gateway.budget_key if cell.is_budgeted else self._gateway.key
        request = (
            cell.request(serving.MODEL, f"/{cell.mode}{path}", "none")
            if way == "direct"
            else cell.request(f"{cell.mode}/{serving.MODEL}", path, key)
        )
        client = Client(self._ports[way])
        await client.open(4)
        before_s = 0.0
        for part, duration_s in enumerate((self._args.warmup_s, self._args.seconds)):
            before_s = cpu_s(self._gateway.pid)
            due = arrivals(self._args.arrivals, cell.rate_per_s, duration_s, seed=2 * number + part)
            answers = await drive(client, lambda _: request, due)
            if way == "through":
                self._note(answers)
        client.close()
        found = self.found[cell.name]
        getattr(found, way).extend(map(times, answers))
        spent = ""
        if way == "through":
            found.cpu_us.append((cpu_s(self._gateway.pid) - before_s) * 1e6 / len(answers))
            spent = f", {found.cpu_us[-1]:.0f} us of its core each"
        say(f"round {number + 1} of {self._args.rounds}, {cell.name}, {way}: {len(answers)} answers{spent}")

    def _note(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            times(answer)  # raises where it is not whole
            self.read[answer.headers[serving.REQUEST_ID]] += 1


def rows(bench: Bench, cells: Sequence[Cell]) -> list[Json]:
    made = []
    for cell in cells:
        found = bench.found[cell.name]
        row = {**asdict(cell), **compare(found.direct, found.through), "cpu_us_per_request": found.cpu_us}
        made.append(row)
    return made


def table(found: Sequence[Json]) -> str:
    lines = [
        f"{'added, ms':16} {'to':>6} {'p50':>7} {'p95':>7} {'p99':>7} {'max':>7}   direct p50   p99  requests  core"
    ]
    for row in found:
        for point in ("first_ms", "end_ms") if row["is_stream"] else ("end_ms",):
            figures, direct = row["added"][point], row["direct"][point]
            lines.append(
                f"{row['name']:16} {point.removesuffix('_ms'):>6} "
                + " ".join(f"{figures[name]:7.2f}" for name in ("p50", "p95", "p99", "max"))
                + f"   {direct['p50']:10.2f} {direct['p99']:5.2f}  {row['through'][point]['num']:8,}"
                + f"  {sum(row['cpu_us_per_request']) / len(row['cpu_us_per_request']) * row['rate_per_s'] / 1e4:3.0f}%"
            )
        outside, late = row["through"]["outside_ms"], row["through"]["late_ms"]
        lines.append(
            f"{'':16} outside the mock, per request: p50 {outside['p50']:.2f}, p99 {outside['p99']:.2f}, direct "
            f"{row['direct']['outside_ms']['p50']:.2f}, {row['direct']['outside_ms']['p99']:.2f}; "
            f"sent late: p99 {late['p99']:.2f}"
        )
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warmup-s", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arrivals", choices=ARRIVALS, default="poisson")
    parser.add_argument("--only", nargs="+", choices=[cell.name for cell in CELLS], help="these rows")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0 or args.warmup_s <= 0:
        parser.error("--rounds, --seconds and --warmup-s are above 0")
    args.cells = [cell for cell in CELLS if not args.only or cell.name in args.only]
    return args


def run(args: argparse.Namespace, folder: Path, places: Sequence[int]) -> Bench:
    """The three processes, and every round."""
    provider, mock_port = mock(places[1])
    modes = sorted({cell.mode for cell in args.cells})
    with provider, serving.gateway(folder, mock_port, modes, core=places[0]) as ours:
        os.sched_setaffinity(0, {places[1]})
        bench = Bench(args, mock_port, ours)
        uvloop.run(bench.run())
    os.sched_setaffinity(0, set(places))
    return bench


def main() -> None:
    args = parsed()
    end_on_sigterm()
    places = cores()
    if len(places) < 2:
        sys.exit("this takes two cores: one for farthing, one for the load")
    with tempfile.TemporaryDirectory() as folder:
        with Others() as others:
            bench = run(args, Path(folder), places)
        settled = serving.settled(serving.ledger_url(Path(folder)))
        if settled != bench.read:
            lost, extra = bench.read - settled, settled - bench.read
            sys.exit(
                f"the ledger lacks {lost.total()} rows of answers that were read, and has {extra.total()} too many"
            )
    document: Json = {"rows": rows(bench, args.cells)}
    document |= {"answers_read": bench.read.total(), "rows_settled": settled.total()}
    document |= {"arrivals": args.arrivals, "seconds": args.seconds, "rounds": args.rounds, "warmup_s": args.warmup_s}
    document |= {"answer_bytes": ANSWER_BYTES, "chunks": NUM_CHUNKS, "rss_bytes_by_round": bench.memory_bytes}
    document |= {"cores": {"farthing": places[0], "mock and generator": places[1]}, "others_s": others.seconds}
    document |= {"included": INCLUDED, "machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    print(table(document["rows"]))
    print(f"{bench.read.total():,} answers read through farthing, {settled.total():,} settled rows in its ledger")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
