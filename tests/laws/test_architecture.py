"""Law 7: the house is as its plan says. Layers are import-linter's (`make lint`); here is what it cannot see."""

import ast
from pathlib import Path

import pytest

import farthing

SOURCE = Path(farthing.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


def imports(path):
    """Full names of what a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("farthing._native", "kernels"),  # native code behind one door
        ("jinja2", "models"),
        ("tokenizers", "models"),
        ("huggingface_hub", "models"),
        ("tiktoken", "economics"),
        ("genai_prices", "economics"),
        ("typer", "cli"),
    ],
)
def test_each_library_has_one_room(name, room):
    users = {f.relative_to(SOURCE).parts[0] for f in FILES if any((i + ".").startswith(name + ".") for i in imports(f))}
    assert users == {room}


def test_economics_is_pure():
    """No clock, no network: a price is a function of its arguments."""
    banned = ("time", "socket", "urllib", "http", "aiohttp", "httpx2", "random", "secrets")
    for path in (SOURCE / "economics").rglob("*.py"):
        assert not {i.split(".")[0] for i in imports(path)} & set(banned), path


def test_public_modules_say_what_they_offer():
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} has no docstring"
        offered = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        names = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        annotated = [n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        if offered and path.parent.name != "cli":
            assert "__all__" in names + annotated, f"{path} has no __all__"
