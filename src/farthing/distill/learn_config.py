"""[learn] of farthing.toml: what `farthing learn` teaches, from whose answers, and when a new version may serve."""

from dataclasses import dataclass
from pathlib import Path

from farthing.distill.learn_labels import are_names
from farthing.errors import InvalidRequest

__all__ = ["LearnConfig"]


@dataclass(frozen=True)
class LearnConfig:
    """Raises InvalidRequest for a value outside its range."""

    model: str  # a [[model]] with a router in mode cascade, whose first upstream serves the slot
    slot: Path
    start: str  # what the first version is made from: a folder, a GGUF file or a pulled model
    labels: tuple[str, ...] = ()  # the answers that count; none: all that were seen min_label_rows times
    trusted: Path | None = None  # a task file of answers that somebody has checked
    bound: float = 0.03  # of requests, how many fewer may be answered as the large model would
    delta: float = 0.1  # the chance that the router's threshold misses what it promises, at most
    held_out: float = 0.3  # of the rows, drawn by content: they calibrate the router and judge, and never teach
    min_rows: int = 300  # new ones; with fewer a run waits for more
    min_label_rows: int = 3
    max_disputed: float = 0.1  # of new answers that contradict what older rows say surely; more: the batch is refused
    max_rows: int = 50_000  # that teach, the newest
    minutes: float = 30.0  # of training
    threads: int = 2
    kept_versions: int = 3  # beside the one that serves

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise InvalidRequest(f"learn {name} is {getattr(self, name)!r}; allowed: {allowed}")

        need(bool(self.model), "model", "the name of a [[model]]")
        need(bool(self.start), "start", "a model's folder, file or name")
        allowed = "two or more, with letters or digits, no two alike but for case and punctuation"
        need(len(self.labels) != 1 and are_names(self.labels), "labels", allowed)
        need(0 < self.bound <= 0.5, "bound", "above 0, at most 0.5")
        need(0 < self.delta <= 0.5, "delta", "above 0, at most 0.5")
        need(0.1 <= self.held_out <= 0.5, "held_out", "0.1 to 0.5")
        need(1 <= self.min_rows <= 10_000_000, "min_rows", "1 to 10,000,000")
        need(1 <= self.min_label_rows <= 1000, "min_label_rows", "1 to 1,000")
        need(0 < self.max_disputed < 1, "max_disputed", "between 0 and 1")
        need(100 <= self.max_rows <= 10_000_000, "max_rows", "100 to 10,000,000")
        need(0 < self.minutes <= 10_080, "minutes", "above 0, at most 10,080 (a week)")
        need(1 <= self.threads <= 1024, "threads", "1 to 1,024")
        need(1 <= self.kept_versions <= 1000, "kept_versions", "1 to 1,000")

    @property
    def target(self) -> float:
        """What the router's threshold promises. The rest of the bound is for the interval of the rows that judge."""
        return 1 - self.bound / 3
