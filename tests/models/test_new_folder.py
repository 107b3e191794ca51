"""A folder that appears whole, also in the place of another."""

from pathlib import Path

import pytest

from farthing.errors import InvalidRequest
from farthing.models.new_folder import new_folder

DEAD = 1 << 22  # above every process id


def write(out: Path, text: str, *, is_replaced: bool) -> None:
    with new_folder(out, is_replaced=is_replaced) as part:
        (part / text).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "a", is_replaced=True)
    write(out, "b", is_replaced=True)
    assert names(out) == ["b"]
    assert names(tmp_path) == ["out"]
    with pytest.raises(InvalidRequest, match="exists"):
        write(out, "c", is_replaced=False)
    assert names(out) == ["b"]


def test_where_writing_fails_the_old_one_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "a", is_replaced=True)
    with pytest.raises(OSError, match="name"):
        write(out, "name" * 100, is_replaced=True)
    assert names(out) == ["a"]
    assert names(tmp_path) == ["out"]


def test_where_it_cannot_get_its_name_the_old_one_gets_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "out", Path.replace
    write(out, "a", is_replaced=True)

    def replace(path: Path, target: Path) -> Path:
        if target == out and path.suffix != ".old":
            raise OSError(5, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="Input/output"):
        write(out, "b", is_replaced=True)
    assert (names(out), names(tmp_path)) == (["a"], ["out"])


def test_one_that_a_killed_process_moved_away_comes_back(tmp_path: Path) -> None:
    """Before anything is written: where that fails too, it is not lost."""
    (tmp_path / f".out.{DEAD}.old").mkdir()
    (tmp_path / f".out.{DEAD}.old" / "a").write_text("a")
    with pytest.raises(OSError, match="name"):
        write(tmp_path / "out", "name" * 100, is_replaced=True)
    assert (names(tmp_path / "out"), names(tmp_path)) == (["a"], ["out"])


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in (f".out.{DEAD}.part", f".out.{DEAD}.old"):
        (tmp_path / name).mkdir()
    write(tmp_path / "out", "a", is_replaced=True)
    assert names(tmp_path) == ["out"]
