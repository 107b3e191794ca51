"""What a batch is believed: honest ones are, hard ones are, poison is not; each kind is measured by its like."""

import random
from collections.abc import Callable

import pytest

from farthing.distill.learn_doubt import Doubt, doubted
from farthing.distill.learn_rows import Answered, Source
from tests.distill.learn_world import INTENTS, texts_of

OLD = [Answered(text, intent, "escalated") for text, intent in texts_of(1500, seed=1)]
HELD_OUT = [Answered(text, intent, "escalated") for text, intent in texts_of(600, seed=2)]
NEXT = {intent: INTENTS[(at + 1) % len(INTENTS)] for at, intent in enumerate(INTENTS)}


def batch(num: int, lie: Callable[[str], str], source: Source = "escalated", at_us: int = 10, seed: int = 3):
    return [Answered(text, lie(intent), source, at_us=at_us) for text, intent in texts_of(num, seed)]


def doubt(rows: list[Answered], is_up: list[bool] | None = None) -> Doubt:
    return doubted(OLD, HELD_OUT, is_up or [True] * len(HELD_OUT), rows, 5, 0.1)


def some(share: float) -> Callable[[str], str]:
    rng = random.Random(0)
    return lambda intent: NEXT[intent] if rng.random() < share else intent


def test_an_honest_batch_is_believed():
    found = doubt(batch(600, lambda intent: intent))
    assert found.reason == found.note == ""
    assert found.num_sure > 100
    assert len(found.disputed) < 0.1 * found.num_sure


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_poisoned_one_is_refused(share):
    found = doubt(batch(600, some(share)))
    assert "contradict them" in found.reason
    assert len(found.disputed) > 0.15 * found.num_sure


def test_one_label_that_was_turned_is_found():
    found = doubt(batch(400, lambda intent: NEXT[intent] if intent == INTENTS[2] else intent))
    assert repr(INTENTS[2]) in found.reason or "contradict them" in found.reason


def test_what_waited_hides_nothing():
    """A few wrong rows now among many right ones from before."""
    found = doubt(batch(600, lambda intent: intent, at_us=1) + batch(40, NEXT.__getitem__, seed=4))
    assert "contradict them" in found.reason


def test_praise_that_contradicts_is_left_out_alone():
    honest, praised = batch(400, lambda intent: intent), batch(100, NEXT.__getitem__, "confirmed", seed=4)
    found = doubt(honest + praised, [number % 2 == 0 for number in range(len(HELD_OUT))])
    assert found.reason == ""
    assert "feedback contradicts" in found.note
    assert set(range(400, 500)) <= set(found.disputed)


def test_nothing_older_is_said():
    found = doubted([], [], [], batch(100, lambda intent: intent), 0, 0.1)
    assert "nothing older" in found.note
    assert found.reason == ""


def test_harm_is_found_where_no_row_is_sure():
    """No older row would go up, so none can be compared; what the poison does to older rows is seen all the same."""
    found = doubt(batch(600, NEXT.__getitem__), [False] * len(HELD_OUT))
    assert found.num_sure == 0
    assert "learns the new rows too loses" in found.reason
    assert doubt(batch(600, lambda intent: intent), [False] * len(HELD_OUT)).reason == ""
