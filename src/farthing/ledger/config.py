"""Where the ledger lies and what happens while it is away: the table [ledger] of farthing.toml."""

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from farthing.ledger.errors import LedgerError

__all__ = ["LedgerConfig", "data_folder", "default_url", "public_url"]

URL_FORMS = "sqlite:///ledger.db (relative), sqlite:////var/lib/farthing/ledger.db, postgresql://user@host/name"


def data_folder() -> Path:
    """$XDG_DATA_HOME/farthing, else ~/.local/share/farthing; a relative XDG_DATA_HOME is invalid and ignored.

    Raises LedgerError for a user without a home, as a service's may be."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "farthing"
    try:
        return Path.home() / ".local" / "share" / "farthing"
    except RuntimeError:
        raise LedgerError("this user has no home for the ledger and its spool; set XDG_DATA_HOME to a folder") from None


def default_url() -> str:
    return f"sqlite:///{data_folder() / 'ledger.db'}"


def public_url(url: str) -> str:
    """The URL without its password, for messages."""
    return re.sub(r"(password=)[^&]*", r"\1…", re.sub(r"(://[^/@:]*):[^/]*@", r"\1:…@", url))


@dataclass(frozen=True)
class LedgerConfig:
    """LedgerError for a value that is not allowed. The URL may hold a password, so it is not in the repr."""

    url: str = field(default_factory=default_url, repr=False)
    synchronous: Literal["normal", "full"] = "normal"  # full: a commit survives a power cut, not only a killed process
    when_away: Literal["refuse", "spool"] = "refuse"
    spool_folder: str = field(default_factory=lambda: str(data_folder() / "spool"))
    max_spooled_rows: int = 100_000  # also of rows kept in memory while the database is away
    lock_timeout_s: float = 2.0  # how long a commit waits for another process's lock
    stall_timeout_s: float = 5.0  # a commit that takes longer counts as a database that is away

    def __post_init__(self) -> None:
        if not self.url.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise LedgerError(f"ledger url is {public_url(self.url)!r}; write it like {URL_FORMS}")
        allowed = (("synchronous", ("normal", "full")), ("when_away", ("refuse", "spool")))
        for name, words in allowed:
            if getattr(self, name) not in words:
                raise LedgerError(f"ledger {name} is {getattr(self, name)!r}; allowed: {' or '.join(words)}")
        ranges = (("max_spooled_rows", 1, 10**8), ("lock_timeout_s", 0.01, 600), ("stall_timeout_s", 0.1, 600))
        for name, lowest, highest in ranges:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
                raise LedgerError(f"ledger {name} is {value!r}; allowed: {lowest} to {highest:,}")
        if not isinstance(self.max_spooled_rows, int):
            raise LedgerError(f"ledger max_spooled_rows is {self.max_spooled_rows!r}; it must be a whole number")

    def below(self, folder: Path) -> "LedgerConfig":
        """The same with its relative paths relative to a folder: that of the file that names them."""
        url, path = self.url, self.sqlite_path
        if path is not None and not path.is_absolute():
            url = f"sqlite:///{folder.absolute() / path}"
        return replace(self, url=url, spool_folder=str(folder.absolute() / os.path.expanduser(self.spool_folder)))

    @property
    def sqlite_path(self) -> Path | None:
        """The file of a SQLite ledger; None for PostgreSQL."""
        scheme, _, rest = self.url.partition(":///")
        return Path(os.path.expanduser(rest)) if scheme == "sqlite" else None
