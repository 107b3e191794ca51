"""The loop with linear students: it gets cheaper at held quality, poison is not promoted, a kill loses nothing."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from farthing.distill.learn_rows import read_rows
from farthing.errors import InvalidRequest
from farthing.report.learn_history import Event
from tests.distill.learn_world import INTENTS, LARGE_PICO, Killed, LinearTools, World

NUM = 1500
Lie = Callable[[str, str], str]


def flipped(share: float) -> Lie:
    rng = random.Random(1)
    return lambda _, intent: rng.choice(INTENTS) if rng.random() < share else intent


def turned(_: str, intent: str) -> str:
    """All of one intent answered as another."""
    return INTENTS[1] if intent == INTENTS[0] else intent


def event_of(world: World) -> Event:
    event = world.learn().event
    assert event is not None
    return event


def test_it_gets_cheaper_round_by_round_at_held_quality(tmp_path: Path) -> None:
    world = World(tmp_path)
    costs, rights, events = [], [], []
    for number in range(3):
        cost, right = world.serve(NUM, seed=number)
        costs.append(cost)
        rights.append(right)
        events.append(event_of(world))
    cost, right = world.serve(NUM, seed=99)
    assert costs[0] == LARGE_PICO
    assert costs == sorted(costs, reverse=True)
    assert cost < LARGE_PICO / 3
    assert min(*rights, right) > 1 - world.config.bound
    assert events[0].kind == "promoted"
    assert events[0].before is not None
    assert events[0].before.cost_pico == LARGE_PICO
    for event in events:
        if event.kind == "promoted":
            assert event.after is not None
            assert event.before is not None
            assert event.after.cost_pico < event.before.cost_pico
            assert (event.low or 0) >= -world.config.bound
    assert [event.run for event in world.slot.history()] == [1, 2, 3]
    assert not list((world.config.slot / "runs").iterdir())


@pytest.mark.parametrize("lie", [flipped(0.3), flipped(1.0), turned])
def test_poison_is_not_promoted_and_teaches_nothing(tmp_path: Path, lie: Lie) -> None:
    world = World(tmp_path)
    world.serve(NUM, seed=100)
    assert event_of(world).kind == "promoted"
    before = read_rows(world.config.slot / "rows.jsonl")
    world.serve(NUM, seed=101, lie=lie)
    event = event_of(world)
    assert event.kind == "refused"
    assert event.version == world.slot.current == "0001"
    assert event.reasons
    assert read_rows(world.config.slot / "rows.jsonl") == before
    assert read_rows(world.config.slot / "waiting.jsonl") == []
    assert len(read_rows(world.config.slot / "refused" / "0002.jsonl")) > 1000
    world.serve(NUM, seed=102)
    good = event_of(world)
    assert good.kind == "promoted", "the next honest batch is judged by itself"
    assert good.replaced == "0001"
