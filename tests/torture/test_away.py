"""PostgreSQL is stopped and started under load: refused or spooled, nothing is lost and nothing is there twice."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import serving
from benchmarks.load.processes import mock
from tests.ledger.postgres_server import PostgresServer, find_binaries
from tests.torture.books import must_balance
from tests.torture.clients import MODES, Seen, clients, mixed
from tests.torture.killing import must_agree

pytestmark = pytest.mark.torture
NUM_CLIENTS, NUM_STOPS = 12, 5
UP_S, AWAY_S = 3.0, 3.0


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed here")
    server = PostgresServer(binaries)
    yield server
    server.close()


@pytest.mark.parametrize("when_away", ["refuse", "spool"])
def test_postgresql_goes_and_comes_back(tmp_path: Path, postgres: PostgresServer, when_away: str) -> None:
    ledger = f'url = "{postgres.url}"\nwhen_away = "{when_away}"\nspool_folder = "{tmp_path / "spool"}"'
    seen, seen_away = Seen(), Seen()
    provider, mock_port = mock()
    with provider:
        config = serving.config(tmp_path, mock_port, MODES, ledger=ledger)
        keys = [serving.create_key(config, "free")]

        async def load(port: int) -> None:
            for number in range(NUM_STOPS):
                await asked_for(UP_S, port, keys, seen, number)
                stopping = asyncio.ensure_future(asyncio.to_thread(postgres.stop))
                await asked_for(AWAY_S, port, keys, seen_away, number)
                await stopping
                await asyncio.to_thread(postgres.start)
            await asked_for(UP_S, port, keys, seen, NUM_STOPS)

        port = serving.free_port()
        with serving.start(config, port, log=tmp_path / "log") as process:
            asyncio.run(load(port))
            assert process.stop() == 0
    seen.read.update(seen_away.read)
    seen.statuses.update(seen_away.statuses)
    seen.num_sent += seen_away.num_sent
    rows = serving.rows(postgres.url)
    must_agree(rows, seen)
    must_balance(postgres.url, rows)
    refused = seen_away.statuses[503]
    assert (refused > 0) == (when_away == "refuse"), f"{refused} refused while the database was away"


async def asked_for(seconds: float, port: int, keys: list[str], seen: Seen, seed: int) -> None:
    stop = asyncio.Event()
    asking = asyncio.ensure_future(clients(NUM_CLIENTS, port, lambda draw: mixed(keys, draw), stop, seen, seed))
    await asyncio.sleep(seconds)
    stop.set()
    await asking
