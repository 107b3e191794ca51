"""Memory for many streams that are open and say nothing: farthing's, before, with them, and after they have gone.

    python -m benchmarks.idle_streams [--streams 1000] [--wait-s 10]

A mock provider sends one chunk of each stream and then waits; farthing is a process of its own between it and this
client, keys on, ledger in SQLite. Each stream is counted once its first chunk has come through. Then the clients go
away: farthing must close its own streams to the mock, which is watched, and a row must stand in the ledger for each.
RSS counts shared pages wholly, PSS in part. Prints a table; the last line is one JSON document, also written to
benchmarks/results/idle_streams.json.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load import serving
from benchmarks.load.client import Client
from benchmarks.load.http1 import request_bytes
from benchmarks.load.processes import Memory, end_on_sigterm, memory, mock, raise_file_limit
from farthing.kernels import instruction_sets
from farthing.report.machine import commit, this_machine

RESULTS = Path(__file__).parent / "results" / "idle_streams.json"
GOAL_BYTES = 300_000_000
GONE_S = 30.0
OPENING = 50  # at a time: a listening socket's queue is short
Json = dict[str, Any]


async def stats(port: int) -> Json:
    """What the mock has open."""
    client = Client(port)
    answer = await client.ask(request_bytes("GET", "/stats", {}))
    client.close()
    found: Json = json.loads(answer.body)
    return found


async def streams_at(port: int, num: int, within_s: float) -> int:
    """How many are open at the mock once there are `num` of them, or when the time is over."""
    until = time.monotonic() + within_s
    while (open_now := int((await stats(port))["streams"])) != num and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return open_now


async def hold(gateway: serving.Gateway, mock_port: int, num: int, wait_s: float) -> tuple[dict[str, Memory], int]:
    """The figures, and how many streams the mock still had after the clients had gone."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {gateway.key}"}
    asked = {"model": f"idle/{serving.MODEL}", "messages": [{"role": "user", "content": "Wait."}], "stream": True}
    request = request_bytes("POST", "/v1/chat/completions", headers, json.dumps({**asked, "max_tokens": 64}).encode())
    client, found = Client(gateway.port), {"before": memory(gateway.pid)}
    tasks: list[asyncio.Task[Any]] = []
    while len(tasks) < num:
        tasks += [asyncio.create_task(client.ask(request)) for _ in range(min(OPENING, num - len(tasks)))]
        if await streams_at(mock_port, len(tasks), GONE_S) != len(tasks):
            said = [task.result() for task in tasks if task.done()][:1]
            raise SystemExit(f"only {await stats(mock_port)} of {len(tasks)} streams were opened; an answer: {said}")
    await asyncio.sleep(wait_s)
    found[f"{num} streams"] = memory(gateway.pid)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    left = await streams_at(mock_port, 0, GONE_S)
    await asyncio.sleep(wait_s)
    found["after"] = memory(gateway.pid)
    return found, left


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.idle_streams",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--wait-s", type=float, default=10.0, help="before each look at the memory")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    end_on_sigterm()
    if raise_file_limit() < 4 * args.streams:
        sys.exit(f"{args.streams} streams take {4 * args.streams} open files; this user may have fewer")
    with tempfile.TemporaryDirectory() as folder:
        provider, mock_port = mock()
        with provider, serving.gateway(Path(folder), mock_port, ["idle"]) as gateway:
            found, left = uvloop.run(hold(gateway, mock_port, args.streams, args.wait_s))
        num_rows = len(serving.rows(serving.ledger_url(Path(folder))))
    for when, memory_then in found.items():
        print(f"{when:14} RSS {memory_then.rss_bytes / 1e6:7.1f} MB   PSS {memory_then.pss_bytes / 1e6:7.1f} MB")
    most = found[f"{args.streams} streams"]
    per_stream = (most.rss_bytes - found["before"].rss_bytes) / args.streams
    print(f"{per_stream / 1e3:.1f} kB for each stream; goal: all of it under {GOAL_BYTES / 1e6:.0f} MB")
    print(f"after the clients had gone: {left} streams left at the mock, {num_rows} rows in the ledger")
    document: Json = {"memory": {when: asdict(one) for when, one in found.items()}, "streams": args.streams}
    document |= {"bytes_per_stream": per_stream, "goal_bytes": GOAL_BYTES, "is_reached": most.rss_bytes < GOAL_BYTES}
    document |= {"streams_left": left, "rows": num_rows}
    document |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))
    if left or num_rows != args.streams:
        sys.exit("a stream or a row was lost")


if __name__ == "__main__":
    main()
