"""What the books refuse. LedgerAway is the one that passes: the database is not there now."""

from farthing.errors import FarthingError
from farthing.upstreams.errors import UpstreamError

__all__ = ["InvalidKey", "LedgerAway", "LedgerError"]

RETRY_AFTER_S = 2.0


class LedgerError(FarthingError):
    """A ledger that cannot be opened or used as asked."""


class InvalidKey(LedgerError):
    """A secret that is unknown, revoked or expired. The message never contains it."""


class LedgerAway(UpstreamError):
    """The database cannot be reached, is locked or full: nothing is answered that could not be written down."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the ledger is not available ({why}); try again",
            status=503,
            code="ledger_unavailable",
            retry_after_s=RETRY_AFTER_S,
        )
