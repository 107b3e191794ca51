"""Settings that are fields of a dataclass."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from farthing.errors import InvalidRequest

__all__ = ["check_keys"]


def check_keys(table: Mapping[str, Any], known: Collection[str], what: str) -> None:
    """Raises InvalidRequest for a key that is not known, with the nearest name. what: whose settings they are."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise InvalidRequest(f"{key!r} is no setting of {what}; {meant}there are: {', '.join(sorted(known))}")
