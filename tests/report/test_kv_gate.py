"""What is said of a codec when it is chosen: from the gate's committed figures."""

import json
from importlib import resources

import pytest

from farthing.engine import EngineConfig
from farthing.errors import InvalidRequest
from farthing.report.kv_gate import complaint
from farthing.report.kv_quality import LEAST_TOP1, MOST_KL

GATE = json.loads(resources.files("farthing.report").joinpath("data/kv_gate.json").read_text())


def test_the_default_is_the_cheapest_codec_that_passes() -> None:
    assert GATE["cheapest_that_passes"] == EngineConfig().kv
    assert GATE["windows"] == [512, 4096, 8192]


@pytest.mark.parametrize("row", GATE["codecs"], ids=lambda row: f"{row['codec']} {row['window']}")
def test_verdicts_follow_from_the_figures(row: dict) -> None:
    assert row["passes"] == (row["kl_divergence"] < MOST_KL and row["top1_agreement"] > LEAST_TOP1)
    said = complaint(GATE["model"], row["codec"])
    if not row["passes"]:
        assert said is not None
        assert row["codec"] in said
        assert GATE["cheapest_that_passes"] in said


def test_who_passed_or_keeps_8_bits_is_not_spoken_of() -> None:
    assert complaint(GATE["model"], GATE["cheapest_that_passes"]) is None
    assert complaint("another", "q8") is None
    assert complaint("another", "f16/q8") is None


def test_what_was_not_measured_is_said_to_be_so() -> None:
    assert "has not been through the quality gate on another" in str(complaint("another", "tq4"))
    assert "tq4/q8 has not been" in str(complaint(GATE["model"], "tq4/q8"))
    with pytest.raises(InvalidRequest, match="'tq5' is not known"):
        complaint("another", "tq5")
