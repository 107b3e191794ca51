"""Reads a request's JSON strictly: every field is read by somebody or refused, every value has its type and range."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from farthing.upstreams.errors import UpstreamError

__all__ = ["Body", "refuse", "unsupported"]

MAX_SHOWN = 60  # characters of a value in an error


def refuse(param: str, what: str) -> NoReturn:
    raise UpstreamError(f"{param}: {what}", status=400, code="invalid_value", param=param)


def unsupported(param: str, what: str) -> NoReturn:
    raise UpstreamError(f"{param}: {what}", status=400, code="unsupported_parameter", param=param)


class Body:
    """The fields of one JSON object; null counts as absent. `end` refuses those that nobody has read.

    prefix stands before the names in errors: "response_format.".
    """

    def __init__(self, fields: Mapping[str, Any], prefix: str = "") -> None:
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._prefix = prefix
        self._read: set[str] = set()

    def take(self, name: str) -> Any:
        """The value as it is, None where it is absent."""
        self._read.add(name)
        return self._fields.get(name)

    def refuse(self, name: str, what: str) -> NoReturn:
        refuse(self._prefix + name, what)

    def _not(self, name: str, value: object, allowed: str) -> NoReturn:
        shown = repr(value)
        shown = shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "…"
        self.refuse(name, f"{shown} is not allowed; allowed: {allowed}")

    def integer(self, name: str, least: int, most: int) -> int | None:
        value = self.take(name)
        if value is not None and (type(value) is not int or not least <= value <= most):
            self._not(name, value, f"an integer from {least} to {most}")
        return value

    def number(self, name: str, least: float, most: float, *, is_open: bool = False) -> float | None:
        """is_open: `least` itself is not allowed."""
        value = self.take(name)
        if value is None:
            return None
        is_number = type(value) in (int, float)  # one that is not finite is in no range
        if not is_number or not least <= value <= most or (is_open and value == least):
            self._not(name, value, f"a number {'above' if is_open else 'from'} {least:g} to {most:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if type(value) is not bool:
            self._not(name, value, "true or false")
        return value

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            self._not(name, value, "a string")
        return value

    def choice(self, name: str, choices: Iterable[str]) -> str | None:
        allowed = tuple(choices)
        value = self.text(name)
        if value is not None and value not in allowed:
            self._not(name, value, ", ".join(allowed))
        return value

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            self._not(name, value, "an object")
        return value

    def array(self, name: str, most: int) -> list[Any] | None:
        value = self.take(name)
        if value is not None and (not isinstance(value, list) or len(value) > most):
            self._not(name, value, f"an array of at most {most} items")
        return value

    def only(self, name: str, allowed: object, why: str) -> None:
        """A field that may be given with one value, which does nothing."""
        value = self.take(name)
        if value is not None and (value != allowed or type(value) is not type(allowed)):
            unsupported(self._prefix + name, f"{why}; leave it out")

    def end(self) -> None:
        unread = sorted(set(self._fields) - self._read)
        if unread:
            near = difflib.get_close_matches(unread[0], self._read, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            allowed = ", ".join(sorted(self._read))
            unsupported(
                self._prefix + unread[0][:MAX_SHOWN], f"not supported by this model; {meant}supported: {allowed}"
            )
