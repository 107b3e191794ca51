"""farthing.toml: what it may say, and that what it may not is told by file, table and key."""

from decimal import Decimal

import pytest

from farthing.errors import InvalidRequest
from farthing.server.config import ModelEntry, RouteEntry, ServerConfig, UpstreamEntry
from farthing.server.config_file import Config, read_config

WHOLE = """
[server]
host = "::1"
port = 0
require_keys = true
allowed_hosts = ["models.example"]
drain_s = 5
stream_interval_s = 0.0

[economics]
usd_per_hour = 0.1
utilisation = 0.5
baseline = "gpt-5-nano"
prices = "prices.toml"

[ledger]
url = "sqlite:///x.db"

[[upstream]]
name = "here"
kind = "local"
threads = 2
share = 0.5

[[upstream]]
name = "there"
kind = "openai"

[[model]]
name = "small"
public = false
upstreams = [{ upstream = "here", model = "a" }, { upstream = "there", model = "b" }]
"""


def read(tmp_path, text):
    path = tmp_path / "farthing.toml"
    path.write_text(text)
    return read_config(path)


def test_everything_is_read(tmp_path):
    config = read(tmp_path, WHOLE)
    assert (config.server.host, config.server.require_keys, config.server.drain_s) == ("::1", True, 5.0)
    assert config.server.allowed_hosts == ("models.example",)
    assert config.economics.usd_per_hour == Decimal("0.1")  # not 0.1000000000000000055
    assert config.economics.prices == tmp_path / "prices.toml"
    assert config.upstreams[0] == UpstreamEntry("here", "local", {"threads": 2, "share": 0.5})
    routes = (RouteEntry("here", "a"), RouteEntry("there", "b"))
    assert config.models == (ModelEntry("small", routes, public=False),)
    assert config.ledger == {"url": "sqlite:///x.db"}


def test_nothing_is_needed(tmp_path):
    config = read(tmp_path, "")
    assert config.server == ServerConfig() == Config().server
    assert (config.upstreams, config.models, config.response_cache) == ((), (), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sever]", r"unknown key 'sever'; did you mean 'server'\?"),
        ("[server]\nprot = 1", r"\[server\]: unknown key 'prot'; did you mean 'port'\?"),
        ('[server]\nport = "1"', r"\[server\] port is '1'; allowed: a whole number"),
        ("[server]\nport = 1.0", "allowed: a whole number"),
        ("[server]\nport = true", "allowed: a whole number"),
        ("[server]\nport = 99999", r"\[server\]: port is 99999; allowed: 0"),
        ("[server]\nrequire_keys = 1", "allowed: true or false"),
        ("[server]\ndrain_s = nan", "allowed: a number"),
        ("[server]\nallowed_hosts = [1]", r"allowed_hosts\[0\] is 1; allowed: a text"),
        ("[server]\nallowed_hosts = 'x'", "allowed: a list"),
        ("server = 1", r"\[server\] is 1; allowed: a table"),
        ("ledger = 1", "ledger is 1; allowed: a table"),
        ("[economics]\nutilisation = 0", r"\[economics\]: utilisation is 0"),
        ("[upstream]\nname = 'a'", r"allowed: a list of them, each under \[\[upstream\]\]"),
        ("[[upstream]]\nname = 'a'", r"\[\[upstream\]\] 1: kind is None; allowed: a text"),
        ("upstream = [1]", r"\[\[upstream\]\] 1 is 1; allowed: a table"),
        ("[[upstream]]\nname='a'\nkind='x'\n[[upstream]]\nname='a'\nkind='y'", "'a' is there twice"),
        ("[[model]]\nname = 'm'\nupstreams = []", "at least one of upstreams"),
        ("[[model]]\nupstreams = []", r"\[\[model\]\] 1: name is missing"),
        ("[[model]]\nname = 'm'\nupstreams = [{upstream='a', model='b'}]", "no upstream 'a'; there is: none"),
        ("[[model]]\nname = 'm'\nupstreams = [{upstraem='a'}]", r"upstreams\[0\]: unknown key 'upstraem'"),
        ("=", "not TOML"),
        ("a = \xff", "unknown key 'a'|not TOML"),
    ],
)
def test_mistakes_are_told_by_file_and_key(tmp_path, text, said):
    with pytest.raises(InvalidRequest, match=said) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "farthing.toml") in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidRequest, match=r"absent\.toml: cannot be read"):
        read_config(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("shares = 0.5", "did you mean 'share'"),
        ("share = 2.0", "0 to 1"),
        ('mode = "guess"', "route, cascade, both"),
        ("share = 0.5\nsticky = 1", "true or false"),
        ("", "needs share"),
    ],
)
def test_a_router_that_cannot_be(tmp_path, table, said):
    path = tmp_path / "farthing.toml"
    routes = '[{ upstream = "a", model = "x" }, { upstream = "a", model = "y" }]'
    head = f'[[upstream]]\nname = "a"\nkind = "echo"\n[[model]]\nname = "auto"\nupstreams = {routes}\n[model.router]\n'
    path.write_text(head + table)
    with pytest.raises(InvalidRequest, match=said) as caught:
        read_config(path)
    assert "[[model]] 1" in str(caught.value)
    path.write_text(head.replace(', { upstream = "a", model = "y" }', "") + "share = 0.5")
    with pytest.raises(InvalidRequest, match="two upstreams"):
        read_config(path)
