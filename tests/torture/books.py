"""The ledger against itself, after everybody has left."""

from contextlib import closing

from farthing.ledger import LedgerConfig
from farthing.ledger.opening import open_database

__all__ = ["must_balance"]


def must_balance(url: str) -> None:
    with closing(open_database(LedgerConfig(url=url), must_exist=True)):
        pass
