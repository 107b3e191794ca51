"""What a slot serves, and when that is something else."""

import os

import pytest

from farthing.errors import CorruptModel
from farthing.models.slot import resolve, stamp


def test_a_slot_without_a_version_serves_nothing_yet(tmp_path):
    (tmp_path / "versions").mkdir()
    assert resolve(tmp_path) is None


def test_current_names_the_version(tmp_path):
    (tmp_path / "versions" / "0001").mkdir(parents=True)
    before = stamp(tmp_path)
    (tmp_path / "current").write_text("versions/0001\n")
    assert resolve(tmp_path) == tmp_path / "versions" / "0001"
    first = stamp(tmp_path)
    assert first != before
    assert stamp(tmp_path) == first
    (tmp_path / "current").write_text("versions/0002\n")
    assert stamp(tmp_path) != first


def test_what_is_no_slot_is_served_itself(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"a")
    assert resolve(file) == file
    first = stamp(file)
    beside = tmp_path / "beside"
    beside.write_bytes(b"bc")
    os.replace(beside, file)
    assert stamp(file) != first
    file.unlink()
    assert stamp(file) == ("none",)


def test_a_link_that_points_elsewhere_is_a_change(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("one")
    first = stamp(link)
    link.unlink()
    link.symlink_to("two")
    assert stamp(link) != first


@pytest.mark.parametrize("line", ["", "/etc", "../elsewhere", "versions/../../up"])
def test_current_must_stay_inside(tmp_path, line):
    (tmp_path / "current").write_text(line + "\n")
    with pytest.raises(CorruptModel, match="versions/0001"):
        resolve(tmp_path)
