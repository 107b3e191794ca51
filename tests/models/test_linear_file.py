"""linear.npz: what is read is bit for bit what was written, and damage is told."""

import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from farthing.errors import CorruptModel, ModelNotFound
from farthing.models.linear import NUM_COLUMNS
from farthing.models.linear_file import read_linear, write_linear
from tests.engine.cascades import KNOWN, LABELS, linear_of

NUM = len(LABELS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_linear(tmp_path / "linear.npz", linear_of())
    return tmp_path / "linear.npz"


def test_all_bits_come_back_and_zeros_take_no_room(path: Path) -> None:
    linear, found = linear_of(), read_linear(path, NUM)
    for name in ("idf", "weights", "offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(linear, name))
    texts = [*KNOWN, "words that nobody has seen", ""]
    np.testing.assert_array_equal(found.log_probabilities(texts), linear.log_probabilities(texts))
    assert path.stat().st_size < linear.weights.nbytes / 20
    with np.load(path) as arrays:
        assert 0 < len(arrays["columns"]) < NUM_COLUMNS / 20


def test_the_same_model_is_the_same_file(path: Path, tmp_path: Path) -> None:
    write_linear(tmp_path / "again.npz", read_linear(path, NUM))
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_damaged_files_are_told(path: Path) -> None:
    whole = path.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:-30], b"\x93NUMPY" + whole):
        path.write_bytes(damaged)
        with pytest.raises(CorruptModel, match=r"damaged|no linear model"):
            read_linear(path, NUM)
    for at in range(0, len(whole), 997):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with suppress(CorruptModel):
            assert read_linear(path, NUM).offsets.shape == (NUM,)
    with pytest.raises(ModelNotFound):
        read_linear(path.with_name("none.npz"), NUM)
    with pytest.raises(ModelNotFound):
        read_linear(path.parent, NUM)


def changed(path: Path, **arrays: object) -> None:
    with np.load(path) as found:
        kept = {name: found[name] for name in found} | arrays
    np.savez(path, **{name: array for name, array in kept.items() if array is not None})


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"offsets": None}, "it needs the arrays"),
        ({"more": np.zeros(1)}, "it needs the arrays"),
        ({"offsets": np.zeros(7, np.float32)}, "is of 7 labels, 5 are needed"),
        ({"idf": np.zeros(3, np.float32)}, "do not fit"),
        ({"idf": np.zeros(3)}, "idf is float64"),
        ({"weights": np.zeros(5, np.float32)}, "weights is float32"),
        ({"columns": np.array([5, 5], np.int32), "idf": np.zeros(2, np.float32),
          "weights": np.zeros((2, 5), np.float32)}, "ascend"),
        ({"columns": np.array([-1], np.int32), "idf": np.zeros(1, np.float32),
          "weights": np.zeros((1, 5), np.float32)}, "ascend"),
        ({"columns": np.array([1 << 30], np.int32), "idf": np.zeros(1, np.float32),
          "weights": np.zeros((1, 5), np.float32)}, "ascend"),
        ({"offsets": np.full(5, np.nan, np.float32)}, "not finite"),
        ({"offsets": np.array([{}] * 5, object)}, "damaged"),
    ],
)  # fmt: skip
def test_foreign_files_are_told(path: Path, arrays: dict[str, object], said: str) -> None:
    changed(path, **arrays)
    with pytest.raises(CorruptModel, match=said):
        read_linear(path, NUM)


def test_an_archive_of_other_things(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("columns.npy", b"no array")
    with pytest.raises(CorruptModel, match="no linear model"):
        read_linear(path, NUM)
