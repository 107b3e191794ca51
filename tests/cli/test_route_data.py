"""farthing route on a slice of RouteLLM's public results, where FARTHING_DATA has them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.router_data import results_folder, routellm
from farthing.cli import main

FOLDER = results_folder()


@pytest.mark.skipif(FOLDER is None, reason="FARTHING_DATA has no routing/routellm")
def test_on_gsm8k_a_cascade_beats_lot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert FOLDER is not None
    rows = routellm("gsm8k", FOLDER).rows
    assert rows.answers is not None
    data, router = tmp_path / "gsm8k.jsonl", str(tmp_path / "router")
    with data.open("w", encoding="utf-8") as out:
        for i in np.random.default_rng(0).permutation(len(rows))[:1000]:
            small = {"is_right": bool(rows.quality[i, 0]), "answer": rows.answers[i]}
            models = {"mixtral": small, "gpt-4": {"is_right": bool(rows.quality[i, 1])}}
            out.write(json.dumps({"prompt": rows.prompts[i], "models": models}) + "\n")
    costs = ["--cost", "mixtral=0.24/Mtok", "--cost", "gpt-4=24.7/Mtok"]
    assert main(["route", "train", str(data), "-o", router, *costs]) == 0
    goal = ["--target-share-of-large", "0.9", "--mode", "cascade"]
    assert main(["route", "calibrate", router, str(data), *goal]) == 0
    capsys.readouterr()
    assert main(["route", "eval", router, str(data), "--json"]) == 0
    cascade = json.loads(capsys.readouterr().out)["modes"]["cascade"]
    assert cascade["promised"]["is_proven"]
    assert cascade["apgr"]["low"] > 0.55
    assert cascade["chosen"]["cost"] < 20
    assert cascade["chosen"]["quality"] > cascade["chosen"]["random"]
