"""What the loop is told and what it lets others do: training, and opening a version."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from farthing.distill.learn_judge import Student
from farthing.distill.learn_rows import Answered

__all__ = ["Lesson", "Names", "Tools"]


@dataclass(frozen=True)
class Lesson:
    """What a student is taught. present: the folder of the version that serves, None where there is none yet."""

    labels: tuple[str, ...]
    rows: tuple[Answered, ...]
    present: Path | None


class Tools(Protocol):
    """What the loop does not do itself."""

    def train(self, lesson: Lesson, out: Path, work: Path) -> None:
        """`out` becomes a model folder, whole or not at all. Goes on from what an earlier call left in `work`."""
        ...

    def start_labels(self) -> tuple[str, ...]:
        """Of what the first version is made from, where that is a classifier already."""
        ...

    def open(self, folder: Path) -> Student: ...
    def pico(self, seconds: float) -> float:
        """What this machine costs for so long."""
        ...


@dataclass(frozen=True)
class Names:
    """Of the two upstreams behind a [[model]]: the small one's name, and the models that both serve."""

    small_upstream: str
    models: tuple[str, str]
