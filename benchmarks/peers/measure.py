"""Rounds: each engine has its turn in each of them. Trials before them find its best settings and are not counted."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.peers.child import Engine
from benchmarks.peers.models import AS_IT_IS
from benchmarks.peers.works import Row

__all__ = ["Measured", "chosen", "measure"]

NOISE = 0.15  # settings that are closer to an engine's best are measured in every round, since either may be it
MAX_CHOSEN = 2
TRIALS = 2  # of every setting, the faster counts: what disturbs the machine for a moment must not choose
MANY_SETTINGS = 6  # with more than these, one trial each: many of them are alike, and the rounds take several
HOPELESS = 0.6  # of the fastest peer's trial: what is slower can be nobody's bar, and has its trial's figure only
IS_A_BAR_ITSELF = "llama.cpp"

Speeds = dict[tuple[str, str, str], list[float]]  # row, engine, setting: tokens per second, one per round


@dataclass
class Measured:
    trial: Speeds = field(default_factory=lambda: defaultdict(list))  # every setting
    rounds: Speeds = field(default_factory=lambda: defaultdict(list))
    errors: dict[tuple[str, str, str], str] = field(
        default_factory=dict
    )  # engine, setting, row: why it was not measured

    def medians(self, row: str) -> dict[tuple[str, str], float]:
        """By engine and setting; of what was measured in rounds."""
        return {(e, s): statistics.median(values) for (r, e, s), values in self.rounds.items() if r == row}


def chosen(speeds: Mapping[str, float]) -> list[str]:
    """An engine's settings for a row that are worth every round: the best, what is within the noise of it, and the
    best of those that run farthing's very file."""
    order = sorted(speeds, key=lambda setting: -speeds[setting])
    close = [setting for setting in order if speeds[setting] >= (1 - NOISE) * speeds[order[0]]][:MAX_CHOSEN]
    same_file = [setting for setting in order if AS_IT_IS in setting][:1]
    return close + [setting for setting in same_file if setting not in close]


def measure(engines: Sequence[Engine], rows: Sequence[Row], rounds: int, say: Callable[[str], None]) -> Measured:
    found = Measured()
    turns: list[dict[str, list[Row]]] = []  # each engine's settings, and the rows of each
    for engine in engines:
        say(f"trying every setting of {engine.name}")
        for _ in range(TRIALS if len(engine.settings) <= MANY_SETTINGS else 1):
            _turn(engine, {s: engine.rows_of(s, rows) for s in engine.settings}, found.trial, found)
        for (row, name, setting), speeds in found.trial.items():
            if name == engine.name:
                say(f"{row:17} {name}: {setting:28} {max(speeds):8.1f} tok/s")
    ours = engines[0].name
    for engine in engines:
        turns.append(_worth_rounds(engine, rows, found.trial, ours))
        engine.keep(turns[-1])
    for number in range(rounds):
        first = number % len(engines)  # so that nobody always follows the same one
        for i in [*range(first, len(engines)), *range(first)]:
            say(f"round {number + 1} of {rounds}, {engines[i].name}")
            _turn(engines[i], turns[i], found.rounds, found)
    return found


def _worth_rounds(engine: Engine, rows: Sequence[Row], trial: Speeds, ours: str) -> dict[str, list[Row]]:
    turn: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        speeds = {s: max(values) for (r, e, s), values in trial.items() if (r, e) == (row.name, engine.name)}
        others = [max(values) for (r, e, _), values in trial.items() if r == row.name and e != ours]
        for setting in chosen(speeds) if speeds else []:
            if engine.name in (ours, IS_A_BAR_ITSELF) or speeds[setting] >= HOPELESS * max(others):
                turn[setting].append(row)
    return turn


def _turn(engine: Engine, asked: Mapping[str, list[Row]], into: Speeds, found: Measured) -> None:
    for setting, rows in asked.items():
        if not rows:
            continue
        answer = engine.ask(setting, rows)
        for name, speed in answer.speeds.items():
            into[name, engine.name, setting].append(speed)
        for name, why in answer.errors.items():
            found.errors.setdefault((engine.name, setting, name), why)
