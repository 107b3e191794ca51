"""TOML tables as frozen dataclasses: unknown keys and wrong types are errors that name the file and the key."""

import math
import os
import types
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from farthing.errors import FarthingError, InvalidRequest

__all__ = ["check_keys", "read_table"]

T = TypeVar("T")


def check_keys(table: dict[str, Any], known: "list[str]", where: str) -> None:
    """Raises InvalidRequest for a key that is not known, with the nearest one that is."""
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InvalidRequest(f"{where}: unknown key {key!r}; {hint}")


def read_table(kind: type[T], table: object, where: str, folder: Path = Path()) -> T:
    """One table as the dataclass `kind`; what is not stated has the dataclass's default.

    where is how errors name it ("farthing.toml: [server]"). Paths are relative to folder. Numbers with a point are
    expected as Decimal (tomllib's parse_float), so that money stays exact.
    """
    if not isinstance(table, dict):
        raise InvalidRequest(f"{where} is {table!r}; allowed: a table")
    assert is_dataclass(kind)
    check_keys(table, [field.name for field in fields(kind) if field.init], where)
    hints = get_type_hints(kind)
    given = {key: _read(hints[key], value, f"{where} {key}", folder) for key, value in table.items()}
    for field in fields(kind):
        is_needed = field.init and field.default is MISSING and field.default_factory is MISSING
        if is_needed and field.name not in given:
            raise InvalidRequest(f"{where}: {field.name} is missing; it has no default")
    try:
        return kind(**given)
    except FarthingError as error:
        raise InvalidRequest(f"{where}: {error}") from None


def _read(hint: Any, value: Any, where: str, folder: Path) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        [inner] = [argument for argument in arguments if argument is not type(None)]
        return _read(inner, value, where, folder)
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidRequest(f"{where} is {value!r}; allowed: a list")
        return tuple(_read(arguments[0], item, f"{where}[{i}]", folder) for i, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise InvalidRequest(f"{where} is {value!r}; allowed: {', '.join(map(str, arguments))}")
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return read_table(hint, value, where, folder)
    return _scalar(hint, value, where, folder)


def _scalar(hint: Any, value: Any, where: str, folder: Path) -> Any:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and is_number:
        return float(value)
    if hint is Decimal and is_number:
        return Decimal(value) if isinstance(value, int | Decimal) else Decimal(str(value))
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str) and value and "\0" not in value:
        return folder / Path(os.path.expanduser(value))
    words = {bool: "true or false", int: "a whole number", float: "a number", Decimal: "a number", Path: "a path"}
    raise InvalidRequest(f"{where} is {value!r}; allowed: {words.get(hint, 'a text')}")
