"""Typed reading of keys from a model's description: a wrong type or a missing key is an error that names the key."""

from collections.abc import Mapping, Sequence
from typing import Any

from farthing.errors import CorruptModel, UnsupportedModel

__all__ = ["Fields"]

MAX_INTEGER = 2**40  # far above every real size, far below where arithmetic on sizes gets odd
MAX_NUMBER = 1e30  # numbers are used in float32


class Fields:
    """`raw` with typed access. `place` says in messages where the keys stand; `prefix` is put before each key.

    A key that is absent or null takes the default, or raises CorruptModel where there is none.
    """

    def __init__(self, raw: Mapping[str, Any], place: str, prefix: str = "") -> None:
        self.raw = raw
        self.place = place
        self.prefix = prefix

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, list | tuple):
            raise UnsupportedModel(f"{self.place}: {self.prefix}{key} differs per layer; supported: one value for all")
        if isinstance(value, bool) or not isinstance(value, int) or not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise self._wrong(key, value, f"a whole number up to {MAX_INTEGER}")
        return value

    def integers(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
            raise self._wrong(key, value, "a list of whole numbers")
        return list(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            raise self._wrong(key, value, f"a number up to {MAX_NUMBER:g}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def section(self, key: str) -> "Fields | None":
        """The object under `key`, or None where it is absent, null or empty."""
        value = self.raw.get(self.prefix + key)
        if not value:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return Fields(value, f"{self.place}: {key}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.raw.get(self.prefix + key)
        value = default if value is None else value
        if value is None:
            raise CorruptModel(f"{self.place}: {self.prefix}{key} is missing")
        return value

    def _wrong(self, key: str, value: Any, allowed: str) -> CorruptModel:
        return CorruptModel(f"{self.place}: {self.prefix}{key} is {value!r:.60}; allowed: {allowed}")
