"""Reading what a client sent, of whatever type it is: a wrong type is a 400 that names the field."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from farthing.upstreams.errors import UpstreamError

__all__ = ["dumps", "invalid", "items", "mapping", "refuse_others", "text", "unsupported"]


def invalid(param: str, wanted: str) -> UpstreamError:
    return UpstreamError(f"{param} must be {wanted}", status=400, code="invalid_value", param=param)


def unsupported(param: str, target: str) -> UpstreamError:
    return UpstreamError(
        f"{param} is not supported: the upstream of this model speaks {target}; leave it out",
        status=400,
        code="unsupported_parameter",
        param=param,
    )


def mapping(value: object, param: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise invalid(param, "an object")
    return value


def items(value: object, param: str) -> list[Any]:
    if not isinstance(value, list):
        raise invalid(param, "a list")
    return value


def text(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise invalid(param, "a string")
    return value


def refuse_others(given: Mapping[str, Any], known: Iterable[str], where: str, target: str) -> None:
    """Refuses a field that is not in `known`. null is not given."""
    for key in given.keys() - set(known):
        if given[key] is not None:
            raise unsupported(f"{where}{key}", target)


def dumps(value: object, param: str) -> bytes:
    """JSON of what was read from JSON by another parser, maybe with more than fits (an integer above 64 bits)."""
    try:
        return orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise invalid(param, "JSON with integers of at most 64 bits, valid Unicode and moderate nesting") from error
