"""farthing's speed in each row beside the best of its peers: ratios, floors, goals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.models import AS_IT_IS
from benchmarks.peers.works import Bar, Row

__all__ = ["Compared", "best", "compare", "document", "table"]

OURS, LLAMACPP = "farthing", "llama.cpp"
TITLES = {
    "all": "best of all",
    "llama.cpp": "llama.cpp's best",
    "4-bit": "llama.cpp's best in 4 bits",
    "file": "llama.cpp, same file",
}
Medians = Mapping[tuple[str, str], float]  # engine and setting: tokens per second


@dataclass(frozen=True)
class Compared:
    """One bar of one row. `verdict`: "goal", "floor", "missed"; "" where there is no floor."""

    row: Row
    bar: Bar
    tok_s: float
    peer: str
    setting: str
    peer_tok_s: float

    @property
    def ratio(self) -> float:
        return self.tok_s / self.peer_tok_s

    @property
    def verdict(self) -> str:
        if self.bar.floor is None or self.bar.goal is None:
            return ""
        return "goal" if self.ratio >= self.bar.goal else "floor" if self.ratio >= self.bar.floor else "missed"


def best(medians: Medians, against: str) -> tuple[str, str] | None:
    """The fastest engine and setting that a bar is about; None where none was measured."""
    asked = [key for key in medians if _counts(*key, against)]
    return max(asked, key=lambda key: medians[key], default=None)


def _counts(engine: str, setting: str, against: str) -> bool:
    if against == "all":
        return engine != OURS
    if engine != LLAMACPP:
        return False
    if against == "file":
        return AS_IT_IS in setting
    return against == LLAMACPP or setting.startswith(("Q4", "IQ4"))


def compare(row: Row, medians: Medians, has_floors: bool = True) -> list[Compared]:
    """One for each bar of the row; none where farthing was not measured. Without floors llama.cpp is all there is."""
    ours = max((speed for (engine, _), speed in medians.items() if engine == OURS), default=None)
    if ours is None:
        return []
    found = []
    for bar in row.bars:
        if (key := best(medians, bar.against)) and (has_floors or bar.against != "all"):
            given = bar if has_floors else Bar(bar.against)
            found.append(Compared(row, given, ours, *key, medians[key]))
    return found


def table(compared: Sequence[Compared]) -> str:
    lines = [f"{'work':47}  farthing  {'against':26}  {'which':44}  tok/s   ratio  floor  goal"]
    last = None
    for c in compared:
        work = f"{c.row.title:47}  {c.tok_s:8,.1f}" if c.row != last else " " * 57
        bars = f"{c.bar.floor or '':>5}  {c.bar.goal or '':>4}  {c.verdict}"
        which = f"{c.peer}: {c.setting}"
        line = f"{work}  {TITLES[c.bar.against]:26}  {which:40}  {c.peer_tok_s:9,.1f}  {c.ratio:4.2f} x  {bars}"
        lines.append(line.rstrip())
        last = c.row
    return "\n".join(lines)


def document(row: Row, compared: Sequence[Compared], trial: Mapping[Any, Any], rounds: Mapping[Any, Any]) -> Any:
    """The row as plain JSON: what was compared, and every figure by engine and setting."""
    figures: dict[str, dict[str, Any]] = {}
    for name, speeds in (("trial", trial), ("rounds", rounds)):
        for (row_name, engine, setting), values in speeds.items():
            if row_name == row.name:
                figures.setdefault(engine, {}).setdefault(setting, {})[name] = [round(v, 2) for v in values]
    return {
        "row": row.name,
        "work": row.title,
        "compared": [
            {
                "against": c.bar.against,
                "farthing_tok_s": c.tok_s,
                "peer": c.peer,
                "setting": c.setting,
                "peer_tok_s": c.peer_tok_s,
                "ratio": c.ratio,
                "floor": c.bar.floor,
                "goal": c.bar.goal,
                "verdict": c.verdict,
            }
            for c in compared
        ],
        "tok_s": figures,
    }
