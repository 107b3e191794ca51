"""How an upstream of classifiers is set up: one table of farthing.toml.

[[upstream]]
name = "intents"
kind = "classifier"
models = ["models/intents"]
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from farthing.errors import InvalidRequest
from farthing.upstreams.known_keys import check_keys

if TYPE_CHECKING:
    from farthing.engine.classifier import ClassifierConfig

__all__ = ["ClassifierTable", "served_as"]


@dataclass(frozen=True)
class ClassifierTable:
    """None is the engine's default. Raises InvalidRequest for a value of the wrong kind or out of its range.

    A model is served under its path's last part, whatever version of it is behind that.
    """

    models: tuple[str, ...]
    weights: str | None = None  # re-block all matrices to this format
    product: str | None = None
    threads: int | None = None  # one for each core this process may use
    max_num_batched_tokens: int | None = None
    max_num_seqs: int = 64  # texts that are answered together
    max_waiting: int = 1024  # calls that wait, of each model
    preload: bool = True  # load the models at start, not at their first request
    look_every_s: float = 1.0  # whether another version is there
    point: str = "best"  # where a cascade works, "best" or "cheapest"; a single model has none

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "ClassifierTable":
        """Raises InvalidRequest for a key that is not known, with the nearest name."""
        given = {key: value for key, value in table.items() if key != "kind"}
        check_keys(given, {field.name for field in fields(cls)}, "a classifier")
        models = given.get("models")
        if not isinstance(models, list) or not models or not all(isinstance(m, str) and m for m in models):
            raise InvalidRequest(f"models is {models!r}; allowed: a list of one model's path, or more")
        if type(given.get("look_every_s")) is int:
            given["look_every_s"] = float(given["look_every_s"])
        return cls(**{**given, "models": tuple(models)})

    def __post_init__(self) -> None:
        numbers = ("threads", "max_num_batched_tokens", "max_num_seqs", "max_waiting")
        for name, kind, allowed in (
            *((name, str, "a string") for name in ("weights", "product", "point")),
            *((name, int, "a whole number") for name in numbers),
            ("preload", bool, "true or false"),
            ("look_every_s", float, "a number of seconds"),
        ):
            value = getattr(self, name)
            if value is not None and type(value) is not kind:
                raise InvalidRequest(f"{name} is {value!r}; allowed: {allowed}")
        if not 0.01 <= self.look_every_s <= 3600:
            raise InvalidRequest(f"look_every_s is {self.look_every_s}; allowed: 0.01 to 3600")
        for name, least in (("max_num_seqs", 1), ("max_waiting", 0)):
            if getattr(self, name) < least:
                raise InvalidRequest(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        from farthing.models.cascade_file import PointName

        if self.point not in get_args(PointName):
            raise InvalidRequest(f"point is {self.point!r}; allowed: {', '.join(get_args(PointName))}")
        self.engine()
        for model in self.models:
            if self.models.count(model) > 1:
                raise InvalidRequest(f"models names {model!r} twice")

    def engine(self) -> "ClassifierConfig":
        """The settings of one model's classifier."""
        from farthing.engine.classifier import ClassifierConfig
        from farthing.kernels.cores import default_threads

        more = {"product": self.product, "max_num_batched_tokens": self.max_num_batched_tokens}
        given: dict[str, Any] = {name: value for name, value in more.items() if value is not None}
        return ClassifierConfig(num_threads=default_threads() if self.threads is None else self.threads, **given)


def served_as(source: str) -> str:
    """The name clients give: a path's last part, without .gguf or .safetensors, whatever stands behind it; other names
    as they are."""
    path = Path(os.path.expanduser(source))
    if not os.path.lexists(path):
        return source
    return path.stem if path.suffix in (".gguf", ".safetensors") else path.name or path.resolve().name
