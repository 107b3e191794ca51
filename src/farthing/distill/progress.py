"""What is told of a training while it runs and when it is done."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Point", "Progress", "Trained"]


@dataclass(frozen=True)
class Point:
    """The student on the held-out samples after `step` steps. accuracy: None of a student that writes text."""

    step: int
    loss: float
    accuracy: float | None
    train_loss: float  # mean since the point before

    def is_better_than(self, other: "Point | None") -> bool:
        if other is None:
            return True
        if self.accuracy is None or other.accuracy is None or self.accuracy == other.accuracy:
            return self.loss < other.loss
        return self.accuracy > other.accuracy

    def words(self) -> str:
        held_out = f"held out: loss {self.loss:.4f}"
        return held_out if self.accuracy is None else f"{held_out}, accuracy {self.accuracy:.2%}"


@dataclass(frozen=True)
class Progress:
    """How far a training is. `latest` and `best`: of the held-out points so far."""

    step: int
    num_steps: int | None  # None: the clock decides
    loss: float  # a running mean
    num_tokens: int  # that have been trained on, padding not counted
    seconds: float
    seconds_left: float
    latest: Point | None
    best: Point | None

    def line(self) -> str:
        """In one line, for a terminal."""
        steps = f"step {self.step}" if self.num_steps is None else f"step {self.step}/{self.num_steps}"
        parts = [steps, f"loss {self.loss:.4f}"]
        if self.latest is not None:
            parts.append(self.latest.words())
        if self.best is not None and self.best != self.latest:
            parts.append(f"best at step {self.best.step}")
        rate = self.num_tokens / self.seconds if self.seconds > 0 else 0.0
        return " · ".join([*parts, f"{rate:,.0f} tokens/s", f"{_clock(self.seconds_left)} left"])


@dataclass(frozen=True)
class Trained:
    """A training that is done: `folder` holds the weights of the best held-out point."""

    folder: Path
    best: Point
    history: tuple[Point, ...]
    num_steps: int  # that were made
    num_tokens: int
    seconds: float  # of all runs together, where it was resumed


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
