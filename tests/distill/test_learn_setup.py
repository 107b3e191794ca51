"""[learn] of farthing.toml has to fit its [[model]] and the upstream of its slot; the command says what does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.distill.learn_setup import read_setup, trusted_rows
from farthing.distill.promotion import Slot
from farthing.errors import InvalidRequest
from farthing.server.config_file import read_config
from tests.distill.test_promotion import filled

GOOD = """
[ledger]
url = "sqlite:///ledger.db"
[[upstream]]
name = "small"
kind = "classifier"
models = ["SLOT"]
weights = "q8_0"
[[upstream]]
name = "large"
kind = "echo"
[[model]]
name = "assistant"
upstreams = [{ upstream = "small", model = "slot" }, { upstream = "large", model = "echo" }]
[model.router]
mode = "cascade"
file = "slot"
[learn]
model = "assistant"
slot = "slot"
start = "student"
bound = 0.02
[learn.recipe]
epochs = 2.5
"""


ROUTED = GOOD[GOOD.index(', { upstream = "large"') : GOOD.index("\n[learn]")]


def written(folder: Path, old: str = "", new: str = "") -> Path:
    path = folder / "farthing.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1).replace("SLOT", str(folder / "slot")))
    return path


def test_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    setup = read_setup(read_config(written(tmp_path)))
    assert setup.learn.slot == tmp_path / "slot"
    assert setup.learn.start == str(tmp_path / "student")
    assert (setup.learn.bound, setup.recipe.epochs, setup.table.weights) == (0.02, 2.5, "q8_0")
    assert (setup.names.small_upstream, setup.names.models) == ("small", ("slot", "echo"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[learn]\n", "[other]\n", "unknown key 'other'"),
        ("bound = 0.02", "bond = 0.02", "did you mean 'bound'"),
        ("epochs = 2.5", "epoch = 2.5", "did you mean 'epochs'"),
        ("epochs = 2.5", "batch_size = 0", "batch_size is 0"),
        ('model = "assistant"', 'model = "other"', "there is no such [[model]]: assistant"),
        ('kind = "classifier"', 'kind = "echo"', "must be a \"classifier\""),
        ('slot = "slot"', 'slot = "elsewhere"', "is not served by 'small'"),
        ('mode = "cascade"', 'mode = "route"', "needs [model.router] with mode"),
        ('file = "slot"', 'file = "other"', "needs [model.router] with mode"),
        (ROUTED, "]", "two are needed"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_setup(read_config(written(tmp_path, old, new)))
    assert said in str(caught.value)
    assert "farthing.toml" in str(caught.value)


def test_a_file_without_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no \[learn\]"):
        read_setup(read_config(written(tmp_path, GOOD[GOOD.index("[learn]") :], "")))


def test_trusted_rows_are_a_task_file(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"prompt": "where is it", "answer": ["card", "cards"]}\n')
    [row] = trusted_rows(path)
    assert (row.prompt, row.answer, row.source) == ("where is it", "card", "given")
    assert trusted_rows(None) == []


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main(["learn", *map(str, words)])
    return code, *capsys.readouterr()


def test_rollback_and_history_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    filled(tmp_path / "slot")
    code, out, _ = run(capsys, "--config", path, "--rollback", "--json")
    assert code == 0
    assert json.loads(out)["version"] == Slot(tmp_path / "slot").current == "0001"
    code, out, _ = run(capsys, "--config", path, "--history")
    assert code == 0
    assert "rolled back" in out
    assert "$0.00000012" in out
    code, _, err = run(capsys, "--config", path, "--rollback")
    assert code == 1
    assert "it is the first one" in err


def test_forget_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--config", written(tmp_path), "--forget", "--json")
    assert (code, json.loads(out)) == (0, {"texts": 0})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--every", "soon"], "write it like 90s"),
        (["--every", "0d"], "write it like 90s"),
        (["--rollback", "--history"], "give one of"),
        ([], "there is no ledger"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    code, _, err = run(capsys, "--config", written(tmp_path), *options)
    assert code == 1
    assert said in err
    assert err.count("\n") == 1
