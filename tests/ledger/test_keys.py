"""Keys: only a hash is stored, a secret is shown nowhere, and a revoked key is refused by servers that run."""

import asyncio
import contextlib
import time
from typing import Any

import pytest

from farthing.ledger import InvalidKey, Key, LedgerConfig
from farthing.ledger.directory import revoke_key, touch
from farthing.ledger.ids import now_us
from farthing.ledger.key import PREFIX, hash_secret, insert_key, list_keys
from farthing.ledger.opening import open_database, transaction
from tests.ledger.open_books import books_of, query


def make(config: LedgerConfig, **given: Any) -> tuple[Key, str]:
    database = open_database(config)
    with transaction(database):
        made = insert_key(database, **{"name": "n", "project": None, "models": (), "expires_us": None} | given)
        touch(database)
    database.close()
    return made


def test_a_key_is_known_by_its_secret(config: LedgerConfig) -> None:
    key, secret = make(config, name="Zoë", project="p", models=("a", "b"))

    async def tour() -> None:
        async with books_of(config) as books:
            assert await books.authenticate(secret) == key
            assert await books.authenticate(secret) == key  # from memory
            for wrong in (secret[:-1], secret + "x", "", PREFIX, "ü\ud800", hash_secret(secret)):
                with pytest.raises(InvalidKey, match="not known") as caught:
                    await books.authenticate(wrong)
                assert not wrong or wrong == PREFIX or wrong not in str(caught.value)

    asyncio.run(tour())
    assert (key.name, key.project, key.models) == ("Zoë", "p", ("a", "b"))


def test_the_secret_is_nowhere(config: LedgerConfig) -> None:
    key, secret = make(config)
    assert secret.startswith(PREFIX)
    assert len(secret) == len(PREFIX) + 43
    assert secret not in repr(key)
    stored = query(config, "SELECT * FROM keys")
    assert secret not in str(stored)
    assert hash_secret(secret) in str(stored)
    assert make(config)[1] != secret


def test_a_key_expires(config: LedgerConfig) -> None:
    _, past = make(config, expires_us=now_us() - 1)
    _, soon = make(config, expires_us=now_us() + 300_000)

    async def tour() -> None:
        async with books_of(config) as books:
            with pytest.raises(InvalidKey, match="has expired"):
                await books.authenticate(past)
            await books.authenticate(soon)
            await asyncio.sleep(0.35)
            with pytest.raises(InvalidKey, match="has expired"):
                await books.authenticate(soon)

    asyncio.run(tour())


def test_a_running_server_notices_a_revocation(config: LedgerConfig) -> None:
    key, secret = make(config)
    other, other_secret = make(config)

    async def tour() -> None:
        async with books_of(config) as books:
            await books.authenticate(secret)
            database = open_database(config)
            with transaction(database):
                revoke_key(database, key.id)
            assert [found.is_revoked for found in list_keys(database)] == [True, False]
            database.close()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(InvalidKey):
                    await books.authenticate(secret)
                    await asyncio.sleep(0.05)
                    continue
                break
            with pytest.raises(InvalidKey, match="was revoked"):
                await books.authenticate(secret)
            assert (await books.authenticate(other_secret)).id == other.id

    asyncio.run(tour())
