"""The weights, in the form that each peer runs best: made once from the GGUF that farthing runs."""

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.peers.build import once, run
from farthing.kernels.formats import row_bytes
from farthing.kernels.plan import QTensor
from farthing.models.gguf import read_gguf
from farthing.models.gguf_write import TensorToWrite, write_gguf

__all__ = ["AS_IT_IS", "converted", "hf_folder", "large_model", "quantized"]

AS_IT_IS = "as it is"
# Those that were the fastest in some row on one of two machines; IQ4_NL and Q8_0 never were.
SMALL_FORMATS = {
    "Q4_0": ("Q4_0",),
    "Q4_0 throughout": ("--pure", "Q4_0"),
    "F16": ("F16",),
}
LARGE_FORMATS = {"Q4_0": ("Q4_0",)}
LARGE = {
    "block_count": 16,
    "embedding_length": 2048,
    "feed_forward_length": 8192,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
    "rope.dimension_count": 64,
}
U32 = 4  # GGUF's number for the type
HERE = Path(__file__).parent


def quantized(cache: Path, programs: Path, model: Path, formats: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    """llama.cpp's own requantizations of `model`, and the model as it is. Bars for speed: quality is what it is."""
    files = {f"Q4_1 {AS_IT_IS}": model}
    for name, options in formats.items():
        path = cache / "models" / f"{model.stem} {name}.gguf".replace(" ", "-")
        command = [programs / "llama-quantize", "--allow-requantize", *options[:-1], model, path, options[-1]]
        stamp = cache / "stamps" / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        once(stamp, _key(model), lambda command=command, path=path: run(command, _log(cache, path.stem)))  # type: ignore[misc]
        files[name] = path
    return files


def hf_folder(cache: Path, python: Path, model: Path) -> Path:
    """The weights unpacked to float32, as transformers keeps a model."""
    folder = cache / "models" / f"{model.stem}-transformers"
    command = [python, HERE / "children" / "hf_folder.py", model, folder]
    _folder_once(cache, folder, _key(model), command)
    return folder


def converted(cache: Path, model: Path, name: str, command: list[str | Path], version: str) -> Path:
    """What a peer's own converter makes of `model`, once for each version of it; "{}" in the command is the result."""
    folder = cache / "models" / f"{model.stem}-{name}"
    filled = [folder if word == "{}" else word for word in command]
    _folder_once(cache, folder, f"{_key(model)}, {version}", filled)
    return folder


def _folder_once(cache: Path, folder: Path, key: str, command: list[str | Path]) -> None:
    def make() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        run(command, _log(cache, folder.name))

    once(cache / "stamps" / f"{folder.name} folder", key, make)


def _key(model: Path) -> str:
    return f"{model.name} {model.stat().st_size}"


def _log(cache: Path, name: str) -> Path:
    return cache / "logs" / f"{name}.log"


def large_model(cache: Path, like: Path) -> Path:
    """A llama model of 1.07 billion parameters with random weights: Q4_1, the embedding (and so the head) Q8_0.

    Tokenizer and the rest of the metadata are those of `like`.
    """
    path = cache / "models" / "random-1b.Q4_1.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    once(cache / "stamps" / path.name, f"{LARGE} {_key(like)}", lambda: _write_large(path, like))
    return path


def _write_large(path: Path, like: Path) -> None:
    source = read_gguf(like)
    values: dict[str, bytes | memoryview] = dict(source.raw_values)
    values |= {f"llama.{key}": struct.pack("<II", U32, value) for key, value in LARGE.items()}
    width, inner = LARGE["embedding_length"], LARGE["feed_forward_length"]
    kv_width = width // LARGE["attention.head_count"] * LARGE["attention.head_count_kv"]
    shapes = {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (kv_width, width),
        "attn_v": (kv_width, width),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    vocab_size = source.shapes["token_embd.weight"][0]
    named = {"token_embd": (vocab_size, width), "output_norm": (width,)}
    named |= {f"blk.{i}.{name}": shape for i in range(LARGE["block_count"]) for name, shape in shapes.items()}
    rng = np.random.default_rng(0)
    write_gguf(path, values, [_random(f"{n}.weight", shape, rng) for n, shape in named.items()], is_overwrite=True)


def _random(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> TensorToWrite:
    """A norm of ones, or a matrix whose values have a standard deviation of about 0.02."""
    if len(shape) == 1:
        ones = QTensor("f32", 1, shape[0], np.ones(shape, "<f4").view(np.uint8))
        return TensorToWrite(name, shape, "f32", lambda: ones)
    format, make = ("q8_0", _random_q8_0) if name.startswith("token_embd") else ("q4_1", _random_q4_1)
    rows, cols = shape

    def tensor() -> QTensor:
        blocks = make(rows * cols // 32, rng)
        assert blocks.nbytes == rows * row_bytes(format, cols)
        return QTensor(format, rows, cols, blocks.reshape(-1))

    return TensorToWrite(name, shape, format, tensor)


def _random_q4_1(num_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """[blocks, 20]: scale and minimum as float16, 32 codes of 4 bits."""
    scale = rng.uniform(0.002, 0.0065, (num_blocks, 1)).astype("<f2")
    codes = rng.integers(0, 256, (num_blocks, 16), np.uint8)
    return np.hstack([scale.view(np.uint8), (scale * np.float16(-7.5)).astype("<f2").view(np.uint8), codes])


def _random_q8_0(num_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """[blocks, 34]: a scale as float16, 32 signed bytes."""
    scale = rng.uniform(0.0001, 0.0004, (num_blocks, 1)).astype("<f2")
    return np.hstack([scale.view(np.uint8), rng.integers(-127, 128, (num_blocks, 32), np.int8).view(np.uint8)])
