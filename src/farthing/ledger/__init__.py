"""The books: who used what, what it cost, what it would have cost; and what they may still use."""

from farthing.ledger.books import Books, BooksStats
from farthing.ledger.budget import Budget
from farthing.ledger.config import LedgerConfig
from farthing.ledger.errors import InvalidKey, LedgerAway, LedgerError
from farthing.ledger.key import Key
from farthing.ledger.metered import Metered
from farthing.ledger.reader import Reader, open_reader
from farthing.ledger.reservation import Room
from farthing.ledger.row import Row, Status

__all__ = [
    "Books",
    "BooksStats",
    "Budget",
    "InvalidKey",
    "Key",
    "LedgerAway",
    "LedgerConfig",
    "LedgerError",
    "Metered",
    "Reader",
    "Room",
    "Row",
    "Status",
    "open_reader",
]
