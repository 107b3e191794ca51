"""A small world for the loop: traffic of six intents, a ledger, a large model that knows, and linear students."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from farthing.distill.learn import SETTLE_US, Loop, Outcome
from farthing.distill.learn_config import LearnConfig
from farthing.distill.learn_judge import Answers, Version, served
from farthing.distill.learn_rows import Answered
from farthing.distill.learn_tools import Lesson, Names
from farthing.distill.linear import train_linear
from farthing.distill.promotion import Slot
from farthing.ledger.config import LedgerConfig
from farthing.ledger.entries import insert_row
from farthing.ledger.feedback import Feedback, insert_feedback
from farthing.ledger.opening import open_database, transaction
from farthing.ledger.reader import open_reader
from farthing.ledger.traffic import Traffic, insert_traffic
from farthing.models.linear import Linear
from farthing.router.reloading import ROUTER_FILE
from farthing.router.trained import Trained
from tests.report.ledger_rows import row

__all__ = ["INTENTS", "LARGE_PICO", "SMALL_PICO", "Killed", "LinearStudent", "LinearTools", "World", "texts_of"]

LARGE_PICO, SMALL_PICO = 90_000_000, 1_000_000
INTENTS = ("balance", "card lost", "exchange rate", "pin change", "top up", "transfer")
NUM_WORDS, NUM_COMMON = 300, 30


class Killed(BaseException):
    """What no stage can catch."""


def texts_of(num: int, seed: int) -> list[tuple[str, str]]:
    """(text, intent): two or three words of the intent among words of all."""
    rng = np.random.default_rng(seed)
    found = []
    for intent in rng.choice(len(INTENTS), num):
        own = [f"w{intent}x{word}" for word in rng.integers(0, NUM_WORDS, int(rng.integers(1, 4)))]
        common = [f"c{word}" for word in rng.choice(NUM_COMMON, 4)]
        words = rng.permutation([*own, *common])
        found.append((" ".join(map(str, words)), INTENTS[intent]))
    return found


class LinearStudent:
    def __init__(self, folder: Path) -> None:
        self.labels = tuple(json.loads((folder / "labels.json").read_text()))
        with np.load(folder / "linear.npz") as arrays:
            self._linear = Linear(arrays["idf"], arrays["weights"], arrays["offsets"])
        self.folder, self.size = folder, len(self.labels)

    def answer(self, texts: Sequence[str]) -> Answers:
        chances = np.maximum(self._linear.probabilities(texts).astype(np.float64), 1e-12)
        order = np.argsort(-chances, axis=1)[:, :2]
        first, second = (np.log(np.take_along_axis(chances, order[:, [at]], 1)[:, 0]) for at in (0, 1))
        return Answers(tuple(self.labels[i] for i in order[:, 0]), first, first - second, SMALL_PICO / 1e12)


@dataclass
class LinearTools:
    """kill: called with the name of each moment."""

    kill: Callable[[str], None] = lambda _: None
    lessons: list[Lesson] = field(default_factory=list)

    def train(self, lesson: Lesson, out: Path, work: Path) -> None:
        self.kill("before training")
        self.lessons.append(lesson)
        work.mkdir(parents=True, exist_ok=True)
        self.kill("in training")
        numbers = np.array([lesson.labels.index(one.answer) for one in lesson.rows], np.int64)
        linear = train_linear([one.prompt for one in lesson.rows], numbers, len(lesson.labels))
        beside = out.with_name("beside")
        beside.mkdir(exist_ok=True)
        np.savez(beside / "linear.npz", idf=linear.idf, weights=linear.weights, offsets=linear.offsets)
        (beside / "labels.json").write_text(json.dumps(lesson.labels))
        self.kill("before the candidate is whole")
        beside.rename(out)
        self.kill("after training")

    def start_labels(self) -> tuple[str, ...]:
        return ()

    def open(self, folder: Path) -> LinearStudent:
        return LinearStudent(folder)

    def pico(self, seconds: float) -> float:
        return seconds * 1e12


class World:
    def __init__(self, folder: Path, **settings: object) -> None:
        given = {"min_rows": 100, "bound": 0.06, **settings}
        self.config = LearnConfig("intents", folder / "slot", "nothing", **given)  # type: ignore[arg-type]
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self.tools = LinearTools()
        self.told: list[str] = []
        self.trusted: list[Answered] = []
        self._num, self._at_us = 0, 1_000_000
        self._folder, self._settings = folder, given
        self._database = open_database(LedgerConfig(url=self.url))
        self.slot = Slot(self.config.slot)

    def copy(self, folder: Path) -> "World":
        """The same ledger and slot, apart."""
        self._database.close()
        shutil.copytree(self._folder, folder, dirs_exist_ok=True)
        self._database = open_database(LedgerConfig(url=self.url))
        made = World(folder, **self._settings)
        made._num, made._at_us = self._num, self._at_us
        return made

    @property
    def loop(self) -> Loop:
        names = Names("small", ("student", "large"))
        return Loop(self.config, names, self.tools, self.trusted, self.told.append, lambda: self._at_us + SETTLE_US + 1)

    def learn(self) -> Outcome:
        with open_reader(self.url) as reader:
            return self.loop.run(reader)

    def version(self) -> Version | None:
        name = self.slot.current
        if name is None:
            return None
        folder = self.slot.version(name)
        return Version(folder, self.tools.open(folder), Trained.load(folder / ROUTER_FILE))

    def serve(
        self,
        num: int,
        seed: int,
        lie: Callable[[str, str], str] = lambda _, intent: intent,
        score: Callable[[str, str, str], float | None] = lambda *_: None,
        large_pico: int | None = LARGE_PICO,
    ) -> tuple[float, float]:
        """Requests answered as the server would; (pico-dollars of a request, share answered rightly). lie: what the
        large model says; score: the feedback on (text, intent, answer)."""
        asked, version = texts_of(num, seed), self.version()
        found = None if version is None else served(version, [text for text, _ in asked])
        costs, num_right = [], 0
        with transaction(self._database):
            for at, (text, intent) in enumerate(asked):
                is_kept = found is not None and bool(found.is_kept[at])
                answer = found.answers.labels[at] if found is not None and is_kept else lie(text, intent)
                costs.append(self._write(text, answer, large_pico, has_draft=found is not None, is_kept=is_kept))
                num_right += answer == intent
                said = score(text, intent, answer)
                if said is not None:
                    insert_feedback(self._database, self._request_id, None, Feedback(score=said))
        return float(np.mean(costs)), num_right / num

    @property
    def _request_id(self) -> str:
        return f"q{self._num:09}"

    def _write(self, text: str, answer: str, large_pico: int | None, *, has_draft: bool, is_kept: bool) -> float:
        self._num += 1
        self._at_us += 1000
        base = replace(row(0), request_id=self._request_id, key_id=None, asked_model="intents", started_us=self._at_us)
        total = 0
        if has_draft:
            status = "ok" if is_kept else "discarded"
            total += SMALL_PICO
            small = {"upstream": "small", "served_model": "student", "cost_pico": SMALL_PICO, "status": status}
            insert_row(self._database, replace(base, id=f"{self._request_id}a", **small))  # type: ignore[arg-type]
        if not is_kept:
            total += large_pico or 0
            large = {"upstream": "large", "served_model": "large", "cost_pico": large_pico, "attempt": int(has_draft)}
            insert_row(self._database, replace(base, id=f"{self._request_id}b", **large))  # type: ignore[arg-type]
        served_by = "student" if is_kept else "large"
        insert_traffic(
            self._database, Traffic(self._request_id, text, served_by, answer), self._at_us, 10**6, self._num
        )
        return float(total)
