"""Opens a ledger: connected, migrated, and every driver's failure turned into one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from farthing.errors import FarthingError
from farthing.ledger.config import LedgerConfig, public_url
from farthing.ledger.database import Database, connect
from farthing.ledger.errors import LedgerError
from farthing.ledger.schema import migrate

__all__ = ["open_database", "transaction"]


def open_database(config: LedgerConfig, *, must_exist: bool = False) -> Database:
    """A connection to a ledger of the newest schema. LedgerError, in one line, where there is none."""
    where = public_url(config.url)
    if must_exist and config.sqlite_path is not None and not config.sqlite_path.exists():
        raise LedgerError(f"there is no ledger {where}; farthing serve and farthing keys create make one")
    try:
        database = connect(config)
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return database
    except LedgerError as error:
        raise LedgerError(f"{where}: {error}") from None
    except Exception as error:
        # A driver's message may repeat the URL that it was given, password and all.
        said = " ".join(str(error).split())[:300].replace(config.url, where)
        raise LedgerError(f"the ledger {where} cannot be opened: {said}") from None


@contextmanager
def transaction(database: Database) -> Iterator[None]:
    """Committed at its end, undone where something is raised. A driver's error becomes a LedgerError."""
    try:
        database.begin()
        yield
        database.commit()
    except FarthingError:
        database.rollback()
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise LedgerError(f"the ledger cannot be written: {said}") from None
