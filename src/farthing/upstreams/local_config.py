"""How a local upstream is set up: one table of farthing.toml, with the engine's own names and defaults.

[upstreams.local]
kind = "local"
models = ["smollm2-135m-instruct", "models/other.gguf"]
kv = "q8/tq4"
cold_folder = "cold"
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farthing.errors import InvalidRequest
from farthing.upstreams.known_keys import check_keys

if TYPE_CHECKING:
    from farthing.engine import EngineConfig

__all__ = ["DEFAULT_MODEL", "LocalConfig"]

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_COLD_BYTES = 1 << 30  # where a folder is given


@dataclass(frozen=True)
class LocalConfig:
    """None is the engine's default. Raises InvalidRequest for a value of the wrong kind or out of its range.

    A model is served under the name it has here (its file's or folder's name where that is a path).
    """

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    weights: str | None = None  # re-block all matrices to this format
    product: str | None = None
    kv: str | None = None  # codecs of keys and values, "q8" or "q8/tq4"
    threads: int | None = None  # one for each core this process may use
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_bytes: int | None = None  # of each model
    speculation: str = "off"
    cold_folder: str | None = None  # a folder in it for each model
    cold_bytes: int | None = None  # of each model
    experts_folder: str | None = None  # keep experts' weights in a file there, and not in memory
    max_waiting: int = 256  # requests that wait for a place, of each model
    preload: bool = True  # load the models at start, not at their first request

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "LocalConfig":
        """Raises InvalidRequest for a key that is not known, with the nearest name."""
        given = {key: value for key, value in table.items() if key != "kind"}
        check_keys(given, {field.name for field in fields(cls)}, "a local upstream")
        if "models" in given:
            models = given["models"]
            if not isinstance(models, list) or not models or not all(isinstance(m, str) and m for m in models):
                raise InvalidRequest(f"models is {models!r}; allowed: a list of one model's name or path, or more")
            given["models"] = tuple(models)
        return cls(**given)

    def __post_init__(self) -> None:
        texts = ("weights", "product", "kv", "cold_folder", "experts_folder", "speculation")
        numbers = ("threads", "max_num_seqs", "max_num_batched_tokens", "kv_bytes", "cold_bytes", "max_waiting")
        for name, kind, allowed in (
            *((name, str, "a string") for name in texts),
            *((name, int, "a whole number") for name in numbers),
            ("preload", bool, "true or false"),
        ):
            value = getattr(self, name)
            if value is not None and type(value) is not kind:
                raise InvalidRequest(f"{name} is {value!r}; allowed: {allowed}")
        if self.max_waiting < 0:
            raise InvalidRequest(f"max_waiting is {self.max_waiting}; allowed: 0 or more")
        for name in self.models:
            if self.models.count(name) > 1:
                raise InvalidRequest(f"models names {name!r} twice")

    def engine(self, model: str) -> "EngineConfig":
        """The settings of one model's engine."""
        from farthing.engine import EngineConfig
        from farthing.kernels.codecs import parse_codecs
        from farthing.kernels.cores import default_threads

        k_codec, v_codec = (None, None) if self.kv is None else parse_codecs(self.kv)
        folder = None if self.cold_folder is None else Path(os.path.expanduser(self.cold_folder)) / _folder_name(model)
        cold_bytes = self.cold_bytes
        if cold_bytes is None and folder is not None:
            cold_bytes = DEFAULT_COLD_BYTES
        more = {
            "product": self.product,
            "k_codec": k_codec,
            "v_codec": v_codec,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "kv_bytes": self.kv_bytes,
            "cold_bytes": cold_bytes,
            "cold_folder": folder,
            "experts_folder": None if self.experts_folder is None else Path(self.experts_folder).expanduser(),
        }
        given: dict[str, Any] = {name: value for name, value in more.items() if value is not None}
        num_threads = default_threads() if self.threads is None else self.threads
        return EngineConfig(num_threads=num_threads, speculation=self.speculation, **given)


def _folder_name(model: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in model).strip(".") or "model"
