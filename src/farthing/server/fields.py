"""Checks of a request body's fields, the same for every API. What is wrong is an UpstreamError of status 400."""

from collections.abc import Mapping
from typing import Any

from farthing.upstreams import UpstreamError

__all__ = ["boolean", "integer", "invalid", "number", "objects", "one_of", "text"]


def invalid(message: str, param: str | None, code: str = "invalid_value") -> UpstreamError:
    return UpstreamError(message, status=400, code=code, param=param)


def text(body: Mapping[str, Any], name: str, where: str = "") -> str:
    """A string that must be there and not be empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise _wrong(where + name, value, "a string, not empty")
    return value


def integer(body: Mapping[str, Any], name: str, least: int, most: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        raise _wrong(name, value, f"a whole number, {least} or more" if most is None else f"{least} to {most}")
    return value


def number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:  # NaN is not
        raise _wrong(name, value, f"a number, {least:g} to {most:g}")
    return value


def boolean(body: Mapping[str, Any], name: str) -> bool:
    """False where it is absent or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return bool(value)


def one_of(body: Mapping[str, Any], name: str, allowed: tuple[str, ...], where: str = "") -> str | None:
    value = body.get(name)
    if value is not None and value not in allowed:
        raise _wrong(where + name, value, ", ".join(allowed))
    return value


def objects(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects; empty where it is absent or null."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(name, value, "a list of objects")
    return value


def _wrong(name: str, value: object, allowed: str) -> UpstreamError:
    if value is None:
        return invalid(f"{name} is missing; give {allowed}", name, "missing_required_parameter")
    shown = repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    return invalid(f"{name} is {shown}; allowed: {allowed}", name)
