"""The panel of experts: costs follow from the measured seconds and the machine's price; other files are refused."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest
from farthing.report.moe_panel import moe_html, moe_json, print_moe, read_moe

HOST = HostCost(Decimal("0.36"))  # a ten-thousandth of a dollar a second
FOUND = {
    "decode_tok_s": 100.0,
    "dense_over_moe": 5.0,
    "bytes_ratio": 6.0,
    "active_bytes": 200_000_000,
    "parameters": 1_700_000_000,
    "kl_divergence": 0.0012,
    "top1_agreement": 0.97,
    "machine": "a machine",
    "commit": "abc",
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "moe.json"
    path.write_text(json.dumps({**FOUND, **changes}))
    return path


def test_figures(tmp_path: Path) -> None:
    panel = read_moe(written(tmp_path))
    document = moe_json(panel, HOST)
    assert document["sparse_usd_per_mtok"] == pytest.approx(1.0)  # 10,000 s
    assert document["dense_usd_per_mtok"] == pytest.approx(5.0)
    assert document["cheaper"] == pytest.approx(5.0)
    assert (panel.sparse_bytes, panel.dense_bytes) == (200_000_000, 1_200_000_000)


def test_shown_with_what_it_is_not(tmp_path: Path) -> None:
    panel = read_moe(written(tmp_path, machine="<b>"))
    console = Console(width=160)
    with console.capture() as shown:
        print_moe(panel, HOST, console)
    text, page = shown.get(), moe_html(panel, HOST)
    for words in ("5.00×", "$1.00", "$5.00", "KL 0.0012, top-1 97.0 % of its own float32", "not compared"):
        assert words in page
        assert words in text
    assert "random weights" in page
    assert "<b>" not in page


@pytest.mark.parametrize("changes", [{"decode_tok_s": 0}, {"kl_divergence": "x"}, {"parameters": float("nan")}])
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"is no result of benchmarks/moe\.py"):
        read_moe(written(tmp_path, **changes))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_moe(tmp_path / "missing.json")
    for text in ("", "[]", "{}"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(InvalidRequest, match="is no result of"):
            read_moe(tmp_path / "other.json")
