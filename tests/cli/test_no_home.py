"""A user without a home, as a service's may be (systemd's DynamicUser, a container's number without a name)."""

import pwd
from typing import Any

import pytest

from farthing.cli import main
from farthing.economics.price_file import default_path


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> Any:
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "FARTHING_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bill"], "set XDG_DATA_HOME to a folder"),
        (["serve", "--port", "0"], "set XDG_DATA_HOME to a folder"),
        (["keys", "list"], "set XDG_DATA_HOME to a folder"),
        (["pull"], "set FARTHING_CACHE to a folder"),
        (["generate", "hello"], "set FARTHING_CACHE to a folder"),
    ],
)
def test_what_to_set_is_told_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 1
    [error] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "this user has no home" in error
    assert said in error


def test_such_a_user_has_no_prices_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert not default_path().exists()
    assert main(["price", "--model", "gpt-5-nano", "--input-tokens", "1000", "--output-tokens", "10"]) == 0
    assert "gpt-5-nano" in capsys.readouterr().out
