"""What a ledger has to teach since the last run: escalated traffic, and answers that who asked said were right.

Left out and counted: what was said to be wrong, what names no label, personal data, doubles, and texts whose doubles
contradict each other.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from farthing.distill.learn_config import LearnConfig
from farthing.distill.learn_labels import LabelFinder, seen_labels, with_answers
from farthing.distill.learn_rows import Answered, Source, merged
from farthing.distill.pii import personal_data
from farthing.distill.split import text_key
from farthing.errors import InvalidRequest
from farthing.ledger.feedback import FeedbackRow
from farthing.ledger.reader import Reader
from farthing.ledger.row import Row
from farthing.ledger.traffic import Traffic
from farthing.report.route_ledger import HOW_TO_STORE

__all__ = ["Batch", "Spent", "collect", "spent"]

GOOD = 0.5  # a score of at least that says that an answer was right


@dataclass(frozen=True)
class Spent:
    """What the requests of a time cost, as the ledger has it. None: none of that kind has a price."""

    num_requests: int
    request_pico: int | None  # mean of a request, drafts that were not given included
    large_pico: int | None  # mean of an answer of the large model
    share_up: float  # of requests, answered by the large model


@dataclass(frozen=True)
class Batch:
    """rows: new ones that can teach, and those that waited. prompts: of every request since `priced_since_us`, whoever
    answered it: what a version would cost. held_out: the share of rows that this run never teaches."""

    since_us: int
    until_us: int
    labels: tuple[str, ...]
    rows: tuple[Answered, ...]
    prompts: tuple[str, ...]
    spent: Spent
    told: tuple[str, ...]  # what was left out, for people
    priced_since_us: int
    held_out: float

    @property
    def num_new(self) -> int:
        """Rows that no run has seen."""
        return sum(row.at_us >= self.since_us for row in self.rows)


def collect(
    reader: Reader,
    config: LearnConfig,
    small: str,
    times_us: tuple[int, int, int],
    older: Sequence[Answered],
    waiting: Sequence[Answered] = (),
    known_labels: Sequence[str] = (),
) -> Batch:
    """small: the upstream that serves the slot. times_us: from when on requests are priced, rows teach, and until when.
    older: rows that taught before; waiting: rows of runs that came to nothing. Raises InvalidRequest where no prompt of
    that model was ever stored."""
    priced_since_us, since_us, until_us = times_us
    asked = list(_asked(reader, config.model, (since_us, until_us)))
    if not asked and not waiting and not older:
        raise InvalidRequest(f"the ledger has no stored prompt of model {config.model!r}; {HOW_TO_STORE}")
    dropped: Counter[str] = Counter()
    clean = [(said, row) for said, row in asked if not personal_data(said.prompt)]
    dropped["hold personal data"] = len(asked) - len(clean)
    found = list(_answers(clean, {one.request_id: one for one in reader.feedback()}, small, dropped))
    known = with_answers(known_labels, (row.answer for row in waiting))
    labels = config.labels or seen_labels((row.answer for row in found), known, config.min_label_rows)
    rows = merged(_agreed(_labelled(found, labels, dropped), dropped), list(_labelled(waiting, labels, dropped)))
    taught = {text_key(row.prompt) for row in older}
    teaching = tuple(row for row in rows if text_key(row.prompt) not in taught)
    dropped["taught before"] = len(rows) - len(teaching)
    told = tuple(f"{count:,} rows left out: they {why}" for why, count in dropped.items() if count)
    earlier = [said.prompt for said, _ in _asked(reader, config.model, (priced_since_us, since_us))]
    prompts = (*(text for text in earlier if not personal_data(text)), *(said.prompt for said, _ in clean))
    paid = spent(reader, config.model, small, (since_us, until_us))
    return Batch(
        since_us, until_us, tuple(labels), teaching, prompts, paid, told, priced_since_us, held_out=config.held_out
    )


def spent(reader: Reader, model: str, small: str, times_us: tuple[int, int]) -> Spent:
    """In one pass over the rows of that time."""
    costs: list[int] = []
    large: list[int] = []
    num_requests = num_up = num_given = 0
    for row in reader.rows(*times_us):
        if row.asked_model != model or row.cache is not None:
            continue
        num_requests += row.attempt == 0
        if row.cost_pico is not None:
            costs.append(row.cost_pico)
        if row.status == "ok":
            num_given += 1
            num_up += row.upstream != small
            if row.upstream != small and row.cost_pico is not None:
                large.append(row.cost_pico)
    return Spent(
        num_requests,
        round(sum(costs) / num_requests) if costs and num_requests else None,
        round(sum(large) / len(large)) if large else None,
        num_up / num_given if num_given else 0.0,
    )


def _asked(reader: Reader, model: str, times_us: tuple[int, int]) -> Iterator[tuple[Traffic, Row]]:
    """Stored prompts of one model that were answered, and not from the response cache."""
    traffic = reader.traffic(*times_us)
    attempts = reader.request_attempts([said.request_id for said in traffic])
    for said in traffic:
        row = attempts.get(said.request_id)
        if row is not None and row.asked_model == model and row.status == "ok" and row.cache is None:
            yield said, row


def _answers(
    asked: Sequence[tuple[Traffic, Row]], feedback: Mapping[str, FeedbackRow], small: str, dropped: Counter[str]
) -> Iterator[Answered]:
    for said, row in asked:
        verdict = _verdict(feedback.get(said.request_id), row.served_model)
        is_up = row.upstream != small
        if verdict is False:
            dropped["were said to be wrong"] += 1
        elif is_up or verdict:
            source: Source = "escalated" if is_up else "confirmed"
            yield Answered(said.prompt, said.answer, source, said.request_id, row.started_us)


def _verdict(feedback: FeedbackRow | None, served: str) -> bool | None:
    """Whether who asked said that the answer was right; None: nothing was said."""
    if feedback is None:
        return None
    if feedback.score is not None:
        return feedback.score >= GOOD
    return feedback.preferred == served


def _labelled(rows: Sequence[Answered], labels: Sequence[str], dropped: Counter[str]) -> Iterator[Answered]:
    finder = LabelFinder(labels)
    for row in rows:
        label = finder.find(row.answer)
        if label is None:
            dropped["name none of the labels, or several"] += 1
        else:
            yield Answered(row.prompt, label, row.source, row.request_id, row.at_us)


def _agreed(rows: Iterator[Answered], dropped: Counter[str]) -> list[Answered]:
    """One row a text, with the answer that most of its doubles have."""
    by_text: dict[str, list[Answered]] = {}
    for row in rows:
        by_text.setdefault(text_key(row.prompt), []).append(row)
    found = []
    for same in by_text.values():
        (answer, most), *others = Counter(row.answer for row in same).most_common(2)
        if others and others[0][1] == most:
            dropped["contradict each other"] += len(same)
            continue
        dropped["are doubles"] += len(same) - 1
        found.append(next(row for row in same if row.answer == answer))
    return found
