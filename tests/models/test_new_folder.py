"""A folder that appears whole, also in the place of another."""

from pathlib import Path

import pytest

from farthing.errors import InvalidRequest
from farthing.models.new_folder import new_folder


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


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    dead = 1 << 22  # above every process id
    for name in (f".out.{dead}.part", f".out.old.{dead}.part"):
        (tmp_path / name).mkdir()
    write(tmp_path / "out", "a", is_replaced=True)
    assert names(tmp_path) == ["out"]
