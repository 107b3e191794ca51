"""What `farthing distill` reads, shows and asks beside the work itself."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farthing.cli._output import note, progress, warn
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console

    from farthing.distill.data import Example
    from farthing.distill.progress import Progress
    from farthing.distill.stages import Telling

__all__ = ["collect_answers", "left_out_line", "print_table", "read_data", "telling"]

TOLD_EVERY_S = 15.0  # where stderr is no terminal
WIDTH = 200
HEAD = ("model", "accuracy", "95 % interval", "KL", "requests/s", "tokens/s", "$ per million", "× cheaper", "MB", "")


def read_data(files: Sequence[Path], ledger: str | None, served: str | None) -> "list[Example]":
    """Rows of task files, then of a ledger's stored traffic. Raises InvalidRequest."""
    from farthing.distill.data import examples_of_task, examples_of_traffic
    from farthing.ledger.reader import open_reader
    from farthing.report.route_ledger import HOW_TO_STORE

    if not files and ledger is None:
        raise InvalidRequest(
            "nothing to teach; give --data FILE (rows as `farthing compare` reads them), or --from-ledger"
        )
    if served is not None and ledger is None:
        raise InvalidRequest("--served chooses among a ledger's rows; give --from-ledger URL too")
    found = [example for path in files for example in examples_of_task(path)]
    if ledger is not None:
        with open_reader(ledger) as reader:
            rows = examples_of_traffic(reader.traffic(), served)
        if not rows:
            whose = f" that {served} answered" if served is not None else ""
            raise InvalidRequest(f"the ledger has no stored prompt{whose}; {HOW_TO_STORE}")
        found += rows
    return found


async def collect_answers(
    config: Path, teacher: str, rows: "Sequence[Example]", kept: Path, threads: int | None
) -> "list[Example]":
    """The rows with what an upstream says, instead of their own answers; what it said already is in the file `kept`.

    Raises InvalidRequest where it cannot be asked; rows that it does not answer are left out.
    """
    from functools import partial

    from farthing.cli._candidates import Candidates
    from farthing.economics.charge import Pricer
    from farthing.economics.cost import HostCost
    from farthing.economics.prices import PriceBook
    from farthing.report.compare_answers import AnswersFile
    from farthing.report.compare_run import Asking, ask_all, key_of
    from farthing.report.compare_task import TaskRow
    from farthing.server.config_file import read_config

    settings = read_config(config)
    host = HostCost(settings.economics.usd_per_hour, settings.economics.utilisation)
    candidate = Candidates(settings, host, None, None, threads).find(teacher)
    asking = Asking(temperature=0.0, concurrency=8)
    asked = [
        TaskRow(row.id, {"messages": [vars(message) for message in row.messages]}, (row.answer,), row.choices)
        for row in rows
    ]
    with closing(AnswersFile(kept)) as file, progress() as bar:
        known = {key for key, answer in file.found.items() if answer.error is None}
        missing = [row for row in asked if key_of(row, candidate, asking) not in known]
        task = bar.add_task(f"asking {teacher}", total=len(asked), completed=len(asked) - len(missing))
        said = dict(file.found)

        def told(answer: Any) -> None:
            file.add(answer)
            said[answer.key] = answer
            partial(bar.update, task, advance=1)()

        if missing:
            async with candidate.open() as upstream:
                stopped = await ask_all(candidate, upstream, missing, asking, Pricer(PriceBook(), host), told)
            if stopped is not None:
                raise InvalidRequest(f"--teacher {teacher} cannot be asked: {stopped}")
    found = []
    for example, row in zip(rows, asked, strict=True):
        answer = said.get(key_of(row, candidate, asking))
        if answer is not None and answer.error is None:
            found.append(replace(example, answer=answer.answer, source=f"{example.source}:{teacher}"))
    if len(found) < len(rows):
        warn(
            f"{len(rows) - len(found)} of {len(rows)} rows were not answered, and teach nothing; run again to ask them"
        )
    return found


@contextmanager
def telling() -> "Iterator[Telling]":
    """Bars on a terminal; elsewhere a line at each stage, and of a training every so many seconds."""
    from farthing.distill.stages import Telling

    with progress() as bar:
        is_shown = not bar.disable
        tasks: dict[str, Any] = {}
        last = 0.0

        def stage(name: str) -> None:
            if not is_shown:
                note(name)

        def tick(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        def step(name: str, now: "Progress") -> None:
            nonlocal last
            share = now.seconds / max(now.seconds + now.seconds_left, 1e-9)
            if is_shown:
                tick(name, round(1000 * share), 1000)
                bar.update(tasks[name], description=f"{name}: {now.line()}")
            elif time.monotonic() - last >= TOLD_EVERY_S:
                last = time.monotonic()
                note(f"{name}: {now.line()}")

        def left_out(why: str, count: int) -> None:
            line = left_out_line(why, count)
            bar.console.print(line, markup=False, highlight=False) if is_shown else note(line)

        yield Telling(stage, tick, step, left_out)


def left_out_line(why: str, count: int) -> str:
    return f"left out: {count:,} rows {why}"


def print_table(document: dict[str, Any], console: "Console") -> None:
    """The rows of report.json; costs beside the tuned teacher's."""
    from rich.table import Table

    rows = document["results"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(HEAD):
        table.add_column(name, justify="left" if place in (0, len(HEAD) - 1) else "right", no_wrap=True)
    base = next((row for row in rows if row["name"] == document["compared_with"]), None)
    for row in rows:
        table.add_row(*_cells(row, base))
    console.width = max(console.width, WIDTH)
    held_out = document["rows"]["held_out"]
    console.print(f"{held_out:,} held-out rows; {document['trained']['steps']:,} steps of training\n")
    console.print(table)


def _cells(row: dict[str, Any], base: dict[str, Any] | None) -> list[str]:
    from farthing.distill.result import times_cheaper

    kl, rate = row["kl"], row["tokens_per_s"]
    remarks = [row["note"]] if row.get("note") else []
    if against := row.get("against_linear"):
        remarks.append(f"{against['verdict']} than the linear model (p {against['p']:.2g})")
    if shares := row.get("shares"):
        remarks.append("/".join(f"{share:.0%}" for share in shares))
    return [
        row["name"],
        f"{row['accuracy']:.2%}",
        f"{row['low']:.1%}–{row['high']:.1%}",
        "" if kl is None else f"{kl:.4f}",
        f"{row['requests_per_s']:,.0f}" if row["requests_per_s"] else "",
        f"{rate:,.0f}" if rate else "",
        f"{float(row['usd_per_million_requests']):.4f}",
        "" if base is None or not row["seconds_per_request"] else f"{times_cheaper(base, row)[0]:.2f}",
        f"{row['weight_bytes'] / 1e6:.1f}",
        "; ".join(remarks),
    ]
