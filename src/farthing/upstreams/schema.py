"""JSON schemas as clients send them, on their way to a grammar."""

import json
from collections.abc import Mapping
from typing import Any

from farthing.upstreams.body import refuse

__all__ = ["MAX_BYTES", "OPTIONS", "json_source"]

MAX_BYTES = 200_000  # of a schema, or of a whole grammar
# They override what a schema may say itself (x-guidance): with free white space a small model never ends.
OPTIONS: Mapping[str, Any] = {"whitespace_flexible": False, "lenient": False}


def json_source(schema: Any, param: str) -> str:
    """The schema as JSON text. Raises UpstreamError (400) for one that cannot be written, or not as UTF-8."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
    except RecursionError:
        refuse(param, "is nested too deep")
    except ValueError:
        refuse(param, "holds what is no JSON: a number that is not finite, or half of a surrogate pair")
    return text
