"""A slot's versions: put in service, taken back, one run at a time, and whole after a kill at any step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farthing.distill.promotion import Slot
from farthing.errors import CorruptModel, InvalidRequest
from farthing.models.slot import version_of
from farthing.report.learn_history import Event, Figures, read_history


def event(run: int, replaced: str | None) -> Event:
    figures = Figures(120_000, 0.97, 0.4)
    return Event(run, 1_000 + run, "promoted", "intents", f"{run:04}", replaced, None, figures, reasons=("cheaper",))


def candidate(slot: Slot, text: str) -> Path:
    folder = slot.folder / "work" / "candidate"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    return folder


def served(slot: Slot) -> str:
    found = version_of(slot.folder)
    assert found is not None
    return (found / "config.json").read_text()


def filled(folder: Path, num: int = 2) -> Slot:
    slot = Slot(folder)
    before = None
    for run in range(1, num + 1):
        slot.promote(candidate(slot, f"v{run}"), event(run, before), num_kept=3)
        before = f"{run:04}"
    return slot


def test_promoted_versions_serve_and_the_old_one_stays(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "slot")
    assert slot.current is None
    slot.promote(candidate(slot, "v1"), event(1, None), num_kept=3)
    assert (slot.current, served(slot)) == ("0001", "v1")
    slot.promote(candidate(slot, "v2"), event(2, "0001"), num_kept=3)
    assert (slot.current, served(slot)) == ("0002", "v2")
    assert (slot.version("0001") / "config.json").read_text() == "v1"
    assert read_history(slot.folder) == [event(1, None), event(2, "0001")] == slot.history()


def test_rollback_and_forward_again(tmp_path: Path) -> None:
    slot = filled(tmp_path)
    back = slot.rollback(3, 5_000)
    assert (slot.current, served(slot)) == ("0001", "v1")
    assert (back.kind, back.version, back.replaced) == ("rolled back", "0001", "0002")
    with pytest.raises(InvalidRequest, match="it is the first one"):
        slot.rollback(4, 6_000)
    slot.promote(candidate(slot, "v5"), event(5, "0001"), num_kept=3)
    assert served(slot) == "v5"
    slot.rollback(6, 7_000)
    assert served(slot) == "v1", "what the present one replaced, not the one that was written before it"


def test_nothing_to_roll_back(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no version serves yet"):
        Slot(tmp_path).rollback(1, 1)
    slot = filled(tmp_path, 3)
    (slot.version("0002") / "config.json").unlink()
    slot.version("0002").rmdir()
    with pytest.raises(InvalidRequest, match="not kept any more"):
        slot.rollback(4, 1)


def test_old_versions_are_deleted_but_not_the_one_before(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    for run in range(1, 6):
        slot.promote(candidate(slot, f"v{run}"), event(run, f"{run - 1:04}" if run > 1 else None), num_kept=2)
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["0003", "0004", "0005"]
    slot.rollback(6, 1)
    slot.promote(candidate(slot, "v7"), event(7, "0004"), num_kept=0)
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["0004", "0007"]


@pytest.mark.parametrize("step", ["replace candidate", "replace current", "replace history.jsonl"])
@pytest.mark.parametrize("is_after", [False, True])
def test_a_kill_at_any_step_leaves_a_version_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, is_after: bool
) -> None:
    class Killed(BaseException):
        pass

    slot = filled(tmp_path, 1)
    folder, real = candidate(slot, "v2"), os.replace
    wanted = step.removeprefix("replace ").replace("candidate", "0002")

    def replace(source: str | Path, target: str | Path) -> None:
        is_it = Path(target).name == wanted
        if is_it and not is_after:
            raise Killed
        real(source, target)
        if is_it:
            raise Killed

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        slot.promote(folder, event(2, "0001"), num_kept=3)
    monkeypatch.undo()
    is_served = (wanted, is_after) in (("current", True), ("history.jsonl", False), ("history.jsonl", True))
    assert served(slot) == ("v2" if is_served else "v1")
    slot.promote(folder, event(2, "0001"), num_kept=3)
    assert served(slot) == "v2"
    assert [one.run for one in slot.history()] == [1, 2], "no event twice"


def test_two_runs_at_once(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    code = f"""
from pathlib import Path
from farthing.distill.promotion import Slot
with Slot(Path({str(tmp_path)!r})).locked():
    print("have it", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "have it\n"
        with pytest.raises(InvalidRequest, match="another farthing learn"), slot.locked():
            pass
        other.kill()
        other.wait(10)
        with slot.locked():
            pass


def test_a_history_that_is_none(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / "history.jsonl").write_text('{"run": 1}\n')
    with pytest.raises(CorruptModel, match="line 1"):
        read_history(tmp_path)


def test_a_slot_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="cannot be made"):
        Slot(tmp_path / "file")
