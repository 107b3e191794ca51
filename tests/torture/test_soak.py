"""Minutes of load: memory stays as it is after the warm-up, no row is missing, nothing is left open at the end.

FARTHING_SOAK_S is how long each of them lasts, 600 where it is not set.
"""

import asyncio
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.load import serving
from benchmarks.load.client import Client
from benchmarks.load.http1 import request_bytes
from benchmarks.load.processes import mock
from farthing.models.hub import models_folder
from tests.torture.books import must_balance
from tests.torture.clients import MODES, Patience, Seen, chat, clients, mixed
from tests.torture.killing import must_agree
from tests.torture.memory import growth_bytes, is_flat, watched

pytestmark = pytest.mark.torture
SOAK_S = float(os.environ.get("FARTHING_SOAK_S", "600"))
NUM_CLIENTS = 8
EVERY_S = min(1.0, SOAK_S / 60)
GONE_S = 15.0
MODEL = "smollm2-135m-instruct"
KV_BYTES = 16 << 20  # few, so that all pages have been touched when the warm-up is over


def impatient(draw: random.Random) -> float | None:
    """One client in five goes away, at any moment of its answer."""
    return draw.uniform(0.001, 0.7) if draw.random() < 0.2 else None


async def soak(
    pid: int, port: int, make: Callable[[random.Random], bytes], patience: Patience
) -> tuple[list[int], Seen]:
    """RSS while clients ask; they end with the time."""
    stop, seen = asyncio.Event(), Seen()
    asking = asyncio.ensure_future(clients(NUM_CLIENTS, port, make, stop, seen, seed=1, patience=patience))
    samples = await watched(pid, SOAK_S, EVERY_S)
    stop.set()
    await asking
    return samples, seen


def must_be_flat(samples: list[int], seen: Seen) -> None:
    growth = growth_bytes(samples)
    print(f"{seen.num_sent:,} requests, RSS {samples[-1] / 1e6:.1f} MB, growth {growth / 1e6:+.2f} MB")
    assert is_flat(samples, seen.num_sent), f"RSS grew by {growth / 1e6:.1f} MB over {seen.num_sent} requests"


def must_be_booked(folder: Path, seen: Seen) -> None:
    url = serving.ledger_url(folder)
    rows = serving.rows(url)
    must_agree(rows, seen)
    must_balance(url, rows)


async def open_at(mock_port: int) -> int:
    """Streams that the mock still has open, once there are none or the time is over."""
    client = Client(mock_port)
    for _ in range(int(GONE_S / 0.1)):
        found = json.loads((await client.ask(request_bytes("GET", "/stats", {}))).body)
        if not found["streams"]:
            break
        await asyncio.sleep(0.1)
    client.close()
    return int(found["streams"])


@pytest.mark.parametrize("patience", [lambda _: None, impatient], ids=["patient", "impatient"])
def test_behind_a_hosted_upstream(tmp_path: Path, patience: Patience) -> None:
    provider, mock_port = mock()
    with provider:
        config = serving.config(tmp_path, mock_port, MODES)
        keys = [serving.create_key(config, "free"), serving.create_key(config, "paid", "--budget", "1000000usd/month")]
        port = serving.free_port()
        with serving.start(config, port, log=tmp_path / "log") as process:
            samples, seen = asyncio.run(soak(process.pid, port, lambda draw: mixed(keys, draw), patience))
            assert asyncio.run(open_at(mock_port)) == 0
            assert process.stop() == 0
    must_be_booked(tmp_path, seen)
    must_be_flat(samples, seen)


def test_with_a_local_engine_whose_clients_go_away(tmp_path: Path) -> None:
    if not any(models_folder().glob("*/SmolLM2-135M-Instruct*.gguf")):
        pytest.skip("the embedded model is not in the cache folder; farthing pull smollm2-135m-instruct")
    config = serving.local_config(tmp_path, MODEL, f"kv_bytes = {KV_BYTES}")

    def make(draw: random.Random) -> bytes:
        text = " ".join(str(draw.randrange(10_000)) for _ in range(draw.randrange(1, 60)))
        is_stream, tokens = draw.random() < 0.5, draw.randrange(1, 64)
        return chat(MODEL, None, is_stream=is_stream, text=text, max_tokens=tokens)

    port = serving.free_port()
    with serving.start(config, port, log=tmp_path / "log") as process:
        samples, seen = asyncio.run(soak(process.pid, port, make, impatient))
        assert process.stop() == 0
    assert seen.cut.total() > 0, "nobody went away in the middle of an answer"
    must_be_booked(tmp_path, seen)
    must_be_flat(samples, seen)
