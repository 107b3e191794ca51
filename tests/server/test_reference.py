"""docs/server.md shows every setting with its default, and a file that can be read."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from farthing.router.config import RouterConfig
from farthing.server.config import EconomicsConfig, ServerConfig
from farthing.server.config_file import read_config
from farthing.server.response_store import ResponseCacheConfig
from farthing.server.tables import read_table

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text()


@pytest.fixture
def config(tmp_path):
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "farthing.toml"
    path.write_text(text)
    return read_config(path)


def test_the_defaults_are_the_defaults(config):
    assert config.server == ServerConfig()
    assert read_table(ResponseCacheConfig, dict(config.response_cache), "x") == ResponseCacheConfig()
    assert config.economics.usd_per_hour == EconomicsConfig().usd_per_hour
    assert [model.name for model in config.models] == ["small"]


def test_every_setting_is_there():
    for kind in (ServerConfig, EconomicsConfig, ResponseCacheConfig):
        for field in fields(kind):
            assert re.search(rf"^{field.name} = ", PAGE, re.MULTILINE), field.name


def test_the_routers_settings_are_there_with_their_defaults(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
    text = next(text for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[model.router]" in text)
    for field in fields(RouterConfig):
        assert re.search(rf"^(# )?{field.name} = ", text, re.MULTILINE), field.name
    path = tmp_path / "farthing.toml"
    upstreams = "\n".join(f'[[upstream]]\nname = "{name}"\nkind = "echo"\n' for name in ("here", "openai"))
    path.write_text(upstreams + text)
    [model] = read_config(path).models
    assert model.router == RouterConfig(file=tmp_path / "router.safetensors")
