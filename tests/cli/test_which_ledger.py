"""serve, keys and bill open the same ledger, wherever they are started."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.server.config_file import read_config
from farthing.server.service import open_service
from farthing.upstreams import Call, Tally

ECHO = '[[upstream]]\nname = "echo"\nkind = "echo"\n'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: not where the configuration lies."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return folder


def serve_one(config: Path) -> None:
    """What a server opens that was started with this file, and one row in it."""

    async def work() -> None:
        async with open_service(read_config(config)) as service:
            served = service.catalog.find("echo", None)
            call = Call("r", "chat", {"messages": [{"role": "user", "content": "hi"}]}, served.model)
            async for _ in served.upstream.stream(call, Tally()):
                pass

    asyncio.run(work())


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("sqlite:///books/ledger.db", "there/books/ledger.db"),
        ("sqlite:///../ledger.db", "ledger.db"),
        (None, "data/farthing/ledger.db"),
    ],
)
@pytest.mark.parametrize("is_relative", [True, False])
def test_all_three_agree(
    url: str | None, where: str, is_relative: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "there" / "farthing.toml"
    config.parent.mkdir()
    config.write_text(ECHO + ("" if url is None else f'[ledger]\nurl = "{url}"\n'))
    given = Path("..", "there", "farthing.toml") if is_relative else config
    serve_one(given)
    assert [found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*.db")] == [where]
    run(capsys, "keys", "create", "--name", "ada", "--config", str(given))
    assert [key["name"] for key in run(capsys, "keys", "list", "--config", str(given))["keys"]] == ["ada"]
    assert run(capsys, "bill", "--config", str(given))["total"]["rows"] == 1
    assert len(list(tmp_path.rglob("*.db"))) == 1


def test_an_option_is_relative_to_where_one_is(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "keys", "create", "--name", "ada", "--ledger", "sqlite:///mine.db")
    assert (elsewhere / "mine.db").exists()
    assert len(run(capsys, "keys", "list", "--ledger", f"sqlite:///{elsewhere}/mine.db")["keys"]) == 1
