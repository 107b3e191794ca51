"""A server that is killed under load, again and again, on one ledger; and what must hold afterwards."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import serving
from benchmarks.load.processes import Process
from farthing.ledger import Row, open_reader
from tests.torture.clients import Seen, clients, mixed

__all__ = ["Killing", "must_agree"]

NUM_CLIENTS = 24
LONGEST_S = 0.6  # from the first request of a round to the kill; a stream takes up to 0.64
KILLED_STARTING = 0.1  # of the rounds: before the server has said that it is ready
STARTING_S = 1.0


@dataclass
class Killing:
    """`others` are servers on the same ledger that are not killed."""

    config: Path
    keys: list[str]
    log: Path
    draw: random.Random
    seen: Seen = field(default_factory=Seen)
    num_kills: int = 0

    def round(self, others: tuple[int, ...] = ()) -> None:
        """One kill, at a moment that nobody chose. Clients of the others go on until theirs have seen it."""
        port = serving.free_port()
        if self.draw.random() < KILLED_STARTING:
            command = [*serving.FARTHING, "serve", "--config", str(self.config), "--port", str(port)]
            process = Process(command, log=self.log, stdout=None)
            time.sleep(self.draw.uniform(0, STARTING_S))
            process.kill()
        else:
            asyncio.run(self._load(port, others))
        self.num_kills += 1

    async def _load(self, port: int, others: tuple[int, ...]) -> None:
        process = await asyncio.to_thread(serving.start, self.config, port, None, self.log)
        stop = asyncio.Event()
        seed = self.draw.getrandbits(32)
        asking = [
            asyncio.ensure_future(clients(NUM_CLIENTS, place, self._request, stop, self.seen, seed + place))
            for place in (port, *others)
        ]
        moment_s = self.draw.uniform(0, LONGEST_S)
        await asyncio.sleep(moment_s / 2)
        await asyncio.to_thread(self._read)
        await asyncio.sleep(moment_s / 2)
        process.child.kill()  # without waiting: the clients are to go on while it dies
        stop.set()
        await asyncio.gather(*asking)
        process.kill()

    def _read(self) -> None:
        """As `farthing bill` beside the server. Were the server's own locks lost, this would take the write-ahead log
        with it, and all that the server writes after it."""
        open_reader(serving.ledger_url(self.config.parent)).close()

    def _request(self, draw: random.Random) -> bytes:
        return mixed(self.keys, draw)

    def last(self) -> None:
        """A last start, which takes care of what the dead have left, and an end as it should be."""
        with serving.start(self.config, serving.free_port(), log=self.log) as process:
            assert process.stop() == 0


def must_agree(rows: list[Row], seen: Seen) -> None:
    """The clients' view and the books: every answer that was read has one settled row, and none has two."""
    settled = Counter(row.request_id for row in rows if row.status == "ok")
    assert not seen.read - settled, "answers that were read and are not in the ledger"
    assert max(settled.values(), default=0) <= 1, "answers with more than one settled row"
    assert max(seen.read.values(), default=0) <= 1, "two answers with one request id"
    assert len({row.id for row in rows}) == len(rows)
    attempts = Counter((row.request_id, row.attempt) for row in rows)
    assert max(attempts.values(), default=0) <= 1, "attempts with more than one row"
    assert len(rows) <= seen.num_sent, "rows of requests that nobody sent"
    unexpected = {status for status in seen.statuses if status not in (0, 200, 503)}
    assert not unexpected, f"answers with status {unexpected}"
