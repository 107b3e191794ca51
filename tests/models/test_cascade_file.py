"""cascade.json: it comes back as it was written, and what cannot be is told with what to do."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from farthing.errors import CorruptModel, InvalidRequest, ModelNotFound, UnsupportedModel
from farthing.models import load_model
from farthing.models.cascade_file import Point, read_cascade
from farthing.models.hub import CASCADE_FILE, find_model, is_cascade
from tests.engine.cascades import POINTS, cascade_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / CASCADE_FILE).write_text(cascade_file().json(), encoding="utf-8")
    return tmp_path


def test_it_comes_back(folder: Path) -> None:
    found = read_cascade(folder)
    assert found == cascade_file()
    assert found.point("cheapest") == POINTS["cheapest"]
    with pytest.raises(InvalidRequest, match="point is 'dearest'; allowed: best, cheapest"):
        found.point("dearest")
    nothing = Point(((), (0.5,)), (None,))
    (folder / CASCADE_FILE).write_text(cascade_file(POINTS | {"best": nothing}).json(), encoding="utf-8")
    assert read_cascade(folder).points["best"] == nothing


def test_a_cascade_with_a_single_gguf_is_not_that_gguf(folder: Path) -> None:
    (folder / "student.gguf").write_bytes(b"GGUF")
    assert is_cascade(folder)
    assert find_model(folder) == folder
    with pytest.raises(UnsupportedModel, match="holds a cascade: farthing classify"):
        load_model(folder)
    (folder / CASCADE_FILE).unlink()
    assert find_model(folder) == folder / "student.gguf"


def stages(*paths: str) -> list[dict[str, str]]:
    return [{"name": path, "path": path} for path in paths]


def point(weights: Any, thresholds: Any, **more: Any) -> dict[str, Any]:
    both = {"weights": weights, "thresholds": thresholds, "accuracy": 1.0, "seconds_per_request": 1e-4} | more
    return {"best": both, "cheapest": both}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"version": 2}, "version 2; this program reads 1: write the folder anew"),
        ({"version": None}, "version is missing"),
        ({"labels": ["a"]}, "two or more"),
        ({"labels": ["a", "a"]}, "needs a name of its own"),
        ({"labels": "ab"}, "labels is 'ab'"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"max_tokens": "8"}, "max_tokens is '8'"),
        ({"stages": stages("a.npz")}, "stages"),
        ({"stages": stages("a", "b")}, "a linear model"),
        ({"stages": stages("a.npz", "b.npz")}, "a linear model"),
        ({"stages": [{"name": "a", "path": "a.npz"}, {"name": "a", "path": "b"}]}, "different names"),
        ({"stages": [*stages("a.npz"), {"name": "b"}]}, "path is missing"),
        ({"stages": ["a.npz", "b"]}, "objects with name and path"),
        ({"stages": stages("a.npz", "/etc/b")}, "a path within the folder"),
        ({"stages": stages("a.npz", "../b")}, "a path within the folder"),
        ({"stages": stages("a.npz", "")}, "a path within the folder"),
        ({"stages": stages("a.npz", "\ud800")}, "a path within the folder"),
        ({"points": {}}, "an object with best, cheapest"),
        ({"points": point(None, [])}, "weights of 1 to 3 stages"),
        ({"points": point([], [])}, "weights of 1 to 3 stages"),
        ({"points": point([[], [0.1], [0.1, 0.1], [0.1] * 3], [0.5] * 3)}, "weights of 1 to 3 stages"),
        ({"points": point([[], [0.1, 0.2]], [0.5])}, "for each earlier stage"),
        ({"points": point([[], [-0.1]], [0.5])}, "for each earlier stage"),
        ({"points": point([[], [True]], [0.5])}, "for each earlier stage"),
        ({"points": point([[], ["0.1"]], [0.5])}, "for each earlier stage"),
        ({"points": point([[], [0.1]], [1.5])}, "numbers from 0 to 1"),
        ({"points": point([[], [0.1]], [0.5, 0.5])}, "one for each stage but the last"),
        ({"points": point([[], [0.1]], 0.5)}, "thresholds"),
        ({"points": point([[], [0.1]], [0.5], accuracy="all")}, "accuracy"),
    ],
)
def test_what_cannot_be(folder: Path, keys: dict[str, Any], said: str) -> None:
    path = folder / CASCADE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    with pytest.raises((CorruptModel, InvalidRequest, UnsupportedModel), match=said):
        read_cascade(folder)


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    path = folder / CASCADE_FILE
    whole = path.read_bytes()
    for damaged in (b"", b"[]", b"7", whole[:100], b"\xff" + whole, whole.replace(b"0.5", b"NaN"), b"[" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(CorruptModel, match=CASCADE_FILE):
            read_cascade(folder)
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + whole[at + 1 :])
        with suppress(CorruptModel, InvalidRequest, UnsupportedModel):
            assert read_cascade(folder).labels
    with pytest.raises(ModelNotFound):
        read_cascade(tmp_path / "none")
