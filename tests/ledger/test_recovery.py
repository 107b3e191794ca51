"""A process that is killed: what it held is closed by those who live, and what it had acknowledged is there."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from farthing.economics.usage import Usage
from farthing.ledger import Books, LedgerConfig
from farthing.ledger.instance import DEAD_AFTER_S, Instance, beat, recover
from farthing.ledger.opening import open_database, transaction
from farthing.upstreams.call import Tally
from tests.ledger.leaf import Leaf, a_call, pricer
from tests.ledger.open_books import books_of, budget_of, problems_of, query, rows_of, used_of

ROOT = Path(__file__).parents[2]
WRITER = """
import asyncio, sys
from farthing.ledger import LedgerConfig
from farthing.upstreams.call import Tally
from tests.ledger.leaf import Leaf, a_call
from tests.ledger.open_books import books_of

async def main():
    config = LedgerConfig(url=sys.argv[1], spool_folder=sys.argv[2], lock_timeout_s=10, when_away="spool")
    async with books_of(config) as books:
        metered = books.metered(Leaf(), provider="x")
        async def client():
            while True:
                call = a_call()
                sys.stdout.write("begun " + call.id + "\\n")
                async for _ in metered.stream(call, Tally()):
                    pass
                sys.stdout.write("read " + call.id + "\\n")
                sys.stdout.flush()
        await asyncio.gather(*(client() for _ in range(8)))

asyncio.run(main())
"""


def kill_a_writer(config: LedgerConfig, chance: random.Random) -> tuple[set[str], set[str]]:
    """(calls that were begun, calls whose end was read) before the SIGKILL."""
    command = [sys.executable, "-c", WRITER, config.url, config.spool_folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(chance.uniform(0.01, 0.25))
    process.send_signal(signal.SIGKILL)
    lines = [first.strip(), *process.stdout.read().split("\n")]
    process.wait()
    said = [line.split() for line in lines if len(line.split()) == 2 and len(line.split()[1]) == 30]
    return {name for what, name in said if what == "begun"}, {name for what, name in said if what == "read"}


def test_killed_at_any_moment_nothing_is_lost_or_twice(config: LedgerConfig) -> None:
    budget_of(config, "1000000000tokens/month")
    begun: set[str] = set()
    read: set[str] = set()
    chance = random.Random(5)
    for _ in range(4):
        more_begun, more_read = kill_a_writer(config, chance)
        begun |= more_begun
        read |= more_read

    async def tour() -> None:
        async with books_of(config):
            pass  # closes what the last one held

    asyncio.run(tour())
    rows = rows_of(config)
    names = [row.request_id for row in rows]
    assert len(names) == len(set(names))
    assert read
    assert read <= {row.request_id for row in rows if row.status == "ok"}
    killed = [row for row in rows if row.status == "killed"]
    assert len(killed) <= 4 * 8
    assert all((row.input_tokens, row.cost_pico, row.usage_source) == (None, None, "unavailable") for row in killed)
    ((used, reserved),) = used_of(config)
    assert reserved == 0
    assert used == 12 * (len(rows) - len(killed)) + 110 * len(killed)  # the provider may bill what it was asked for
    assert problems_of(config) == []


async def _abandon(config: LedgerConfig, **given: Any) -> tuple[Books, Any]:
    """Books with a call under way, as a killed process leaves them."""
    books = await Books.open(config, pricer())
    stream: Any = books.metered(Leaf(is_endless=True), **given).stream(a_call(tags=("t",)), Tally())
    await anext(stream)
    return books, stream


@pytest.mark.parametrize(("is_local", "charged"), [(True, 0), (False, 110)])
def test_what_the_dead_held(config: LedgerConfig, is_local: bool, charged: int) -> None:
    budget_of(config, "1000tokens/month")

    async def tour() -> None:
        dead, stream = await _abandon(config, is_local=is_local)
        assert used_of(config) == [(0, 110)]
        async with books_of(config):
            assert used_of(config) == [(0, 110)]  # it lives: this very process
        database = open_database(config)
        with transaction(database):
            database.execute("UPDATE instances SET beat_us = beat_us - ?", (int(DEAD_AFTER_S * 1.1e6),))
            assert recover(database, Instance.of_this_process("me")) == 1
            assert recover(database, Instance.of_this_process("me")) == 0
        database.close()
        assert used_of(config) == [(charged, 0)]
        (row,) = rows_of(config)
        assert (row.status, row.tags, row.cost_pico, row.usage_source) == ("killed", ("t",), None, "unavailable")
        assert problems_of(config) == []
        await stream.aclose()
        await dead.aclose()

    asyncio.run(tour())


def test_a_hosted_call_that_no_budget_pays_for_leaves_a_trace_too(config: LedgerConfig) -> None:
    """Its provider may bill it. Nobody bills a local one."""

    async def tour() -> None:
        hosted, hosted_stream = await _abandon(config, is_local=False)
        local, local_stream = await _abandon(config, is_local=True)
        database = open_database(config)
        with transaction(database):
            database.execute("DELETE FROM instances")
            assert recover(database, Instance.of_this_process("me")) == 1
        database.close()
        (row,) = rows_of(config)
        assert (row.status, row.upstream, row.cost_pico, row.usage_source) == ("killed", "leaf", None, "unavailable")
        assert problems_of(config) == []
        for stream, books in ((hosted_stream, hosted), (local_stream, local)):
            await stream.aclose()
            await books.aclose()
        rows = [(row.id.endswith("-late"), row.status) for row in sorted(rows_of(config), key=lambda row: row.id)]
        assert rows == [(False, "killed"), (True, "aborted"), (False, "aborted")]  # what really happened
        assert problems_of(config) == []
        assert query(config, "SELECT * FROM open_reservations") == query(config, "SELECT * FROM counters") == []

    asyncio.run(tour())


@pytest.mark.parametrize("is_local", [True, False])
def test_who_was_only_slow_has_the_last_word(config: LedgerConfig, is_local: bool) -> None:
    budget_of(config, "1000tokens/month")

    async def tour() -> None:
        async with books_of(config) as books:
            call = a_call()
            leaf = Leaf(usage=Usage(10, 0, 7), usage_source="engine")
            stream: Any = books.metered(leaf, is_local=is_local).stream(call, Tally())
            await anext(stream)
            database = open_database(config)
            with transaction(database):
                database.execute("DELETE FROM instances")
                assert recover(database, Instance.of_this_process("me")) == 1
            database.close()
            async for _ in stream:
                pass
            killed, late = sorted(rows_of(config), key=lambda row: row.id)
            assert (killed.status, late.status, late.output_tokens) == ("killed", "ok", 7)
            assert late.id == killed.id + "-late"
            assert used_of(config) == [(17, 0)]
            assert problems_of(config) == []

    asyncio.run(tour())


def test_a_process_that_is_gone_is_dead_at_once(config: LedgerConfig) -> None:
    me = Instance.of_this_process("me")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    gone = Instance("gone", me.place, child.pid, "1")
    child.wait()
    elsewhere = Instance("elsewhere", "another machine", child.pid, "1")
    reused = Instance("reused", me.place, os.getpid(), "1")  # our number, but it began at another time
    database = open_database(config)
    with transaction(database):
        for instance in (me, gone, elsewhere, reused):
            beat(database, instance)
        recover(database, me)
        assert {row[0] for row in database.execute("SELECT id FROM instances").fetchall()} == {"me", "elsewhere"}
    database.close()
