"""The loop: what the large model answered teaches the small one, which then answers, and less goes up.

    collect -> doubt -> train -> judge -> promote, keep waiting, or refuse

Each stage leaves its result in the run's folder, whole, before the next begins. A run that was killed goes on where it
was; until the last rename of a promotion the old version serves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from farthing.distill.learn_collect import Batch, collect
from farthing.distill.learn_compare import both, priced, with_verdict
from farthing.distill.learn_config import LearnConfig
from farthing.distill.learn_doubt import Doubt, doubted
from farthing.distill.learn_gate import decide
from farthing.distill.learn_judge import Costs, Version, recalibrated, served
from farthing.distill.learn_labels import LabelFinder, are_names, with_answers
from farthing.distill.learn_rows import Answered, merged
from farthing.distill.learn_settle import event_found, set_aside_what_taught, settle
from farthing.distill.learn_state import Memory, Run
from farthing.distill.learn_tools import Lesson, Names, Tools
from farthing.distill.promotion import Slot
from farthing.distill.split import held_out
from farthing.errors import InvalidRequest
from farthing.ledger.ids import now_us
from farthing.ledger.reader import Reader
from farthing.report.learn_history import Event, add_event
from farthing.router.calibrate import Goal
from farthing.router.reloading import ROUTER_FILE
from farthing.router.trained import Trained

__all__ = ["Loop", "Outcome"]

Tell = Callable[[str], None]
SETTLE_US = 2_000_000  # what is younger may not be committed yet: it is left for the next run


@dataclass(frozen=True)
class Outcome:
    """event None: there was too little new to begin a run."""

    event: Event | None
    batch: Batch
    told: tuple[str, ...]


class Loop:
    """trusted: rows that somebody has checked. tell: what happens, for people. clock_us: microseconds since 1970."""

    def __init__(
        self,
        config: LearnConfig,
        names: Names,
        tools: Tools,
        trusted: Sequence[Answered],
        tell: Tell,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._config, self._names, self._tools, self._tell = config, names, tools, tell
        self._trusted, self._clock_us = list(trusted), clock_us
        self._slot, self._memory = Slot(config.slot), Memory(config.slot)

    def run(self, reader: Reader) -> Outcome:
        """One run over what came until now, or what an earlier run left to do. Raises FarthingError."""
        with self._slot.locked():
            run = self._memory.open_run()
            set_aside_what_taught(self._slot, self._memory)
            if run is not None:
                self._tell(f"run {run.number} goes on where it was")
                return self._finished(run, run.batch())
            self._check_held_out()
            batch = self._collected(reader, self._clock_us() - SETTLE_US)
            if batch.num_new < self._config.min_rows:
                few = f"{batch.num_new:,} new rows; a run begins with {self._config.min_rows:,} (min_rows)"
                return Outcome(None, batch, (*batch.told, few))
            self._large_pico(batch)  # told before minutes of training, as is what follows
            self._older(batch)
            return self._finished(self._memory.new_run(batch), batch)

    def rollback(self) -> Event:
        """The version before serves again, and what taught the present one is set aside. Raises InvalidRequest where
        there is none."""
        with self._slot.locked():
            run = self._memory.open_run()
            event = None if run is None else run.event()
            if event is not None and event.kind == "promoted" and event.version == self._slot.current:
                add_event(self._slot.folder, event)  # its run was killed before it had
            back = self._slot.rollback(self._memory.state().run, self._clock_us())
            set_aside_what_taught(self._slot, self._memory)
            return back

    def _check_held_out(self) -> None:
        """Rows that taught a version would judge the next one, were more held out than before."""
        least, share = self._memory.state().held_out, self._config.held_out
        if least is not None and share > least:
            raise InvalidRequest(
                f"learn held_out is {share}; versions in {self._slot.folder} were taught rows that would judge; give"
                f" {least} or less, or a slot of its own"
            )

    def _collected(self, reader: Reader, until_us: int) -> Batch:
        state, memory = self._memory.state(), self._memory
        older = merged(self._trusted, memory.rows())
        known = state.labels or self._start_labels()
        known = with_answers(known, (row.answer for row in self._trusted))
        since_us = state.until_us
        times_us = (min(state.priced_since_us, since_us), since_us, max(since_us, until_us))
        return collect(reader, self._config, self._names.small_upstream, times_us, older, memory.waiting(), known)

    def _start_labels(self) -> tuple[str, ...]:
        labels = self._tools.start_labels()
        if not self._config.labels and not are_names(labels):
            raise InvalidRequest(
                f"the labels of start {self._config.start!r} cannot be told apart in answers:"
                f" {', '.join(map(repr, labels))[:200]}; each needs letters or digits, no two may be alike but for case"
                " and punctuation; give [learn] labels that are"
            )
        return labels

    def _older(self, batch: Batch) -> list[Answered]:
        """What batches before have taught, and what was checked, each with a label of this run. Raises InvalidRequest
        for a checked answer that names none of them."""
        labels = self._memory.labels(batch)
        finder, trusted = LabelFinder(labels), []
        for row in self._trusted:
            label = finder.find(row.answer)
            if label is None:
                raise InvalidRequest(
                    f"{self._config.trusted}: the answer {row.answer[:60]!r} to {row.prompt[:60]!r} names none of the"
                    f" labels: {', '.join(labels)[:200]}; correct it, or add it to [learn] labels"
                )
            trusted.append(replace(row, answer=label))
        return merged(trusted, self._memory.rows())

    def _finished(self, run: Run, batch: Batch) -> Outcome:
        event = event_found(self._slot, run, self._clock_us())
        if event is None:
            event = replace(self._event(run, batch), at_us=self._clock_us())
            run.write_event(event)
        settle(self._slot, self._memory, run, batch, event, self._config.kept_versions)
        doubt = run.doubt()
        run.delete()
        told = [*batch.told, *event.reasons]
        if doubt is not None and doubt.note:
            told.append(doubt.note)
        if doubt is not None and doubt.disputed and not doubt.reason:
            told.append(f"{len(doubt.disputed):,} new rows contradict older ones and taught nothing")
        return Outcome(event, batch, tuple(told))

    def _event(self, run: Run, batch: Batch) -> Event:
        old = self._older(batch)
        doubt = self._doubt(run, batch, old)
        new = _without(batch.rows, doubt.disputed)
        base = Event(run.number, batch.until_us, "refused", self._config.model, self._slot.current, self._slot.current)
        if doubt.reason:
            return replace(base, reasons=(doubt.reason,))
        lesson = self._lesson(batch, old, new)
        if not run.candidate.is_dir():
            self._tell(f"training on {len(lesson.rows):,} rows, {len(lesson.labels)} labels")
            self._tools.train(lesson, run.candidate, run.training)
        return self._judged(run, batch, old, new, replace(base, num_taught=len(lesson.rows)))

    def _doubt(self, run: Run, batch: Batch, old: Sequence[Answered]) -> Doubt:
        found = run.doubt()
        if found is None:
            self._tell(f"{len(batch.rows):,} new rows beside {len(old):,} older ones")
            teaching, judging = _split(old, batch.held_out)
            is_up, most = self._goes_up(judging), self._config.max_disputed
            found = doubted(teaching, judging, is_up, batch.rows, batch.since_us, most)
            run.write_doubt(found)
        return found

    def _lesson(self, batch: Batch, old: Sequence[Answered], new: Sequence[Answered]) -> Lesson:
        rows = _split(merged(old, new), batch.held_out)[0]
        rows = sorted(rows, key=lambda row: (row.source == "given", row.at_us))[-self._config.max_rows :]
        present = self._slot.current
        return Lesson(self._memory.labels(batch), tuple(rows), None if present is None else self._slot.version(present))

    def _judged(self, run: Run, batch: Batch, old: Sequence[Answered], new: Sequence[Answered], base: Event) -> Event:
        """Both versions on the same rows and requests."""
        rows = _split(merged(old, new), batch.held_out)[1]
        texts, references = _texts(rows), [row.answer for row in rows]
        self._tell(f"judging by {len(rows):,} held-out rows")
        student = self._tools.open(run.candidate)
        answers = student.answer(texts)
        large = self._large_pico(batch)

        def costs(seconds: float) -> Costs:
            return Costs(self._tools.pico(seconds), large)

        goal = Goal("quality", self._config.target, self._config.delta)
        try:
            router = recalibrated(self._names.models, costs(answers.seconds), texts, references, answers, goal)
            router.price("cascade")
        except InvalidRequest as error:
            return replace(base, kind="kept", reasons=(f"the router could not be calibrated: {error}",))
        router.save(run.candidate / ROUTER_FILE)
        new_version = Version(run.candidate, student, router)
        present = self._present()
        requests = priced(batch)
        judged, before, after = both(present, new_version, rows, {row.prompt for row in old}, requests, costs)
        verdict = decide(judged, self._config.bound)
        return with_verdict(base, verdict, before, after, len(judged.after))

    def _goes_up(self, rows: Sequence[Answered]) -> list[bool]:
        present = self._present()
        return [True] * len(rows) if present is None else (~served(present, _texts(rows)).is_kept).tolist()

    def _present(self) -> Version | None:
        name = self._slot.current
        if name is None:
            return None
        folder = self._slot.version(name)
        return Version(folder, self._tools.open(folder), Trained.load(folder / ROUTER_FILE))

    def _large_pico(self, batch: Batch) -> float:
        found = batch.spent.large_pico or self._memory.state().large_pico
        if not found:
            raise InvalidRequest(
                f"what an answer of {self._names.models[1]!r} costs is not known: its rows in the ledger have no price;"
                " give one in the price file ([economics] prices)"
            )
        return float(found)


def _texts(rows: Sequence[Answered]) -> list[str]:
    return [row.prompt for row in rows]


def _split(rows: Sequence[Answered], share: float) -> tuple[list[Answered], list[Answered]]:
    """Those that teach, and those that never do."""
    is_out = held_out(_texts(rows), share).tolist()
    pairs = list(zip(rows, is_out, strict=True))
    return [row for row, is_so in pairs if not is_so], [row for row, is_so in pairs if is_so]


def _without(rows: Sequence[Answered], numbers: Sequence[int]) -> list[Answered]:
    left_out = set(numbers)
    return [row for number, row in enumerate(rows) if number not in left_out]
