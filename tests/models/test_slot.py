"""A path that stands for another model later: links, slots, and what is wrong with them."""

import shutil
from pathlib import Path

import pytest

from farthing.errors import CorruptModel, ModelNotFound
from farthing.models import load_model
from farthing.models.hub import find_model
from farthing.models.slot import NoVersion, look, version_of
from tests.models.small import GOLDEN


def slot_of(folder: Path) -> Path:
    for name in ("0001-a", "0002-b"):
        shutil.copytree(GOLDEN / "classifier_llama", folder / "versions" / name)
    return folder


def point(slot: Path, name: str) -> None:
    (slot / "new").write_text(name + "\n")
    (slot / "new").replace(slot / "current")


def test_a_slot_is_its_current_version(tmp_path: Path) -> None:
    slot = slot_of(tmp_path / "slot")
    point(slot, "0001-a")
    first = look(slot)
    assert first.name == "0001-a"
    assert find_model(slot) == slot / "versions" / "0001-a"
    assert load_model(slot).labels
    point(slot, "versions/0002-b")
    assert look(slot).name == "0002-b"
    assert look(slot).key != first.key
    point(slot, "0001-a")
    assert look(slot).key == first.key


def test_a_link_and_a_folder_put_in_its_place(tmp_path: Path) -> None:
    slot = slot_of(tmp_path / "slot")
    link = tmp_path / "link"
    link.symlink_to(slot / "versions" / "0001-a")
    first = look(link)
    link.unlink()
    link.symlink_to(slot / "versions" / "0002-b")
    assert look(link).key != first.key
    plain = shutil.copytree(GOLDEN / "classifier_llama", tmp_path / "plain")
    before = look(plain)
    assert look(plain).key == before.key
    shutil.move(plain, tmp_path / "old")
    shutil.copytree(GOLDEN / "classifier_llama", tmp_path / "plain")
    assert look(plain).key != before.key


def test_without_current_a_folder_is_itself(tmp_path: Path) -> None:
    assert version_of(tmp_path) is None
    (tmp_path / "current").mkdir()
    assert version_of(tmp_path) is None


@pytest.mark.parametrize("written", ["", "\n", "../elsewhere", "/etc", "a\nb", "a/../../b", "a\0b"])
def test_what_is_no_name_of_a_version(tmp_path: Path, written: str) -> None:
    (tmp_path / "current").write_text(written)
    with pytest.raises(CorruptModel, match="one line"):
        look(tmp_path)


def test_a_version_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "current").write_text("0009-z")
    with pytest.raises(ModelNotFound, match="0009-z"):
        look(tmp_path)
    with pytest.raises(ModelNotFound, match="cannot be read"):
        look(tmp_path / "none")


def test_a_version_whose_name_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "current").write_text("x" * 300)
    with pytest.raises(ModelNotFound, match="xxx"):
        version_of(tmp_path)


def test_an_empty_slot(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    with pytest.raises(NoVersion, match="no version yet"):
        look(tmp_path)
