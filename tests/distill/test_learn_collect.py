"""What a ledger teaches: whose answers count, which label they name, and what is left out and counted."""

from pathlib import Path
from typing import Any

import pytest

from farthing.distill.learn_collect import Batch, collect
from farthing.distill.learn_config import LearnConfig
from farthing.distill.learn_labels import LabelFinder, seen_labels, with_answers
from farthing.distill.learn_rows import Answered, merged, read_rows, write_rows
from farthing.errors import InvalidRequest
from farthing.ledger.config import LedgerConfig
from farthing.ledger.entries import insert_row
from farthing.ledger.feedback import Feedback, insert_feedback
from farthing.ledger.opening import open_database, transaction
from farthing.ledger.reader import open_reader
from farthing.ledger.traffic import Traffic, insert_traffic
from tests.report.ledger_rows import row


class Ledger:
    def __init__(self, folder: Path) -> None:
        self.url, self._num = f"sqlite:///{folder / 'ledger.db'}", 0
        self._folder = folder
        self._database = open_database(LedgerConfig(url=self.url))

    def said(
        self, prompt: str, answer: str, *, small: bool = False, feedback: Feedback | None = None, **more: Any
    ) -> None:
        self._num += 1
        name, served = f"q{self._num}", "student" if small else "large"
        given = {"request_id": name, "asked_model": "intents", "key_id": None, "served_model": served}
        given |= {"upstream": "small" if small else "big", "started_us": self._num, "cost_pico": 1 if small else 90}
        with transaction(self._database):
            insert_row(self._database, row(self._num, **{**given, **more}))
            insert_traffic(self._database, Traffic(name, prompt, served, answer), self._num, 1000, self._num)
            if feedback is not None:
                insert_feedback(self._database, name, None, feedback)

    def collected(
        self,
        *,
        older: tuple[Answered, ...] = (),
        waiting: tuple[Answered, ...] = (),
        since_us: int = 0,
        priced_since_us: int = 0,
        **settings: Any,
    ) -> Batch:
        config = LearnConfig("intents", self._folder, "x", **{"min_label_rows": 1, **settings})
        with open_reader(self.url) as reader:
            return collect(reader, config, "small", (priced_since_us, since_us, 1000), older, waiting)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def pairs(batch: Batch) -> list[tuple[str, str, str]]:
    return [(one.prompt, one.answer, one.source) for one in batch.rows]


def test_escalated_answers_teach_and_kept_ones_do_not(ledger: Ledger) -> None:
    ledger.said("where is my card", "card")
    ledger.said("what do I have", "balance", small=True)
    ledger.said("another model's", "card", asked_model="other")
    ledger.said("from the cache", "card", cache="hit")
    ledger.said("broken", "card", status="error")
    batch = ledger.collected()
    assert pairs(batch) == [("where is my card", "card", "escalated")]
    assert batch.prompts == ("where is my card", "what do I have")
    assert (batch.spent.num_requests, batch.spent.request_pico, batch.spent.large_pico) == (3, 60, 90)


def test_feedback_lets_in_and_leaves_out(ledger: Ledger) -> None:
    ledger.said("one", "card", feedback=Feedback(score=0.0))
    ledger.said("two", "card", small=True, feedback=Feedback(score=1.0))
    ledger.said("three", "card", small=True, feedback=Feedback(score=0.4))
    ledger.said("four", "card", feedback=Feedback(preferred="student"))
    ledger.said("five", "card", feedback=Feedback(preferred="large"))
    batch = ledger.collected()
    assert pairs(batch) == [("two", "card", "confirmed"), ("five", "card", "escalated")]
    assert any("3 rows left out: they were said to be wrong" in line for line in batch.told)


def test_personal_data_doubles_and_contradictions(ledger: Ledger) -> None:
    ledger.said("write to me@example.com please", "card")
    ledger.said("Where is it?", "card")
    ledger.said("where is it", "card")
    ledger.said("where is IT", "balance")
    ledger.said("so or so", "card")
    ledger.said("so or so!", "balance")
    batch = ledger.collected()
    assert pairs(batch) == [("Where is it?", "card", "escalated")]
    told = " ".join(batch.told)
    for words in ("1 rows left out: they hold personal data", "2 rows left out: they contradict", "they are doubles"):
        assert words in told
    assert "me@example.com please" not in " ".join(batch.prompts)


def test_older_rows_and_time(ledger: Ledger) -> None:
    for name in ("a", "b", "c"):
        ledger.said(name, "card")
    assert pairs(ledger.collected(since_us=2)) == [("b", "card", "escalated"), ("c", "card", "escalated")]
    assert [one.prompt for one in ledger.collected(older=(Answered("B!", "x", "given"),)).rows] == ["a", "c"]


def test_what_waits_keeps_its_label_where_no_new_answer_names_it(ledger: Ledger) -> None:
    waiting = (Answered("a", "refund", "escalated", "q0", 1), Answered("b", "Card", "escalated", "q0", 1))
    for name in ("c", "d", "e"):
        ledger.said(name, "card")
    batch = ledger.collected(waiting=waiting, since_us=2, min_label_rows=3)
    assert batch.labels == ("refund", "Card")
    assert pairs(batch)[-2:] == [("a", "refund", "escalated"), ("b", "Card", "escalated")]
    assert (len(batch.rows), batch.num_new) == (4, 2)


def test_what_waits_is_left_out_where_its_label_does_not_count_any_more(ledger: Ledger) -> None:
    waiting = (Answered("a", "refund", "escalated", "q0", 1), Answered("b", "Card", "escalated", "q0", 1))
    batch = ledger.collected(waiting=waiting, labels=("card", "balance"))
    assert pairs(batch) == [("b", "card", "escalated")]
    assert any("1 rows left out: they name none of the labels" in line for line in batch.told)


def test_requests_are_priced_from_an_earlier_time_on(ledger: Ledger) -> None:
    for name in ("a", "b", "c", "write to me@example.com"):
        ledger.said(name, "card")
    batch = ledger.collected(priced_since_us=2, since_us=3)
    assert batch.prompts == ("b", "c")
    assert pairs(batch) == [("c", "card", "escalated")]
    assert (batch.since_us, batch.priced_since_us, batch.spent.num_requests) == (3, 2, 2)


def test_answers_name_labels(ledger: Ledger) -> None:
    for at, answer in enumerate(
        ('{"intent": "card_lost"}', "Card lost.", "I'd say card lost", "card lost or balance", "?")
    ):
        ledger.said(f"text {at}", answer)
    batch = ledger.collected(labels=("card_lost", "balance"))
    assert [one.answer for one in batch.rows] == ["card_lost"] * 3
    assert any("2 rows left out: they name none of the labels" in line for line in batch.told)


def test_labels_are_what_was_seen_often_enough() -> None:
    answers = ["Card lost", "card_lost", "card lost", "balance", "a sentence\nof two lines"] + ["top up"] * 2
    assert seen_labels(answers, ("refund",), 2) == ("refund", "Card lost", "top up")
    assert seen_labels(answers, ("card lost",), 2) == ("card lost", "top up")
    assert LabelFinder(("a", "b")).find("c") is None
    assert with_answers(("card lost",), ["Card_Lost", "it is: card lost", "Top Up", "top up", "?", "x" * 99]) == (
        "card lost",
        "Top Up",
    )


def test_no_stored_prompt_says_how_to_store(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="stored_prompts = true"):
        ledger.collected()


def test_rows_in_a_file(tmp_path: Path) -> None:
    rows = [Answered("a\nb “c”", "x", "given"), Answered("d", "y", "escalated", "q1", 5)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert merged(rows, [Answered("D!", "z", "given")]) == rows


BAD = ({"bound": 0}, {"delta": 1}, {"held_out": 0.01}, {"labels": ("a",)}, {"labels": ("a", "a")}, {"minutes": 0})
NOT_TOLD_APART = ({"labels": ("+", "-")}, {"labels": ("yes", "?")}, {"labels": ("Card lost", "card_lost")})


@pytest.mark.parametrize("change", [*BAD, *NOT_TOLD_APART, {"model": ""}])
def test_settings_outside_their_range(tmp_path: Path, change: dict[str, Any]) -> None:
    name = next(iter(change))
    with pytest.raises(InvalidRequest, match=f"learn {name} is"):
        LearnConfig(**{"model": "m", "slot": tmp_path, "start": "s", **change})  # type: ignore[arg-type]
