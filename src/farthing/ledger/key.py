"""Who may ask: a client's key. The secret is shown once; only its SHA-256 is stored.

Plain SHA-256 is enough: a secret is 32 random bytes, so there is no dictionary to try against a stolen ledger, and a
slow password hash would only cost every request its time.
"""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farthing.ledger.database import Database
from farthing.ledger.errors import InvalidKey
from farthing.ledger.ids import new_id, now_us

__all__ = ["PREFIX", "Key", "check_key", "find_key", "hash_secret", "insert_key", "list_keys", "new_secret"]

PREFIX = "fk-"
_COLUMNS = "id, name, project, models, created_us, expires_us, revoked_us"


@dataclass(frozen=True, slots=True)
class Key:
    """Without its secret, so that it may be logged. models: the names it may ask for; empty is all."""

    id: str
    name: str
    project: str | None = None
    models: tuple[str, ...] = ()
    created_us: int = 0
    expires_us: int | None = None
    revoked_us: int | None = None

    @property
    def is_revoked(self) -> bool:
        return self.revoked_us is not None


def new_secret() -> str:
    return PREFIX + base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def insert_key(
    database: Database, name: str, project: str | None, models: Sequence[str], expires_us: int | None
) -> tuple[Key, str]:
    """A new key and its secret, which is not stored. In the caller's transaction."""
    secret, at_us = new_secret(), now_us()
    key = Key("key-" + new_id(at_us)[6:20], name, project, tuple(models), at_us, expires_us)
    database.execute(
        "INSERT INTO keys (id, name, hash, project, models, created_us, expires_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key.id, name, hash_secret(secret), project, json.dumps(key.models), at_us, expires_us),
    )
    return key, secret


def find_key(database: Database, secret_hash: str) -> Key | None:
    # The index compares hashes, not secrets: how long it takes tells nothing that helps to guess a secret.
    found = database.execute(f"SELECT hash, {_COLUMNS} FROM keys WHERE hash = ?", (secret_hash,)).fetchone()
    if found is None or not hmac.compare_digest(str(found[0]), secret_hash):
        return None
    return _key(found[1:])


def list_keys(database: Database) -> list[Key]:
    return [
        _key(found) for found in database.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created_us, id").fetchall()
    ]


def check_key(key: Key | None, at_us: int) -> Key:
    """InvalidKey for one that does not hold now."""
    if key is None:
        raise InvalidKey("this API key is not known; make one with: farthing keys create --name NAME")
    if key.is_revoked:
        raise InvalidKey(f"the API key {key.id} was revoked")
    if key.expires_us is not None and at_us >= key.expires_us:
        raise InvalidKey(f"the API key {key.id} has expired")
    return key


def _key(found: Sequence[Any]) -> Key:
    name, project, models, *times = found[1:]
    return Key(str(found[0]), name, project, tuple(json.loads(models)), *times)
