"""Whoever looks at a SQLite ledger and leaves must not take the WAL of a server that runs with him."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farthing.ledger import LedgerConfig
from farthing.ledger.entries import insert_row
from farthing.ledger.errors import LedgerError
from farthing.ledger.opening import open_database, transaction
from tests.report.ledger_rows import row

LOOK = """import sys
from farthing.ledger import open_reader
with open_reader(sys.argv[1]) as reader: print(len(list(reader.rows(0, 2**62))))"""


def look(config: LedgerConfig) -> int:
    """How many rows another process finds, which opens the ledger and closes it."""
    done = subprocess.run([sys.executable, "-c", LOOK, config.url], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_reader_that_leaves_does_not_take_the_wal_of_who_writes(tmp_path: Path) -> None:
    """Two connections in one process, as a server has them. The second must not cost the first its locks: a reader
    would delete the WAL, and what is written afterwards would be in no file."""
    config = LedgerConfig(url=f"sqlite:///{tmp_path}/ledger.db")
    wal = tmp_path / "ledger.db-wal"
    first = open_database(config)
    second = open_database(config)
    try:
        with transaction(first):
            insert_row(first, row(1))
        number = wal.stat().st_ino
        assert look(config) == 1
        assert wal.exists()
        assert wal.stat().st_ino == number
        with transaction(first):
            insert_row(first, row(2))
        assert look(config) == 2
    finally:
        second.close()
        first.close()
    assert look(config) == 2


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    config = LedgerConfig(url=f"sqlite:///{tmp_path}/ledger.db")
    open_database(config).close()
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_a_file_of_somebody_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LedgerConfig(url=f"sqlite:///{tmp_path}/ledger.db")
    open_database(config).close()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(LedgerError, match="Permission denied"):
        open_database(config)
