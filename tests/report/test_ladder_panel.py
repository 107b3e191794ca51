"""The panel of weight formats: what it reads, which rungs its line joins, how it shows on the page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.report.document import to_json
from farthing.report.html import to_html
from farthing.report.ladder_panel import LadderPanel, PanelRung, front, ladder_html, read_ladder
from tests.report.sample import report

RUNG = {
    "model": "a <model>",
    "format": "q4",
    "method": "gptq",
    "bits_per_weight": 4.5,
    "bytes": 9_500_000,
    "perplexity": 250.0,
    "kl_divergence": 0.0123,
    "top1_agreement": 0.954,
    "prefill_tok_s": 30_000.0,
    "decode_tok_s": 4_000.0,
    "usd_per_mtok": 0.0021,
}
DOCUMENT = {
    "rungs": [
        RUNG,
        RUNG | {"format": "q3_k_s", "method": "llama.cpp, imatrix", "bits_per_weight": 3.5, "kl_divergence": 0.2},
        RUNG | {"format": "q8_0", "bits_per_weight": 8.5, "kl_divergence": 0.0, "usd_per_mtok": None},
    ],
    "notes": {"a <model>": "its weights were <4-bit>"},
    "text": "wiki.test.raw",
    "machine": "a machine",
    "commit": "abc",
}


def written(folder: Path, document: object) -> Path:
    path = folder / "ladder.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def panel(tmp_path: Path) -> LadderPanel:
    return read_ladder(written(tmp_path, DOCUMENT))


def test_the_page_shows_every_rung_and_every_note_escaped(panel: LadderPanel) -> None:
    page = to_html(replace(report(), ladder=panel))
    for text in (
        "a &lt;model&gt;",
        "its weights were &lt;4-bit&gt;",
        "q3_k_s, llama.cpp, imatrix",
        "0.01230",
        "95.40%",
    ):
        assert text in page
    assert "<model>" not in page
    assert not re.search(r"https?:|//[a-z]|style=", ladder_html(panel))
    # Two charts; a rung that was not timed is only on that of sizes.
    assert page.count("<circle") == 2 + 3


def test_what_is_lossless_has_a_place_on_the_logarithmic_axis(panel: LadderPanel) -> None:
    heights = [float(y) for y in re.findall(r'<circle[^>]* cy="([0-9.]+)"', ladder_html(panel))]
    assert all(0 <= y <= 380 for y in heights)


def test_the_json_carries_the_rungs(panel: LadderPanel) -> None:
    document = to_json(replace(report(), ladder=panel))
    assert [rung["format"] for rung in document["ladder"]["rungs"]] == ["q4", "q3_k_s", "q8_0"]
    json.dumps(document, allow_nan=False)
    assert to_json(report())["ladder"] is None


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        DOCUMENT | {"rungs": []},
        DOCUMENT | {"rungs": [{}]},
        DOCUMENT | {"rungs": [RUNG | {"kl_divergence": "much"}]},
        DOCUMENT | {"rungs": [RUNG | {"kl_divergence": float("nan")}]},
        DOCUMENT | {"rungs": [RUNG | {"usd_per_mtok": -1}]},
        DOCUMENT | {"rungs": [RUNG | {"model": 3}]},
        DOCUMENT | {"notes": []},
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, document: object) -> None:
    with pytest.raises(InvalidRequest, match=r"ladder\.json"):
        read_ladder(written(tmp_path, document))


def test_a_file_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_ladder(tmp_path / "none.json")
    (tmp_path / "broken.json").write_bytes(b"\xff{")
    with pytest.raises(InvalidRequest, match=r"ladder\.py"):
        read_ladder(tmp_path / "broken.json")


points = st.lists(st.tuples(st.floats(1, 9), st.floats(0, 3)), max_size=20)


@given(points)
def test_the_line_joins_what_nothing_cheaper_beats(found: list[tuple[float, float]]) -> None:
    rungs = [
        PanelRung("m", str(i), "gptq", bits, 1, 1.0, kl, 0.5, 1.0, 1.0, bits) for i, (bits, kl) in enumerate(found)
    ]
    best = front(rungs, "bits_per_weight")
    for rung in rungs:
        is_beaten = any(
            b is not rung and b.bits_per_weight <= rung.bits_per_weight and b.kl_divergence <= rung.kl_divergence
            for b in best
        )
        assert is_beaten or rung in best
    assert [b.kl_divergence for b in best] == sorted({b.kl_divergence for b in best}, reverse=True)
