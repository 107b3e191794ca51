"""A fresh server with a tiny budget in dollars, and many clients at once, over the real engine."""

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from farthing.economics.usage import Usage
from farthing.engine.counters import Counters
from farthing.ledger import LedgerConfig
from farthing.server.config import UpstreamEntry
from tests.ledger.open_books import budget_of, problems_of, used_of
from tests.server.serving import GOLDEN, serving

NUM_CLIENTS = 16
LOCAL = {"models": [str(GOLDEN / "llama")], "threads": 1, "max_num_batched_tokens": 48, "preload": True}


@pytest.mark.parametrize("is_stream", [False, True])
def test_it_is_overspent_by_one_step_at_most(tmp_path, monkeypatch, is_stream):
    # Calls begin with so little that each one's first step takes more, and many steps make up the budget.
    monkeypatch.setattr("farthing.ledger.holding.TRANCHE_S", 1e-5)
    steps_ns = []
    share_time = Counters.share_time

    def noted(self, scheduled, elapsed_ns, num_tokens):
        steps_ns.append(elapsed_ns)
        share_time(self, scheduled, elapsed_ns, num_tokens)

    monkeypatch.setattr(Counters, "share_time", noted)
    config = LedgerConfig(url=f"sqlite:///{tmp_path / 'ledger.db'}")
    budget = budget_of(config, "0.00000005usd/day")  # some 2 ms of the machine
    with serving(tmp_path, UpstreamEntry("local", "local", LOCAL)) as running:

        def ask(number):
            messages = [{"role": "user", "content": f"{number} " + "ab " * 30}]
            body = {"model": "llama", "messages": messages, "max_tokens": 20, "stream": is_stream}
            return httpx2.post(running.url + "/v1/chat/completions", json=body, timeout=60)

        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            answers = list(pool.map(ask, range(NUM_CLIENTS)))
        dearest = running.service.books.pricer.local(Usage(input_s=max(steps_ns) * 1e-9)).total_pico
        assert dearest
        ((used, reserved),) = used_of(config)
        assert reserved == 0
        assert 0 < used <= budget.amount + dearest + NUM_CLIENTS  # a call's cost is rounded once
        assert {answer.status_code for answer in answers} <= {200, 429}
        cut = [answer.text for answer in answers if answer.status_code == 200]
        assert all('"length"' in text or "budget_exceeded" in text for text in cut)
        rows = running.rows()
        assert sum(row.cost_pico or 0 for row in rows) == used
    assert problems_of(config) == []
