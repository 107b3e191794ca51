"""farthing quantize: the embedded model in other formats, readable by farthing and by llama.cpp."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from farthing.cli import main
from farthing.cli._output import DEFAULT_MODEL
from farthing.models.checkpoint import load_model
from farthing.models.gguf import read_gguf
from farthing.models.hub import find_model, pulled_models
from farthing.quant import requantize

needs_model = pytest.mark.skipif(DEFAULT_MODEL not in pulled_models(), reason=f"needs `farthing pull {DEFAULT_MODEL}`")


def llama_cpp() -> str | None:
    """llama.cpp's llama-completion or llama-cli, in the folder FARTHING_LLAMACPP or on the PATH."""
    path = os.pathsep.join([os.environ.get("FARTHING_LLAMACPP", ""), os.environ.get("PATH", "")])
    return shutil.which("llama-completion", path=path) or shutil.which("llama-cli", path=path)


@pytest.fixture(scope="module")
def q8_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantize") / "model.gguf"
    assert main(["quantize", DEFAULT_MODEL, "--format", "q8_0", "-o", str(out)]) == 0
    return out


@needs_model
def test_reblocked_model_loads(q8_0: Path) -> None:
    model = load_model(q8_0)
    assert {t.format for t in read_gguf(q8_0).tensors.values()} == {"q8_0", "f32"}
    assert model.tokenizer.encode("Hello world") == load_model(DEFAULT_MODEL).tokenizer.encode("Hello world")
    source = read_gguf(find_model(DEFAULT_MODEL)).tensors["blk.7.ffn_up.weight"]
    np.testing.assert_array_equal(
        read_gguf(q8_0).tensors["blk.7.ffn_up.weight"].data, requantize(source, "q8_0").data
    )


@needs_model
def test_document_and_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.gguf"
    command = ["quantize", DEFAULT_MODEL, "--format", "q4_1", "-o", str(out)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes_after"] == out.stat().st_size
    assert found["bytes_after"] < found["bytes_before"]
    assert found["bits_per_weight"] == pytest.approx(5.0, abs=0.02)  # 4 bits, a 16-bit scale and minimum per 32
    assert (found["num_weights"], found["num_tensors"], found["num_tensors_kept"]) == (134_515_008, 272, 0)

    assert main(command) == 1
    assert "exists; give another name, or --force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert "5.01 bits per weight" in capsys.readouterr().out
    assert main(["quantize", DEFAULT_MODEL, "--format", "q7", "-o", str(tmp_path / "x.gguf")]) == 1
    assert "format is 'q7'; allowed in a GGUF file: f32" in capsys.readouterr().err


def test_bad_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(4))
    assert main(["quantize", str(bad), "--format", "q8_0", "-o", str(tmp_path / "x.gguf")]) == 1
    assert "bad.gguf: truncated or corrupt" in capsys.readouterr().err
    assert not (tmp_path / "x.gguf").exists()


@needs_model
@pytest.mark.skipif(llama_cpp() is None, reason="needs llama.cpp: its folder in FARTHING_LLAMACPP, or on the PATH")
def test_llama_cpp_loads_it_and_answers(q8_0: Path) -> None:
    program = llama_cpp()
    assert program is not None
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(program).parent)}
    options = ["-n", "2", "--temp", "0", "-no-cnv", "-t", "1", "-c", "64"]
    arguments = ["-m", q8_0, "-p", "The capital of France is", *options]
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=120, env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Paris" in done.stdout
