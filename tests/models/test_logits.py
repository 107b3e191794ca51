"""The same weights give transformers' logits and its greedy text (golden files: scripts/make_golden.py)."""

from pathlib import Path

import numpy as np
import pytest

from farthing import kernels
from farthing.errors import ModelNotFound
from farthing.models import Model, load_model
from tests.models.small import (
    GOLDEN,
    INTERLEAVED,
    NUM_PROMPTS,
    SMALL,
    SPARSE,
    golden,
    greedy,
    llama3_factors,
    logits_of,
    program_of,
    write_as_gguf,
)

BOUND = 1e-3  # largest absolute difference of a logit
NUM_NEW = 128
ISAS = (*kernels.instruction_sets(), "reference")
REAL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def real() -> Model:
    try:
        return load_model(REAL)
    except ModelNotFound:
        pytest.skip(f"{REAL} is not pulled (farthing pull {REAL})")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_small_checkpoint_logits(name: str, isa: str) -> None:
    expected = golden(f"{name}/golden.npz")
    program = program_of(load_model(GOLDEN / name), isa, num_tokens=32)
    for i in range(NUM_PROMPTS):
        found = logits_of(program, expected[f"prompt_{i}"])
        assert np.abs(found - expected[f"logits_{i}"]).max() < BOUND


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_small_checkpoint_greedy(name: str, isa: str) -> None:
    expected = golden(f"{name}/golden.npz")
    prompts = [expected[f"prompt_{i}"] for i in range(NUM_PROMPTS)]
    program = program_of(load_model(GOLDEN / name), isa, num_tokens=max(map(len, prompts)) + NUM_NEW)
    for i, ids in enumerate(greedy(program, prompts, NUM_NEW)):
        assert ids == expected[f"greedy_{i}"].tolist()


@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_gguf_gives_the_logits_of_the_folder(name: str, tmp_path: Path) -> None:
    write_as_gguf(name, tmp_path / "model.gguf")
    model = load_model(tmp_path / "model.gguf")
    folder = load_model(GOLDEN / name)
    assert model.config.rope_style == ("interleaved" if name in INTERLEAVED else "half")
    assert model.num_parameters == folder.num_parameters
    assert model.config.experts == folder.config.experts or name == "qwen2_moe"  # its sparse_step became dense layers
    expected = golden(f"{name}/golden.npz")
    program = program_of(model, "reference", num_tokens=32)
    for i in range(NUM_PROMPTS):
        found = logits_of(program, expected[f"prompt_{i}"])
        assert np.abs(found - expected[f"logits_{i}"]).max() < BOUND


def test_rope_factors_matter(tmp_path: Path) -> None:
    """Without Llama 3's scaling the logits leave the bound: the golden files would notice."""
    assert llama3_factors(16, 10000.0).tolist() != [1.0] * 8
    write_as_gguf("llama", tmp_path / "model.gguf", without="rope_freqs.weight")
    expected = golden("llama/golden.npz")
    program = program_of(load_model(tmp_path / "model.gguf"), "reference", num_tokens=32)
    found = logits_of(program, expected["prompt_4"])
    assert np.abs(found - expected["logits_4"]).max() > BOUND


@pytest.mark.parametrize(("isa", "num_prompts"), [("auto", NUM_PROMPTS), ("reference", 3)])  # the last one is long
def test_real_model_logits(real: Model, isa: str, num_prompts: int) -> None:
    expected = golden(f"{REAL}.npz")
    program = program_of(real, isa, num_tokens=400)
    for i in range(num_prompts):
        found = logits_of(program, expected[f"prompt_{i}"])  # [T, V]
        rows, columns = expected[f"rows_{i}"], expected[f"columns_{i}"]
        assert np.abs(found[np.ix_(rows, columns)] - expected[f"logits_{i}"]).max() < BOUND
        assert np.abs(found.max(axis=1) - expected[f"max_{i}"]).max() < BOUND
        highest = found.max(axis=1, keepdims=True)
        logsumexp = np.log(np.exp(found - highest).sum(axis=1, dtype=np.float64)) + highest[:, 0]
        assert np.abs(logsumexp - expected[f"logsumexp_{i}"]).max() < BOUND
        assert (found.argmax(axis=1) == expected[f"argmax_{i}"]).all()


def test_real_model_greedy(real: Model) -> None:
    expected = golden(f"{REAL}.npz")
    prompts = [expected[f"prompt_{i}"] for i in range(NUM_PROMPTS)]
    program = program_of(real, "auto", num_tokens=max(map(len, prompts)) + NUM_NEW)
    for i, ids in enumerate(greedy(program, prompts, NUM_NEW)):
        assert ids == expected[f"greedy_{i}"].tolist()
