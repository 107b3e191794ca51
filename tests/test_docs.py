"""Law 7: what the README shows is there. Its snippet runs, its commands and options exist, its tree is the tree."""

import re
import shlex
from pathlib import Path

import pytest

from farthing.cli import main
from farthing.errors import ModelNotFound
from farthing.models.hub import find_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_snippet_runs(capsys):
    try:
        find_model("smollm2-135m-instruct")
    except ModelNotFound:
        pytest.skip("the embedded model is not pulled: farthing pull smollm2-135m-instruct")
    [snippet] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    assert "input_tokens=37" in capsys.readouterr().out


COMMANDS = re.findall(r"^farthing ([^\n#]+)", README, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line, capsys):
    words = shlex.split(line)
    names = [word for word in words[:2] if re.fullmatch(r"[a-z][a-z-]*", word)]
    names = names if words[0] in ("eval", "keys", "route") else names[:1]
    assert main([*names, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in shown


def test_commands_were_found():
    assert len(COMMANDS) >= 9


def test_the_tree_is_the_tree():
    block = README.split("## The house\n```\n")[1].split("```")[0]
    folder = ROOT
    for line in block.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            assert (ROOT / name).exists(), name
            folder = ROOT / name
        else:
            assert (folder / name).exists(), name
