"""Feedback belongs to the key that asked, is appended and never changed; stored prompts are bounded and deletable."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from farthing.ledger import Key, LedgerConfig, open_reader
from farthing.ledger.feedback import MAX_PER_REQUEST, Feedback
from farthing.ledger.opening import open_database, transaction
from farthing.ledger.traffic import PRUNE_EVERY, Traffic, delete_traffic
from farthing.upstreams.errors import UpstreamError
from tests.ledger.open_books import books_of, query
from tests.report.ledger_rows import row

ALICE, BOB = Key("key-a", "alice"), Key("key-b", "bob")


def asked(number: int, **given: Any) -> Any:
    return replace(row(number), request_id=f"r{number}", **given)


async def refused(books: Any, request_id: str, key: Key | None) -> int:
    with pytest.raises(UpstreamError) as caught:
        await books.feedback(request_id, key, Feedback(score=1.0))
    return caught.value.status


def test_only_the_key_that_asked_is_heard(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            await books.append(asked(1, key_id="key-a", served_model="small"))
            await books.append(asked(2, key_id=None, served_model="large"))
            assert await books.feedback("r1", ALICE, Feedback(score=0.25)) == "small"
            assert await books.feedback("r2", None, Feedback(preferred="small")) == "large"
            for request_id, key in (("r1", BOB), ("r1", None), ("r2", ALICE), ("r9", ALICE)):
                assert await refused(books, request_id, key) == 404

    asyncio.run(tour())
    with open_reader(config.url) as reader:
        found = {one.request_id: one for one in reader.feedback()}
    assert (found["r1"].score, found["r1"].preferred, found["r1"].key_id) == (0.25, None, "key-a")
    assert (found["r2"].score, found["r2"].preferred, found["r2"].served_model) == (None, "small", "large")


def test_it_is_about_the_attempt_whose_answer_was_given_and_the_last_word_counts(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            await books.append(asked(1, attempt=0, served_model="small", key_id=None))
            sample: Any = "discarded"  # of a cascade, after the answer that is given
            await books.append(replace(asked(3, attempt=2, status=sample, key_id=None), request_id="r1"))
            await books.append(replace(asked(2, attempt=1, served_model="large", key_id=None), request_id="r1"))
            for score in (0.0, 1.0, 0.5):
                assert await books.feedback("r1", None, Feedback(score=score)) == "large"

    asyncio.run(tour())
    with open_reader(config.url) as reader:
        [found] = reader.feedback()
        assert found.score == 0.5
        assert reader.request_attempts(["r1", "r7"])["r1"].attempt == 1


def test_one_request_takes_no_more_than_enough(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            await books.append(asked(1, key_id=None))
            for _ in range(MAX_PER_REQUEST):
                await books.feedback("r1", None, Feedback(score=1.0))
            assert await refused(books, "r1", None) == 409

    asyncio.run(tour())
    assert query(config, "SELECT COUNT(*) FROM feedback") == [(MAX_PER_REQUEST,)]


def test_the_database_itself_refuses_to_change_feedback(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            await books.append(asked(1, key_id=None))
            await books.feedback("r1", None, Feedback(score=1.0))

    asyncio.run(tour())
    for sql in ("UPDATE feedback SET score = 0", "DELETE FROM feedback"):
        with pytest.raises(Exception, match="append-only"):
            query(config, sql)


def test_stored_prompts_are_the_newest_and_can_be_deleted(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            for number in range(2 * PRUNE_EVERY + 1):  # the last one prunes
                books.keep_traffic(Traffic(f"r{number:04}", "wh\0y \ud800", "small", "so"), 10)

    asyncio.run(tour())
    with open_reader(config.url) as reader:
        found = reader.traffic()
    assert [one.request_id for one in found] == [
        f"r{number:04}" for number in range(2 * PRUNE_EVERY - 9, 2 * PRUNE_EVERY + 1)
    ]
    assert found[0].prompt == "wh\ufffdy ?"
    database = open_database(config)
    with transaction(database):
        assert delete_traffic(database) == 10
    database.close()
    assert query(config, "SELECT COUNT(*) FROM traffic") == [(0,)]


def test_scores_of_routed_answers_are_those_of_the_answer_given(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            draft: Any = "discarded"
            shared = {"asked_model": "auto", "key_id": None, "route": "cascade"}
            await books.append(asked(1, served_model="small", status=draft, **shared))
            await books.append(replace(asked(2, attempt=1, served_model="large", **shared), request_id="r1"))
            await books.append(asked(3, served_model="small", **shared))
            await books.append(asked(4, served_model="small", key_id=None, route=None))
            for request_id, score in (("r1", 0.1), ("r1", 0.7), ("r3", 0.9), ("r4", 0.2)):
                await books.feedback(request_id, None, Feedback(score=score))
            await books.feedback("r3", None, Feedback(preferred="large"))

    asyncio.run(tour())
    with open_reader(config.url) as reader:
        found = {(one.asked_model, one.served_model): one.score for one in reader.routed_scores(0, 2**62)}
        assert found == {("auto", "large"): 0.7, ("auto", "small"): 0.9}
        assert reader.routed_scores(2**61, 2**62) == []
