"""What farthing.toml says of the loop, made to fit together: [learn], its [[model]], and the upstream of its slot."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from farthing.distill.learn_config import LearnConfig
from farthing.distill.learn_rows import Answered
from farthing.distill.learn_tools import Names
from farthing.distill.recipe import STUDENT, Recipe
from farthing.errors import InvalidRequest
from farthing.report.compare_task import read_task
from farthing.server.config import ModelEntry, UpstreamEntry
from farthing.server.config_file import Config
from farthing.server.tables import read_table
from farthing.upstreams.classifier_config import ClassifierTable

__all__ = ["Setup", "read_setup", "trusted_rows"]


class Setup:
    """Raises InvalidRequest, naming the file, for what does not fit together."""

    def __init__(self, config: Config) -> None:
        where = f"{config.source}: [learn]"
        self.learn, self.recipe = _tables(config, where)
        model = next((entry for entry in config.models if entry.name == self.learn.model), None)
        if model is None:
            there = ", ".join(entry.name for entry in config.models) or "none"
            raise InvalidRequest(f"{where}: model is {self.learn.model!r}; there is no such [[model]]: {there}")
        self.names = _names(model, where)
        upstream = next(entry for entry in config.upstreams if entry.name == self.names.small_upstream)
        self.table = _table(upstream, self.learn.slot, where)
        _check_router(model, self.learn.slot, where)


def read_setup(config: Config) -> Setup:
    if not config.learn:
        raise InvalidRequest(f"{config.source}: there is no [learn]; docs/learn.md says what it needs")
    return Setup(config)


def trusted_rows(path: Path | None) -> list[Answered]:
    """Of a task file: the first of each row's answers."""
    if path is None:
        return []
    return [Answered(row.prompt, row.answers[0], "given") for row in read_task(path)]


def _tables(config: Config, where: str) -> tuple[LearnConfig, Recipe]:
    given: Mapping[str, Any] = {name: value for name, value in config.learn.items() if name != "recipe"}
    learn = read_table(LearnConfig, dict(given), where, config.folder)
    start = config.folder / os.path.expanduser(learn.start)
    if start.exists():
        learn = replace(learn, start=str(start))
    return learn, _recipe(config.learn.get("recipe", {}), f"{where[:-1]}.recipe]", config.folder)


def _recipe(table: Any, where: str, folder: Path) -> Recipe:
    """A student's, where it says nothing else; there are no teacher's logits to learn from."""
    usual = {name: value for name, value in asdict(replace(STUDENT, kl_weight=0.0)).items() if value is not None}
    usual["lora_targets"] = list(STUDENT.lora_targets)
    return read_table(Recipe, {**usual, **table} if isinstance(table, dict) else table, where, folder)


def _names(model: ModelEntry, where: str) -> Names:
    if len(model.upstreams) != 2:
        raise InvalidRequest(f"{where}: [[model]] {model.name!r} has {len(model.upstreams)} upstreams; two are needed")
    small, large = model.upstreams
    return Names(small.upstream, (small.model, large.model))


def _table(upstream: UpstreamEntry, slot: Path, where: str) -> ClassifierTable:
    if upstream.kind != "classifier":
        raise InvalidRequest(
            f"{where}: upstream {upstream.name!r} is of kind {upstream.kind!r}; the first one of the [[model]] must be"
            ' a "classifier" that serves the slot'
        )
    table = ClassifierTable.from_table(upstream.options)
    served = [Path(os.path.expanduser(model)).resolve() for model in table.models]
    if slot.resolve() not in served:
        there = ", ".join(map(str, served))
        raise InvalidRequest(f"{where}: slot {slot.resolve()} is not served by {upstream.name!r}, which has {there}")
    return table


def _check_router(model: ModelEntry, slot: Path, where: str) -> None:
    router = model.router
    is_slot = router is not None and router.file is not None and router.file.resolve() == slot.resolve()
    if router is None or router.mode != "cascade" or not is_slot or router.price is not None:
        raise InvalidRequest(
            f'{where}: [[model]] {model.name!r} needs [model.router] with mode = "cascade" and file = the slot'
            f" ({slot}), without price: each version brings its own threshold"
        )
