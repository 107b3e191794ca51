"""What docs/classify.md shows is so."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from farthing.economics.cost import HostCost
from farthing.engine.classifier import ClassifierConfig
from farthing.router.config import RouterConfig
from farthing.upstreams.classifier import ClassifierUpstream
from farthing.upstreams.classifier_config import ClassifierTable

GOLDEN = Path(__file__).parents[1] / "golden" / "classifier_llama"
PAGE = (Path(__file__).parents[2] / "docs" / "classify.md").read_text()


def test_the_configurations_are_taken() -> None:
    upstream, cascade = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    [table] = tomllib.loads(upstream)["upstream"]
    options = {key: value for key, value in table.items() if key != "name"}
    made = ClassifierUpstream.from_config(table["name"], options, HostCost())
    assert made.config.models == ("models/intents",)
    [model] = tomllib.loads(cascade)["model"]
    assert RouterConfig(**model["router"]).min_confidence == 0.9


def test_the_defaults_are_the_codes() -> None:
    table = PAGE.split("| key | default | meaning |")[1].split("\n\n")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", table, re.MULTILINE))
    assert set(shown) == {field.name for field in fields(ClassifierTable)}
    settings = ClassifierTable(models=("a",))
    for name in ("max_num_seqs", "max_waiting", "look_every_s"):
        assert shown[name] == str(getattr(settings, name))
    assert shown["max_num_batched_tokens"] == str(ClassifierConfig().max_num_batched_tokens)
    assert shown["product"] == f"`{ClassifierConfig().product}`"
    assert shown["preload"] == str(settings.preload).lower()
    assert f"{ClassifierConfig().max_num_batched_tokens} tokens at a time" in PAGE


def test_the_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(snippet.replace("models/intents", str(GOLDEN)), "classify.md", "exec"), {})
    assert capsys.readouterr().out.strip()
