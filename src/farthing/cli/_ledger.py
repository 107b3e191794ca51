"""Which ledger a command opens: --ledger URL, the [ledger] of --config FILE, or the user's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.ledger.config import LedgerConfig

__all__ = ["ConfigOption", "LedgerOption", "ledger_config"]

LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", metavar="URL", help="sqlite:///FILE or postgresql://…; default: the user's data folder."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A farthing.toml whose [ledger] names the ledger.")
]


def ledger_config(url: str | None, config: Path | None) -> "LedgerConfig":
    """The ledger that `farthing serve --config` would open; --ledger is relative to the working directory.

    Raises InvalidRequest, and LedgerError for a URL that is none.
    """
    from farthing.ledger.config import LedgerConfig

    if url is not None and config is not None:
        raise InvalidRequest("--ledger and --config both name a ledger; give one of them")
    if config is not None:
        from farthing.server.config_file import read_config

        return read_config(config).ledger_config()
    return LedgerConfig() if url is None else LedgerConfig(url=url)
