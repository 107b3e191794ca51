"""[model.router] of farthing.toml: how one model's name becomes the right one of several upstreams."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from farthing.errors import InvalidRequest

__all__ = ["RouterConfig"]


@dataclass(frozen=True)
class RouterConfig:
    """With a file, its thresholds decide, or `price`, or `share`. Without one exactly one of share (mode route) and
    min_confidence (mode cascade) must be stated. Raises InvalidRequest for what cannot be."""

    file: Path | None = None  # of `farthing route calibrate`
    mode: Literal["route", "cascade", "both"] = "route"
    price: float | None = None  # of a unit of cost in units of quality, instead of the file's threshold
    share: float | None = None  # mode route: of calls that the cheapest model does not get
    min_confidence: float | None = None  # without a file: geometric mean of the tokens' probabilities, at least
    samples: int = 0  # short answers more, of which the agreement counts
    sample_tokens: int = 32
    sticky: bool = True  # a conversation stays where its prefix is cached, unless moving is cheaper
    sticky_s: float = 300.0  # how long a prefix is taken to be cached
    sticky_max: int = 10_000  # conversations remembered
    drift_window: int = 500  # prompts that the drift alarm looks at

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise InvalidRequest(f"router {name} is {getattr(self, name)!r}; allowed: {allowed}")

        need(self.share is None or 0 <= self.share <= 1, "share", "0 to 1")
        need(self.min_confidence is None or 0 <= self.min_confidence <= 1, "min_confidence", "0 to 1")
        need(0 <= self.samples <= 3, "samples", "0 to 3")
        need(1 <= self.sample_tokens <= 1000, "sample_tokens", "1 to 1,000")
        need(0 < self.sticky_s <= 86_400, "sticky_s", "above 0, at most 86,400 (a day)")
        need(1 <= self.sticky_max <= 1_000_000, "sticky_max", "1 to 1,000,000")
        need(50 <= self.drift_window <= 100_000, "drift_window", "50 to 100,000")
        self._check_thresholds()

    def _check_thresholds(self) -> None:
        if self.share is not None and self.mode != "route":
            raise InvalidRequest("router share belongs to mode route: of a cascade nobody knows it before the answers")
        if self.file is not None:
            if self.min_confidence is not None:
                raise InvalidRequest("router min_confidence is for a cascade without a file; leave one of the two out")
            if self.price is not None and self.share is not None:
                raise InvalidRequest("router price and share say the same thing twice; leave one out")
            return
        if self.price is not None:
            raise InvalidRequest("router price needs a file: without labels there is no unit for it; give share")
        if self.mode == "both":
            raise InvalidRequest(
                "router mode both needs a file; without one: route and share, or cascade and min_confidence"
            )
        name = "share" if self.mode == "route" else "min_confidence"
        other = "min_confidence" if self.mode == "route" else "share"
        if getattr(self, name) is None or getattr(self, other) is not None:
            raise InvalidRequest(
                f"router mode {self.mode} without a file needs {name}, stated by you: nothing is known of its quality"
                f" (farthing route train and calibrate make a file that promises some)"
            )
        if self.samples:
            raise InvalidRequest("router samples needs a file that was trained with their agreement")
