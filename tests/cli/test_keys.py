"""farthing keys: made, listed, revoked, with budgets; the secret is shown once."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.prices import PriceBook
from farthing.ledger import Books, InvalidKey, Key, LedgerConfig


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "farthing"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["keys", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error."""
    assert main(["keys", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def authenticate(secret: str) -> Key:
    async def ask() -> Key:
        books = await Books.open(LedgerConfig(), Pricer(PriceBook(), HostCost()))
        try:
            return await books.authenticate(secret)
        finally:
            await books.aclose()

    return asyncio.run(ask())


def test_a_life_of_a_key(capsys: pytest.CaptureFixture[str], data_folder: Path) -> None:
    made = run(capsys, "create", "--name", "alice", "--project", "p", "--models", "a, b", "--budget", "5usd/month",
               "--budget", "100000tokens/day", "--limit", "60requests/minute")  # fmt: skip
    assert (data_folder / "ledger.db").exists()
    key = authenticate(made["secret"])
    assert (key.id, key.name, key.project, key.models) == (made["id"], "alice", "p", ("a", "b"))
    assert [(budget["kind"], budget["unit"], budget["amount"]) for budget in made["budgets"]] == [
        ("budget", "usd", 5 * 10**12),
        ("budget", "tokens", 100_000),
        ("limit", "requests", 60),
    ]
    listed = run(capsys, "list")
    assert [found["id"] for found in listed["keys"]] == [key.id]
    assert made["secret"] not in json.dumps(listed)
    assert run(capsys, "revoke", key.id) == {"revoked": key.id}
    assert run(capsys, "list")["keys"][0]["revoked_us"] is not None
    with pytest.raises(InvalidKey, match="was revoked"):
        authenticate(made["secret"])


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list"]) == 0
    assert "no keys; make one" in capsys.readouterr().out
    assert main(["keys", "create", "--name", "alice", "--expires", "30d", "--budget", "5usd/month"]) == 0
    out = capsys.readouterr().out
    assert "secret  fk-" in out
    assert "5 USD per month" in out
    assert "not shown again" in out
    assert main(["keys", "list"]) == 0
    out = capsys.readouterr().out
    assert "alice" in out
    assert "expires 20" in out
    assert "fk-" not in out


def test_budgets_of_tags_projects_and_everybody(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "budget", "add", "5usd/month", "--tag", "team-a")
    run(capsys, "budget", "add", "20usd/total", "--project", "p", "--limit", "9tokens/hour")
    added = run(capsys, "budget", "add", "7requests/day")["budgets"][0]
    listed = run(capsys, "budget", "list")["budgets"]
    assert [(budget["scope"], budget["subject"], budget["span"], budget["used"]) for budget in listed] == [
        ("tag", "team-a", "month", 0),
        ("project", "p", "total", 0),
        ("project", "p", "hour", 0),
        ("global", "", "day", 0),
    ]
    run(capsys, "budget", "remove", added["id"])
    assert len(run(capsys, "budget", "list")["budgets"]) == 3
    assert main(["keys", "budget", "list"]) == 0
    assert "the budget of tag team-a, 5 USD per month: 0 USD used" in capsys.readouterr().out


def test_the_ledger_of_a_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "farthing.toml"
    config.write_text(f'[ledger]\nurl = "sqlite:///{tmp_path}/other.db"\n[server]\nport = 1\n')
    run(capsys, "create", "--name", "a", "--config", str(config))
    assert len(run(capsys, "list", "--ledger", f"sqlite:///{tmp_path}/other.db")["keys"]) == 1
    assert run(capsys, "list")["keys"] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["create", "--name", " "], "--name is ' '"),
        (["create", "--name", "a\nb"], "printable"),
        (["create", "--name", "a", "--budget", "5eur/month"], "'5eur/month' is no budget"),
        (["create", "--name", "a", "--expires", "soon"], "write it like 30d"),
        (["revoke", "key-none"], "there is no key 'key-none'"),
        (["budget", "remove", "bud-none"], "there is no budget 'bud-none'"),
        (["budget", "add"], "nothing to add"),
        (["budget", "add", "1usd/day", "--key", "key-none"], "there is no key 'key-none'"),
        (["budget", "add", "1usd/day", "--tag", "a", "--project", "b"], "give one of"),
        (["list", "--ledger", "mysql://me:se.cret@host/x"], "write it like sqlite:///"),
        (["list", "--ledger", "postgresql://me:se.cret@127.0.0.1:1/x?connect_timeout=1"], "cannot be opened"),
        (["list", "--ledger", "sqlite:////proc/none/x.db"], "cannot be opened"),
        (["list", "--ledger", "sqlite:///x.db", "--config", "y.toml"], "give one"),
        (["list", "--config", "/none.toml"], "/none.toml: cannot be read (No such file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = told(capsys, *arguments)
    assert expected in message
    assert "se.cret" not in message


def test_a_failed_create_leaves_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "create", "--name", "a", "--budget", "5usd/month", "--budget", "wrong")
    assert run(capsys, "list")["keys"] == []


def test_a_configuration_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for text, expected in (
        ("[ledger", "farthing.toml"),
        ("ledger = 3", "allowed: a table"),
        ("[ledger]\nur = 1", "'ur'"),
    ):
        config = tmp_path / "farthing.toml"
        config.write_text(text)
        assert expected in told(capsys, "list", "--config", str(config))
