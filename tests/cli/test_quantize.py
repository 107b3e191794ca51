"""farthing quantize: models in other formats, readable by farthing and, where they are ggml's, by llama.cpp."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from farthing.cli import main
from farthing.cli._output import DEFAULT_MODEL
from farthing.models.checkpoint import load_model
from farthing.models.gguf import read_gguf
from farthing.models.hub import find_model, pulled_models
from farthing.quant import requantize
from tests.models.small import GOLDEN, write_as_gguf

needs_model = pytest.mark.skipif(DEFAULT_MODEL not in pulled_models(), reason=f"needs `farthing pull {DEFAULT_MODEL}`")
TEXT = "".join(f"{i} green bottles hanging on the wall, and " for i in range(400))


def llama_cpp() -> str | None:
    """llama.cpp's llama-completion or llama-cli, in the folder FARTHING_LLAMACPP or on the PATH."""
    path = os.pathsep.join([os.environ.get("FARTHING_LLAMACPP", ""), os.environ.get("PATH", "")])
    return shutil.which("llama-completion", path=path) or shutil.which("llama-cli", path=path)


@pytest.fixture(scope="module")
def q8_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantize") / "model.gguf"
    assert main(["quantize", DEFAULT_MODEL, "--format", "q8_0", "-o", str(out)]) == 0
    return out


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    write_as_gguf("llama", path)
    return path


@needs_model
def test_reblocked_model_loads(q8_0: Path) -> None:
    model = load_model(q8_0)
    assert {t.format for t in read_gguf(q8_0).tensors.values()} == {"q8_0", "f32"}
    assert model.tokenizer.encode("Hello world") == load_model(DEFAULT_MODEL).tokenizer.encode("Hello world")
    source = read_gguf(find_model(DEFAULT_MODEL)).tensors["blk.7.ffn_up.weight"]
    np.testing.assert_array_equal(read_gguf(q8_0).tensors["blk.7.ffn_up.weight"].data, requantize(source, "q8_0").data)


@needs_model
def test_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.gguf"
    command = ["quantize", DEFAULT_MODEL, "--format", "q4_1", "--method", "rtn", "-o", str(out)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes_after"] == out.stat().st_size
    assert found["bytes_after"] < found["bytes_before"]
    assert found["bits_per_weight"] == pytest.approx(5.0, abs=0.02)  # 4 bits, a 16-bit scale and minimum per 32
    assert (found["num_weights"], found["num_tensors"], found["num_tensors_kept"]) == (134_515_008, 272, 0)
    assert "kl_divergence" not in found


def test_calibrated_mixture(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out.safetensors"
    text.write_text(TEXT)
    command = ["quantize", str(small), "-o", str(out), "--bits", "4.6", "--calibrate", str(text), "--tokens", "1024"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 4.4 < found["bits_per_weight"] <= 4.6
    assert (found["method"], found["format"], found["calibration_tokens"]) == ("gptq", "mixed", 1024)
    assert found["bytes_after"] == out.stat().st_size
    assert 0 < found["kl_divergence"] < 1
    assert 0 < found["top1_agreement"] <= 1
    assert len(found["formats"]) > 1

    assert main([*command, "--force", "--rotate"]) == 0
    shown = capsys.readouterr().out
    assert "bits per weight  out.safetensors" in shown
    assert "KL divergence from the source" in shown
    assert load_model(out).tokenizer.encode("hi") == load_model(small).tokenizer.encode("hi")


def test_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["quantize", str(GOLDEN / "qwen3"), "-o", str(out), "--format", "q4"]) == 0
    assert "weights: f32 0.7%, q4 99.3%; method search" in capsys.readouterr().out
    assert main(["generate", "-m", str(out), "a", "--raw", "--max-tokens", "2"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "small.gguf", "--format", "q4_0"], "small.gguf exists; give another name, or --force"),
        (["-o", "out.gguf", "--format", "q4"], "a GGUF file has no type for q4; allowed there: f32"),
        (["-o", "out.gguf", "--format", "q99"], "format is 'q99'; allowed: f32"),
        (["-o", "out", "--format", "q4_0"], "a GGUF becomes a .gguf or .safetensors file"),
        (["-o", "no/out.gguf", "--format", "q4_0"], "the folder no does not exist"),
        (["-o", "out.gguf", "--format", "q4_0", "--bits", "4"], "give one of them"),
        (["-o", "out.gguf", "--bits", "1"], "--bits is 1; allowed: 1.75 to 32"),
        (["-o", "out.gguf", "--bits", "3"], "--bits is 3; the smallest formats there take"),
        (["-o", "out.gguf", "--method", "gptq"], "method gptq needs a text"),
        (["-o", "out.gguf", "--method", "magic"], "method is 'magic'; allowed: rtn"),
        (["-o", "out.gguf", "--calibrate", "absent.txt"], "'absent.txt': no such file, and no text"),
        (["-o", "out.gguf", "--calibrate", "too short a text"], "tokens; at least 1024 are needed"),
        (["-o", "out.gguf", "--calibrate", TEXT, "--tokens", "5"], "--tokens is 5; allowed: 512"),
    ],
)
def test_refusals(
    small: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(small.parent)
    assert main(["quantize", "small.gguf", *options]) == 1
    assert message in capsys.readouterr().err
    assert [p.name for p in small.parent.iterdir()] == ["small.gguf"]


def test_bad_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(4))
    assert main(["quantize", str(bad), "--format", "q8_0", "-o", str(tmp_path / "x.gguf")]) == 1
    assert "bad.gguf: truncated or corrupt" in capsys.readouterr().err
    assert main(["quantize", str(tmp_path / "absent.gguf"), "-o", str(tmp_path / "x.gguf")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "x.gguf").exists()


@needs_model
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    code = "import sys; from farthing.cli import main; sys.exit(main())"
    arguments = ["quantize", DEFAULT_MODEL, "-o", str(tmp_path / "out.safetensors"), "--format", "q3"]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 60
        while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
        run.send_signal(number)
        assert run.wait(60) == 130
        assert run.stderr is not None
        assert run.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


@needs_model
@pytest.mark.skipif(llama_cpp() is None, reason="needs llama.cpp: its folder in FARTHING_LLAMACPP, or on the PATH")
@pytest.mark.parametrize("options", [["--format", "q8_0"], ["--bits", "5"]])
def test_llama_cpp_loads_it_and_answers(tmp_path: Path, options: list[str]) -> None:
    program, out = llama_cpp(), tmp_path / "model.gguf"
    assert program is not None
    assert main(["quantize", DEFAULT_MODEL, "-o", str(out), *options]) == 0
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(program).parent)}
    more = ["-n", "2", "--temp", "0", "-no-cnv", "-t", "1", "-c", "64"]
    arguments = ["-m", str(out), "-p", "The capital of France is", *more]
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=120, env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Paris" in done.stdout
