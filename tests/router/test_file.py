"""A router's file that is corrupt, cut, foreign or newer is one line of error, never a traceback or a wrong router."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from farthing.errors import CorruptModel, FarthingError, InvalidRequest, ModelNotFound, UnsupportedModel
from farthing.router.calibrate import Goal
from farthing.router.file import KEY
from farthing.router.train import calibrate, train
from farthing.router.trained import Trained
from tests.router.rows import labelled


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("router") / "router.safetensors"
    found = calibrate(train(labelled(80, seed=1)), labelled(200, seed=2), Goal("share", 0.8), "cascade")
    calibrate(found, labelled(200, seed=2), Goal("cost", 5.0), "route").save(path)
    return path.read_bytes()


def load(tmp_path: Path, data: bytes) -> Trained:
    path = tmp_path / "router.safetensors"
    path.write_bytes(data)
    return Trained.load(path)


def changed(data: bytes, change) -> bytes:
    """The file with its header and document changed in place, lengths kept true."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header["__metadata__"][KEY])
    change(header, document)
    if "__metadata__" in header:
        header["__metadata__"][KEY] = json.dumps(document)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 5_000, -100_000, -1])
def test_cut_anywhere_it_is_corrupt(data: bytes, tmp_path: Path, kept: int) -> None:
    with pytest.raises(CorruptModel, match=r"truncated|corrupt"):
        load(tmp_path, data[:kept])


def test_bytes_after_the_end_are_corrupt(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="1 bytes after the last array"):
        load(tmp_path, data + b"x")


def _delete(name: str):
    return lambda header, document: (header if name in header else document).pop(name)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda _, d: d.update(version=2), UnsupportedModel, "version 2; this farthing reads version 1"),
        (lambda _, d: d.update(version=True), UnsupportedModel, "version True"),
        (lambda h, _: h.pop("__metadata__"), UnsupportedModel, "no router of farthing's"),
        (_delete("models"), CorruptModel, "models is 'None'"),
        (_delete("before.penalty"), CorruptModel, "before.penalty"),
        (lambda _, d: d.update(models=["a", "a"]), CorruptModel, "models are no list"),
        (lambda _, d: d.update(models=["a", "b", "c"]), CorruptModel, "costs is float64 of shape"),
        (lambda _, d: d.update(topic_words=[]), CorruptModel, "topic_words"),
        (lambda _, d: d.update(base_rows=0), CorruptModel, "is no distribution"),
        (lambda _, d: d.update(proven={"else": {}}), CorruptModel, "thresholds for else"),
        (lambda _, d: d["proven"]["route"].update(delta=7), CorruptModel, "delta is 7"),
        (lambda _, d: d["proven"]["route"].update(p_value=None), CorruptModel, "a threshold is"),
        (lambda _, d: d["proven"]["route"].update(price="0"), CorruptModel, "a threshold is"),
        (lambda _, d: d["proven"]["route"].update(price=float("nan")), CorruptModel, "a threshold is"),
        (lambda h, _: h["before.words.idf"].update(dtype="BF16"), CorruptModel, "has dtype BF16"),
        (lambda h, _: h["before.words.idf"].update(shape=[1]), CorruptModel, "its shape 4"),
        (lambda h, _: h["before.words.idf"].update(shape=[-1]), CorruptModel, "not lengths"),
        (lambda h, _: h["before.words.idf"].update(shape="all"), CorruptModel, "not lengths"),
        (lambda h, _: h["before.means"].update(data_offsets=[0, 16]), CorruptModel, "overlap"),
        (lambda h, _: h.update({"before.means": 3}), CorruptModel, "no dtype, shape"),
    ],
)
def test_what_lies_is_named(data: bytes, tmp_path: Path, change, error: type[FarthingError], match: str) -> None:
    with pytest.raises(error, match=match) as raised:
        load(tmp_path, changed(data, change))
    assert "\n" not in str(raised.value)


def test_numbers_that_are_none_are_corrupt(data: bytes, tmp_path: Path) -> None:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    begin, end = header["before.means"]["data_offsets"]
    nan = np.full((end - begin) // 8, np.nan).tobytes()
    with pytest.raises(CorruptModel, match=r"before\.means holds a number that is not finite"):
        load(tmp_path, data[: 8 + length + begin] + nan + data[8 + length + end :])


@pytest.mark.parametrize("foreign", [b"", b"GGUF" + bytes(100), b"{}", bytes(1_000), b"\x02\0\0\0\0\0\0\0{}"])
def test_a_foreign_file_is_refused(tmp_path: Path, foreign: bytes) -> None:
    with pytest.raises((CorruptModel, UnsupportedModel)):
        load(tmp_path, foreign)


def test_bytes_changed_by_chance_never_raise_anything_else(data: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    length = int.from_bytes(data[:8], "little")
    for number in range(150):
        broken = bytearray(data)
        where = int(rng.integers(0, 8 + length)) if number % 2 else int(rng.integers(0, len(data)))
        broken[where] = int(rng.integers(0, 256))
        with suppress(FarthingError):
            found = load(tmp_path, bytes(broken))
            assert np.isfinite(list(found.decide("What is two and two?").quality.values())).all()


def test_a_missing_file_and_a_folder_that_is_not_there(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="cannot be read"):
        Trained.load(tmp_path / "none")
    with pytest.raises(InvalidRequest, match="cannot be written"):
        load(tmp_path, data).save(tmp_path / "none" / "router")
    assert [path.name for path in tmp_path.iterdir()] == ["router.safetensors"]
