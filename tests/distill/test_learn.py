"""The loop with linear students: it gets cheaper at held quality, poison is not promoted, a kill loses nothing."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farthing.distill import learn, promotion
from farthing.distill.learn_compare import both
from farthing.distill.learn_doubt import Doubt
from farthing.distill.learn_gate import decide
from farthing.distill.learn_judge import Answers, Costs
from farthing.distill.learn_rows import Answered, read_rows
from farthing.distill.learn_state import Memory, Run
from farthing.distill.promotion import Slot
from farthing.errors import CorruptModel, InvalidRequest
from farthing.report.learn_history import Event
from tests.distill.learn_world import INTENTS, LARGE_PICO, Killed, LinearStudent, World, texts_of

NUM = 1500
Lie = Callable[[str, str], str]


def flipped(share: float) -> Lie:
    rng = random.Random(1)
    return lambda _, intent: rng.choice(INTENTS) if rng.random() < share else intent


def turned(_: str, intent: str) -> str:
    """All of one intent answered as another."""
    return INTENTS[1] if intent == INTENTS[0] else intent


def event_of(world: World) -> Event:
    event = world.learn().event
    assert event is not None
    return event


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which one version serves."""
    world = World(tmp_path_factory.mktemp("taught"))
    world.serve(NUM, seed=100)
    assert event_of(world).kind == "promoted"
    return world


def test_it_gets_cheaper_round_by_round_at_held_quality(taught: World, tmp_path: Path) -> None:
    world = taught.copy(tmp_path)
    costs, rights = [float(LARGE_PICO)], []
    for number in range(2):
        cost, right = world.serve(NUM, seed=101 + number)
        costs.append(cost)
        rights.append(right)
        world.learn()
    cost, right = world.serve(NUM, seed=99)
    assert costs == sorted(costs, reverse=True)
    assert cost < LARGE_PICO / 3
    assert min(*rights, right) > 1 - world.config.bound
    events = world.slot.history()
    assert [event.run for event in events] == [1, 2, 3]
    for event in events:
        if event.kind == "promoted":
            assert event.after is not None
            assert event.before is not None
            assert event.low is not None
            assert event.after.cost_pico < event.before.cost_pico
            assert event.low >= -world.config.bound
    assert not list((world.config.slot / "runs").iterdir())


@pytest.mark.parametrize("lie", [flipped(0.3), turned])
def test_poison_is_not_promoted_and_teaches_nothing(taught: World, tmp_path: Path, lie: Lie) -> None:
    world = taught.copy(tmp_path)
    before = read_rows(world.config.slot / "rows.jsonl")
    world.serve(NUM, seed=101, lie=lie)
    event = event_of(world)
    assert event.kind == "refused"
    assert event.version == world.slot.current == "0001"
    assert event.reasons
    assert world.tools.lessons == [], "nothing was trained for it"
    assert read_rows(world.config.slot / "rows.jsonl") == before
    assert read_rows(world.config.slot / "waiting.jsonl") == []
    assert len(read_rows(world.config.slot / "refused" / "0002.jsonl")) > 1000


def test_wrong_answers_that_are_praised_are_poison_too(taught: World, tmp_path: Path) -> None:
    """Feedback calls what the small model got wrong right, and what the large model got right wrong."""
    world = taught.copy(tmp_path)
    world.serve(NUM, seed=101, score=lambda _, intent, answer: 1.0 if intent != answer else 0.0)
    outcome = world.learn()
    assert outcome.event is None, "what is said to be wrong teaches nothing"
    assert any("said to be wrong" in line for line in outcome.told)
    assert world.slot.current == "0001"


def test_a_poisoned_student_would_be_caught_by_the_gate(
    taught: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second door, where the first is left open."""
    monkeypatch.setattr(learn, "doubted", lambda *_: Doubt(0, ()))
    world = taught.copy(tmp_path)
    world.serve(NUM, seed=101, lie=flipped(0.6))
    event = event_of(world)
    assert event.kind != "promoted"
    assert world.slot.current == "0001"
    assert len(world.tools.lessons) == 1


def test_too_little_new_waits_and_nothing_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path, min_rows=300, bound=0.3)
    with pytest.raises(InvalidRequest, match="stored_prompts = true"):
        world.learn()
    world.serve(200, seed=1)
    outcome = world.learn()
    assert outcome.event is None
    assert any("min_rows" in line for line in outcome.told)
    world.serve(200, seed=2)
    assert event_of(world).run == 1
    assert len(world.tools.lessons[0].rows) > 200, "rows of the first time are among them"


def test_rows_of_a_run_that_came_to_nothing_teach_again(tmp_path: Path) -> None:
    world = World(tmp_path, bound=0.001)
    world.serve(300, seed=1)
    assert event_of(world).kind == "kept"
    assert read_rows(world.config.slot / "rows.jsonl") == []
    first = len(read_rows(world.config.slot / "waiting.jsonl"))
    assert first > 250
    world.serve(300, seed=2)
    assert event_of(world).run == 2
    assert len(read_rows(world.config.slot / "waiting.jsonl")) > first + 250


def test_trusted_rows_teach_and_are_not_collected_again(tmp_path: Path) -> None:
    world = World(tmp_path, bound=0.3)
    world.trusted = [Answered(text, intent, "given") for text, intent in texts_of(NUM, seed=7)]
    world.serve(NUM, seed=7, lie=turned)  # the same texts: what was checked counts
    outcome = world.learn()
    assert outcome.event is None
    assert outcome.batch.rows == ()
    world.serve(500, seed=8, lie=turned)
    assert event_of(world).kind == "refused", "trusted rows find the poison of the very first batch"


def test_checked_answers_are_read_as_the_labels_that_they_name(taught: World, tmp_path: Path) -> None:
    world = taught.copy(tmp_path)
    world.trusted = [Answered(text, f"{intent.title()}.", "given") for text, intent in texts_of(400, seed=7)]
    world.serve(NUM, seed=101)
    assert event_of(world).num_taught > NUM
    assert set(world.tools.lessons[0].labels) == set(INTENTS)
    assert {row.answer for row in world.tools.lessons[0].rows} == set(INTENTS)


def test_a_checked_answer_that_names_no_label_is_told_before_a_run_begins(tmp_path: Path) -> None:
    world = World(tmp_path, labels=INTENTS)
    world.trusted = [Answered("where is it", "balance", "given"), Answered("what is it", "refund", "given")]
    world.serve(200, seed=1)
    with pytest.raises(InvalidRequest, match="'refund' to 'what is it' names none of the labels"):
        world.learn()
    assert not (world.config.slot / "runs").exists()


def test_after_a_run_that_was_kept_only_new_rows_begin_another(tmp_path: Path) -> None:
    world = World(tmp_path, bound=0.001)
    world.serve(300, seed=1)
    assert event_of(world).kind == "kept"
    outcome = world.learn()
    assert outcome.event is None
    assert any(line.startswith("0 new rows; a run begins with 100") for line in outcome.told)
    world.serve(50, seed=2)
    assert world.learn().event is None
    world.serve(60, seed=3)
    assert event_of(world).run == 2


def test_requests_of_kept_runs_are_priced_again(taught: World, tmp_path: Path) -> None:
    """Or a run of few requests would never be told whether a version is cheaper."""
    state = Memory(taught.config.slot).state()
    assert state.priced_since_us == state.until_us > 0, "a version that serves is priced on what comes from then on"
    world = World(tmp_path, bound=0.001)
    for seed, num_prompts in ((1, 300), (2, 600)):
        world.serve(300, seed=seed)
        outcome = world.learn()
        assert outcome.event is not None
        assert outcome.event.kind == "kept"
        assert (len(outcome.batch.prompts), outcome.batch.spent.num_requests) == (num_prompts, 300)
    assert Memory(world.config.slot).state().priced_since_us == 0


def test_no_request_to_price_is_a_reason_to_wait(
    taught: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "priced", lambda _: [])
    world = taught.copy(tmp_path)
    world.serve(NUM, seed=101)
    event = event_of(world)
    assert event.kind == "kept"
    assert "0 requests say nothing of the cost" in " ".join(event.reasons)


def promoting(folder: Path) -> World:
    world = World(folder, bound=0.3)
    world.serve(600, seed=1)
    return world


MOMENTS = [(Run, "write_doubt"), (Run, "write_event"), (Slot, "promote"), (Memory, "write_rows"),
           (Memory, "write_waiting"), (Memory, "write_state"), (Run, "delete")]  # fmt: skip
IN_TRAINING = ["before training", "in training", "before the candidate is whole", "after training"]


@pytest.fixture(scope="module")
def unhindered(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
    """(before the run, after it)."""
    world = promoting(tmp_path_factory.mktemp("before"))
    after = world.copy(tmp_path_factory.mktemp("after"))
    assert event_of(after).kind == "promoted"
    return world, after


def remembered(world: World) -> Any:
    memory = Memory(world.config.slot)
    return memory.state(), memory.rows(), memory.waiting(), world.slot.current, world.slot.history()


def check_second_run(world: World, after: World) -> None:
    """It goes on, and ends as if nothing had happened."""
    world.learn()
    assert remembered(world) == remembered(after)
    assert world.version() is not None
    assert not list((world.config.slot / "runs").iterdir())


@pytest.mark.parametrize("moment", IN_TRAINING)
def test_a_kill_while_training(unhindered: tuple[World, World], tmp_path: Path, moment: str) -> None:
    before, after = unhindered
    world = before.copy(tmp_path)

    def kill(name: str) -> None:
        if name == moment:
            raise Killed

    world.tools.kill = kill
    with pytest.raises(Killed):
        world.learn()
    assert world.slot.current is None
    world.tools.kill = lambda _: None
    check_second_run(world, after)
    assert len(world.tools.lessons) == (1 if moment in ("before training", "after training") else 2)


@pytest.mark.parametrize(("kind", "name"), MOMENTS)
@pytest.mark.parametrize("is_after", [False, True])
def test_a_kill_between_two_steps(
    unhindered: tuple[World, World],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    name: str,
    is_after: bool,
) -> None:
    before, after = unhindered
    world, real = before.copy(tmp_path), getattr(kind, name)

    def killed(*arguments: Any) -> None:
        if is_after:
            real(*arguments)
        raise Killed

    monkeypatch.setattr(kind, name, killed)
    with pytest.raises(Killed):
        world.learn()
    monkeypatch.undo()
    check_second_run(world, after)


def test_a_rollback_between_a_kill_and_the_second_run(taught: World, tmp_path: Path) -> None:
    world = taught.copy(tmp_path)
    world.serve(NUM, seed=101)

    def kill(name: str) -> None:
        if name == "in training":
            raise Killed

    world.tools.kill = kill
    with pytest.raises(Killed):
        world.learn()
    with pytest.raises(InvalidRequest, match="it is the first one"):
        world.loop.rollback()
    assert world.slot.current == "0001"


def killed_at(world: World, monkeypatch: pytest.MonkeyPatch, kind: Any, name: str) -> None:
    """A run that ends where it calls that."""

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, kill)
        with pytest.raises(Killed):
            world.learn()


@pytest.fixture
def second(taught: World, tmp_path: Path) -> World:
    """A world in which a second version is about to be promoted."""
    world = taught.copy(tmp_path)
    world.serve(NUM, seed=101)
    return world


@pytest.mark.parametrize("name", ["write_rows", "write_waiting", "write_state"])
def test_a_run_that_goes_on_does_not_undo_a_rollback(second: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = Memory(second.config.slot).rows()
    killed_at(second, monkeypatch, Memory, name)
    assert second.slot.current == "0002"
    second.loop.rollback()
    event = event_of(second)
    assert (event.kind, event.version, second.slot.current) == ("refused", "0001", "0001")
    assert event.reasons == ("version 0002 was rolled back before its run had ended",)
    assert Memory(second.config.slot).rows() == before
    assert Memory(second.config.slot).waiting() == []
    assert len(read_rows(second.config.slot / "refused" / "0002.jsonl")) > 500
    assert second.learn().event is None, "its traffic is done with"
    assert Memory(second.config.slot).state().run == 2


def test_a_rollback_where_the_run_was_killed_before_it_told_of_the_promotion(
    second: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(second, monkeypatch, promotion, "add_event")
    assert second.slot.current == "0002"
    assert (second.loop.rollback().replaced, second.slot.current) == ("0002", "0001")
    assert event_of(second).kind == "refused"


def test_a_version_that_no_run_told_of_has_nothing_before_it(second: World, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(second, monkeypatch, promotion, "add_event")
    shutil.rmtree(second.config.slot / "runs")
    with pytest.raises(InvalidRequest, match=r"history\.jsonl does not say what it replaced"):
        second.loop.rollback()


@pytest.mark.parametrize(("kind", "name"), [(Slot, "_serve"), (promotion, "add_event"), (Memory, "write_state")])
def test_a_run_whose_folder_is_deleted_begins_anew(
    second: World, monkeypatch: pytest.MonkeyPatch, kind: Any, name: str
) -> None:
    """Wherever it was killed: what it left in versions/ is in nobody's way."""
    killed_at(second, monkeypatch, kind, name)
    present = second.slot.current
    shutil.rmtree(second.config.slot / "runs")
    second.serve(NUM, seed=102)
    event = event_of(second)
    assert (event.run, event.replaced) == (3, present)
    assert second.version() is not None


def test_a_run_that_is_judged_again_after_a_rollback(second: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its candidate is in versions/ already, and never served."""
    assert event_of(second).kind == "promoted"
    second.serve(NUM, seed=102)
    second.serve(NUM, seed=103)
    killed_at(second, monkeypatch, Slot, "_serve")
    second.loop.rollback()
    event = event_of(second)
    assert (event.run, event.replaced) == (3, "0001")
    assert event.kind != "promoted" or second.slot.current == "0003"


def test_what_taught_a_version_that_was_rolled_back_teaches_no_other(second: World) -> None:
    before = Memory(second.config.slot).rows()
    assert event_of(second).kind == "promoted"
    assert len(Memory(second.config.slot).rows()) > len(before) + 500
    second.loop.rollback()
    assert Memory(second.config.slot).rows() == before
    assert len(read_rows(second.config.slot / "refused" / "0002.jsonl")) > 500


def test_a_refused_batch_leaves_what_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, bound=0.001)
    world.serve(300, seed=1)
    assert event_of(world).kind == "kept"
    waiting = Memory(world.config.slot).waiting()
    monkeypatch.setattr(learn, "doubted", lambda *_: Doubt(0, (), "it contradicts"))
    world.serve(300, seed=2, lie=flipped(0.5))
    assert event_of(world).kind == "refused"
    assert Memory(world.config.slot).waiting() == waiting
    assert len(read_rows(world.config.slot / "refused" / "0002.jsonl")) > 250
    world.serve(300, seed=3)
    assert event_of(world).kind == "refused"
    assert Memory(world.config.slot).waiting() == [], "a second time it may be what waits that does the harm"


def test_no_more_rows_may_be_held_out_than_were_from_a_version_that_serves(taught: World, tmp_path: Path) -> None:
    world = taught.copy(tmp_path)
    world.serve(NUM, seed=101)
    world.config = replace(world.config, held_out=0.4)
    with pytest.raises(InvalidRequest, match=r"held_out is 0\.4; .* give 0\.3 or less"):
        world.learn()
    world.config = replace(world.config, held_out=0.25)
    assert event_of(world).kind == "promoted"
    assert Memory(world.config.slot).state().held_out == 0.25


def test_a_run_keeps_the_share_that_it_began_with(second: World) -> None:
    def kill(name: str) -> None:
        if name == "after training":
            raise Killed

    second.tools.kill = kill
    with pytest.raises(Killed):
        second.learn()
    second.config = replace(second.config, held_out=0.1)
    event_of(second)
    assert Memory(second.config.slot).state().held_out == 0.3


def test_what_was_measured_of_models_of_one_size_is_no_difference(
    second: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same student and router, a little faster by chance: not shown to be cheaper."""
    seconds = iter([0.9e-6] * 50)

    def answer(self: LinearStudent, texts: Sequence[str]) -> Answers:
        return replace(real(self, texts), seconds=next(seconds) if "candidate" in str(self.folder) else 1e-6)

    real = LinearStudent.answer
    monkeypatch.setattr(LinearStudent, "answer", answer)
    present = second.version()
    assert present is not None
    new = replace(present, student=LinearStudent(present.folder))
    new.student.folder = Path("candidate")  # type: ignore[attr-defined]
    rows = [Answered(text, intent, "given") for text, intent in texts_of(400, seed=5)]
    judged, _, _ = both(present, new, rows, set(), [row.prompt for row in rows], lambda s: Costs(s * 1e12, LARGE_PICO))
    assert (judged.cost_after == judged.cost_before).all()
    assert any("not shown to be cheaper" in reason for reason in decide(judged, 0.06).reasons)


def test_labels_of_the_start_that_answers_cannot_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    monkeypatch.setattr(world.tools, "start_labels", lambda: ("+", "-"))
    world.serve(200, seed=1)
    with pytest.raises(InvalidRequest, match="labels of start 'nothing'"):
        world.learn()
    assert not (world.config.slot / "runs").exists()


def test_a_large_model_without_a_price_is_told_before_the_training(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(200, seed=1, large_pico=None)
    with pytest.raises(InvalidRequest, match="give one in the price file"):
        world.learn()
    assert world.tools.lessons == []
    assert not (world.config.slot / "runs").exists()


def test_a_slot_that_others_have_written_in(tmp_path: Path) -> None:
    world = promoting(tmp_path)
    (world.config.slot / "state.json").write_text("[]")
    with pytest.raises(CorruptModel, match=r"state\.json"):
        world.learn()
    (world.config.slot / "state.json").write_text('{"what": 1}')
    with pytest.raises(CorruptModel, match=r"state\.json"):
        world.learn()
    (world.config.slot / "state.json").unlink()
    (world.config.slot / "waiting.jsonl").write_text('{"prompt": 1}\n')
    with pytest.raises(CorruptModel, match=r"waiting\.jsonl"):
        world.learn()


def test_forget_deletes_every_text(taught: World, tmp_path: Path) -> None:
    world = taught.copy(tmp_path)
    for name in (".rows.jsonl.x1", ".waiting.jsonl.x2"):  # what a kill in the middle of a file leaves
        (world.config.slot / name).write_text("a text")
    assert Memory(world.config.slot).forget() > 1000
    assert Memory(world.config.slot).rows() == []
    assert not list(world.config.slot.glob(".*"))
    assert world.version() is not None
    world.serve(NUM, seed=101)
    assert event_of(world).run == 2, "what comes after it teaches as ever"


def test_forget_says_what_it_could_not_delete(taught: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = taught.copy(tmp_path)
    (world.config.slot / "refused").mkdir()

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(InvalidRequest, match="refused: cannot be deleted"):
        Memory(world.config.slot).forget()
