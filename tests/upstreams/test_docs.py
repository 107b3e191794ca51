"""What docs/upstreams.md shows is so."""

import importlib
import os
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from unittest import mock

from farthing.upstreams.echo import EchoConfig
from farthing.upstreams.http import Endpoint
from farthing.upstreams.local_config import LocalConfig

PAGE = (Path(__file__).parents[2] / "docs" / "upstreams.md").read_text()


def test_the_configuration_is_taken() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    tables = tomllib.loads(block)["upstream"]
    assert {table["kind"] for table in tables} == {"openai", "anthropic", "echo"}
    with mock.patch.dict(os.environ, {"GROQ_API_KEY": "a", "ANTHROPIC_API_KEY": "b"}):
        for table in tables:
            upstream = importlib.import_module(f"farthing.upstreams.{table['kind']}").from_config(table["name"], table)
            assert upstream.name == table["name"]


def test_the_defaults_are_the_codes() -> None:
    hosted, local = PAGE.split("## Keys of `local`")
    shown = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", hosted, re.MULTILINE))
    assert len(shown) == 5
    assert dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", local, re.MULTILINE)) == {
        "max_waiting": str(LocalConfig().max_waiting)
    }
    assert all(f"`{field.name}`" in local for field in fields(LocalConfig))
    assert {key: float(text) for key, text in shown.items()} == {key: getattr(Endpoint(""), key) for key in shown}
    assert f"`backoff_s` ({Endpoint('').backoff_s})" in PAGE
    assert all(f"`{field.name}`" in PAGE for field in fields(EchoConfig))
