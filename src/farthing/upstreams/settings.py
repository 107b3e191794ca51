"""A table of farthing.toml, read with care: a wrong type, an unknown key or a secret in it is an error that helps."""

import difflib
import math
import os
import re
from collections.abc import Mapping
from decimal import Decimal

from farthing.errors import InvalidRequest

__all__ = ["Table"]

SECRET = "is a secret, and none may stand in this file, only in the environment"
VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
SECRETS = ("api_key", "key", "token", "authorization", "x-api-key")


class Table:
    """Each reader takes a key out; `end` refuses what nobody took. Raises InvalidRequest, naming upstream and key."""

    def __init__(self, name: str, table: Mapping[str, object]) -> None:
        self._name = name
        self._table = {key: value for key, value in table.items() if key not in ("name", "kind")}
        self._known: list[str] = []
        for key in self._table:
            if key.lower() in SECRETS:
                raise self.error(key, f'{SECRET}; put it into a variable and name that: api_key_env = "MY_KEY"')

    def error(self, key: str, problem: str) -> InvalidRequest:
        return InvalidRequest(f"upstream {self._name!r}: {key} {problem}")

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._table.get(key)

    def text(self, key: str) -> str | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise self.error(key, f"is {value!r}; allowed: a text that is not empty")
        return value

    def number(self, key: str, default: float, least: float, most: float = math.inf) -> float:
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not least <= value <= most:
            raise self.error(key, f"is {value!r}; allowed: a number from {least:g}" + _up_to(most))
        return float(value)

    def whole(self, key: str, least: int, most: int = 10**9) -> int | None:
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(key, f"is {value!r}; allowed: a whole number from {least} to {most:,}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}; allowed: true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, f"is {value!r}; allowed: a list of texts")
        return tuple(value)

    def headers(self, key: str) -> dict[str, str]:
        value = self._take(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
            raise self.error(key, "must be a table of texts")
        for header, content in value.items():
            if header.lower() in (*SECRETS, "proxy-authorization", "cookie"):
                raise self.error(f"{key}.{header}", f"{SECRET}; use api_key_env")
            if not (header.isascii() and header.replace("-", "").replace("_", "").isalnum() and _is_plain(content)):
                raise self.error(f"{key}.{header}", "is no HTTP header; allowed: printable ASCII in one line")
        return {header.lower(): content for header, content in value.items()}

    def secret(self, key: str) -> str | None:
        """The value of the environment variable that `key` names. It is in no error, whatever is wrong with it, nor is
        what stands in the file instead of a name."""
        variable = self._take(key)
        if variable is None:
            return None
        if not isinstance(variable, str) or not VARIABLE.fullmatch(variable):
            allowed = "allowed: letters, digits and _, and never the key itself"
            raise self.error(key, f"is no name of an environment variable; {allowed}")
        # A name like MY_KEY may be told; anything else may be a secret that was put here by mistake.
        shown = f"variable {variable}" if variable == variable.upper() else "variable"
        value = os.environ.get(variable, "").strip()
        if not value:
            raise self.error(key, f"names the environment {shown}, which is not set; set it or drop {key}")
        if not _is_plain(value) or " " in value:
            raise self.error(
                key, f"names the environment {shown}, whose value is no key: it has spaces or is not plain ASCII"
            )
        return value

    def end(self) -> None:
        for key in self._table:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1, cutoff=0.0)
                hint = f"did you mean {near[0]}? " if near else ""
                raise self.error(key, f"is unknown; {hint}known: {', '.join(sorted(self._known))}")


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _up_to(most: float) -> str:
    return f" to {most:g}" if math.isfinite(most) else " up"
