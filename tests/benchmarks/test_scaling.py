"""benchmarks/scaling.py: what counts as a cliff, and a small sweep from end to end."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling import BATCHES, CONTEXTS, Setting, Sweep, cliffs, measure, sweeps, table
from farthing.report.roofline import DECODE_STEPS, Work

GOLDEN = str(Path(__file__).parents[1] / "golden" / "llama")


def test_a_straight_line_has_no_cliff_however_the_points_are_spaced() -> None:
    xs = [1, 2, 4, 16, 64]
    assert cliffs(xs, [[3 + 0.5 * x for x in xs]]) == []


def test_a_point_over_its_neighbours_line_is_a_cliff() -> None:
    xs = [0, 10, 40]  # at 10 the line from 1 to 5 says 2
    assert cliffs(xs, [[1, 2.6, 5]]) == [10]
    assert cliffs(xs, [[1, 2.4, 5]]) == []
    assert cliffs(xs, [[1, 2.4, 5]], tolerance=0.1) == [10]
    assert cliffs(xs, [[1, 0.1, 5]]) == []  # faster is no cliff


def test_a_cliff_shows_in_every_run() -> None:
    xs, flat, high = [1, 2, 3], [1.0, 1.0, 1.0], [1.0, 1.5, 1.0]
    assert cliffs(xs, [high, flat]) == []
    assert cliffs(xs, [high, high]) == [2]


def test_the_ends_are_not_judged() -> None:
    assert cliffs([1, 2, 3], [[9.0, 1.0, 9.0]]) == []
    assert cliffs([1, 2], [[1.0, 9.0]]) == []
    assert cliffs([1], [[1.0]]) == []


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=12), st.floats(0.1, 100))
def test_cliffs_do_not_depend_on_the_unit_of_time_up_to_rounding(seconds: list[float], unit: float) -> None:
    xs = list(range(len(seconds)))
    found = set(cliffs(xs, [[unit * s for s in seconds]]))
    assert found <= set(cliffs(xs, [seconds], tolerance=0.25 - 1e-9))
    assert found >= set(cliffs(xs, [seconds], tolerance=0.25 + 1e-9))


def test_the_sweeps_cover_what_they_should() -> None:
    small, long, context = sweeps(64, 8192)
    assert (small.xs, long.xs, context.xs) == (list(BATCHES), list(BATCHES), list(CONTEXTS))
    assert {work.context for work in small.works} == {32}
    assert {work.context for work in long.works} == {512}
    assert {work.batch for work in context.works} == {1}


@pytest.fixture(scope="module")
def document() -> dict:
    works = tuple(Work("decode", batch, 32) for batch in (1, 2, 3))
    told: list[str] = []
    found = measure(Setting(GOLDEN, "f32", "q8", 1), [Sweep("short", "batch", works)], 2, 1, told.append)
    assert told[-2:] == ["run 1 of 2", "run 2 of 2"]
    return found


def test_a_small_sweep(document: dict) -> None:
    [sweep] = document["sweeps"]
    assert [point["batch"] for point in sweep["points"]] == [1, 2, 3]
    for point in sweep["points"]:
        assert len(point["step_s"]) == len(point["limit_s"]) == 2
        assert min(*point["step_s"], *point["limit_s"]) > 0
        tokens = point["batch"] * (32 + DECODE_STEPS)
        assert point["kv_bytes"] == tokens * 2 * 2 * 2 * (16 + 4)  # 2 layers, K and V, 2 heads of 16 codes and a scale
        assert point["kv_bytes"] < point["floor_bytes"] < point["peak_bytes"]
    assert document["kv"] == "q8"


def test_the_table_says_whether_there_are_cliffs(document: dict) -> None:
    [sweep] = document["sweeps"]
    assert "short: no cliffs" in table({"sweeps": [{**sweep, "cliffs": []}]})
    assert "short: cliffs at batch 2, 3" in table({"sweeps": [{**sweep, "cliffs": [2, 3]}]})
    assert len(table(document).splitlines()) == 1 + 3 + 1


def test_the_plot_is_drawn(document: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    from benchmarks.scaling_plot import draw

    [sweep] = document["sweeps"]
    drawn = [{**sweep, "cliffs": [2]}, {**sweep, "axis": "context", "cliffs": []}]
    draw({**document, "sweeps": drawn}, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
