"""farthing pull, through the door."""

import json
from pathlib import Path

import pytest

from farthing.cli import main
from farthing.errors import FarthingError
from farthing.models.download import pull_model
from farthing.models.hub import find_model


def test_what_is_there_already_is_not_fetched_again(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        path = find_model("smollm2-135m-instruct")
    except FarthingError as error:
        pytest.skip(str(error))
    assert main(["pull", "smollm2-135m-instruct", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["path"] == str(path)
    assert (document["fresh"], document["size_bytes"]) == (False, 98_362_432)
    assert document["sha256"].startswith("b179c952")
    assert err.startswith("farthing: pulling")
    assert main(["pull"]) == 0
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing", "hf:x", ""])
def test_names_that_cannot_be_pulled(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", name, "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("farthing: error:")


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FARTHING_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        pull_model("smollm2-135m-instruct")
    assert main(["pull"]) == 1
