"""The runs of benchmarks/reuse.py summed up: medians, ratios, dollars, a table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.conversations import Run, first_token_s
from benchmarks.peers.models import AS_IT_IS
from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.economics.waterfall import split_seconds

__all__ = ["LLAMACPP", "WITH", "WITHOUT", "ratios", "summary", "table", "usd_per_mtok"]

WITH, WITHOUT, LLAMACPP = "farthing with reuse", "farthing without reuse", "llama.cpp: "
Json = dict[str, Any]


def usd_per_mtok(usage: Usage, seconds: float, host: HostCost) -> Json:
    """As the waterfall prices a row: what the engine does not account for is charged in the same proportion."""
    of_input, of_output = split_seconds(usage, seconds)
    return {
        "input": float(host.usd_per_mtok(usage.input_tokens, of_input)),
        "output": float(host.usd_per_mtok(usage.output_tokens, of_output)),
        "blended": float(host.usd_per_mtok(usage.input_tokens + usage.output_tokens, of_input + of_output)),
    }


def summary(name: str, runs: Sequence[Run], host: HostCost) -> Json:
    """Medians over the rounds; counts and dollars are those of the round in the middle."""
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    seconds = statistics.median(run.seconds for run in runs)
    read, given = middle.total("cache_read_tokens"), middle.total("input_tokens")
    numbers = sorted({turn.number for turn in middle.turns})
    return {
        "name": name,
        "seconds": seconds,
        "busy_s": statistics.median(run.busy_s for run in runs),
        "rounds_s": [round(run.seconds, 3) for run in runs],
        "rounds_busy_s": [round(run.busy_s, 3) for run in runs],
        "rounds_others_s": [None if run.others_s is None else round(run.others_s, 3) for run in runs],
        "output_tok_s": middle.total("output_tokens") / seconds,
        "output_tokens": middle.total("output_tokens"),
        "input_tokens": given,
        "computed_tokens": given - read,
        "cache_read_tokens": read,
        "first_token_s": _first(runs, numbers),
        "turns": [
            {
                "input_tokens": _of(middle, number, "input_tokens"),
                "cache_read_tokens": _of(middle, number, "cache_read_tokens"),
                "first_token_s": _first(runs, [number]),
            }
            for number in numbers
        ],
        "usd_per_mtok": None if middle.usage is None else usd_per_mtok(middle.usage, middle.seconds, host),
    }


def _of(run: Run, number: int, name: str) -> int:
    return sum(getattr(turn, name) for turn in run.turns if turn.number == number)


def _first(runs: Sequence[Run], numbers: Sequence[int]) -> Json:
    of_runs = [first_token_s([turn for turn in run.turns if turn.number in numbers]) for run in runs]
    return {key: statistics.median(first[key] for first in of_runs) for key in ("median", "p95")}


def ratios(rows: Sequence[Json]) -> Json:
    """How many times faster farthing with reuse is, always on the wall clock; llama.cpp also by its own account."""
    by_name = {row["name"]: row for row in rows}
    ours = by_name[WITH]
    found = {"without reuse": by_name[WITHOUT]["seconds"] / ours["seconds"]}
    peers = [row for row in rows if row["name"].startswith(LLAMACPP)]
    for title, some in (("", peers), (", same file", [row for row in peers if AS_IT_IS in row["name"]])):
        if some:
            best = min(some, key=lambda row: row["seconds"])
            found[f"llama.cpp{title}"] = best["seconds"] / ours["seconds"]
            found[f"llama.cpp{title}, its own account"] = min(row["busy_s"] for row in some) / ours["seconds"]
            found[f"llama.cpp{title}, first token, median"] = (
                best["first_token_s"]["median"] / ours["first_token_s"]["median"]
            )
    return found


def table(rows: Sequence[Json], found: Mapping[str, float]) -> str:
    lines = [f"{'':38}  seconds  own account  out tok/s  computed  from cache  first token: median    p95   $/Mtok"]
    for row in rows:
        first = row["first_token_s"]
        dollars = row["usd_per_mtok"]
        lines.append(
            f"{row['name']:38}  {row['seconds']:7.2f}  {row['busy_s']:11.2f}  {row['output_tok_s']:9,.0f}  "
            f"{row['computed_tokens']:8,}  {row['cache_read_tokens']:10,}  {first['median']:19.3f}  {first['p95']:5.2f}"
            + "".join(f"   {value:.4f} {kind}" for kind, value in (dollars or {}).items())
        )
        per_turn = ", ".join(
            f"{turn['cache_read_tokens']:,} of {turn['input_tokens']:,} ({turn['first_token_s']['median']:.3f} s)"
            for turn in row["turns"]
        )
        lines.append(f"    read from cache (first token, median) by turn: {per_turn}")
    lines += [f"farthing with reuse is {ratio:5.2f} x {name}" for name, ratio in found.items()]
    return "\n".join(lines)
