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
    """Raises InvalidRequest, and LedgerError for a table that is wrong."""
    import tomllib

    from farthing.ledger.config import LedgerConfig

    if url is not None and config is not None:
        raise InvalidRequest("--ledger and --config both name a ledger; give one")
    if url is not None:
        return LedgerConfig(url=url)
    if config is None:
        return LedgerConfig()
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8")).get("ledger", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{config}: {error}") from None
    if not isinstance(table, dict):
        raise InvalidRequest(f"{config}: ledger is {table!r}; it must be a table: [ledger]")
    return LedgerConfig.from_table(table)
