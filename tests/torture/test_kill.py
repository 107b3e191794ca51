"""The server is killed (SIGKILL) under load, at any moment: nothing is lost, nothing is there twice."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import serving
from benchmarks.load.processes import mock
from tests.torture.books import must_balance
from tests.torture.clients import MODES
from tests.torture.killing import Killing, must_agree

NUM_KILLS = 100
NUM_KILLS_OF_TWO = 40


@pytest.fixture
def killing(tmp_path: Path) -> Iterator[Killing]:
    """A mock provider, a ledger, and three keys: without a budget, with one in dollars, with one in tokens."""
    process, port = mock()
    with process:
        config = serving.config(tmp_path, port, MODES)
        keys = [
            serving.create_key(config, "free"),
            serving.create_key(config, "dollars", "--budget", "1000000usd/month"),
            serving.create_key(config, "tokens", "--budget", "1000000000tokens/day"),
        ]
        yield Killing(config, keys, tmp_path / "server.log", random.Random(1))


def must_hold(killing: Killing, folder: Path, num_kills: int) -> None:
    killing.last()
    assert killing.num_kills == num_kills
    assert killing.seen.read.total() > num_kills, "the load was no load"
    rows = serving.rows(serving.ledger_url(folder))
    must_agree(rows, killing.seen)
    must_balance(serving.ledger_url(folder), rows)


def test_a_killed_server_has_lost_nothing(killing: Killing, tmp_path: Path) -> None:
    for _ in range(2):
        killing.round()
    must_hold(killing, tmp_path, 2)


@pytest.mark.torture
def test_a_hundred_killed_servers_have_lost_nothing(killing: Killing, tmp_path: Path) -> None:
    for _ in range(NUM_KILLS):
        killing.round()
    must_hold(killing, tmp_path, NUM_KILLS)
    assert killing.seen.cut.total() > 0, "no kill came in the middle of an answer"


@pytest.mark.torture
def test_of_two_servers_on_one_ledger_one_is_killed(killing: Killing, tmp_path: Path) -> None:
    port = serving.free_port()
    with serving.start(killing.config, port, log=killing.log) as other:
        for _ in range(NUM_KILLS_OF_TWO):
            killing.round((port,))
        assert other.stop() == 0
    must_hold(killing, tmp_path, NUM_KILLS_OF_TWO)
