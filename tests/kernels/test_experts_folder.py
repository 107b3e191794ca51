"""Experts' weights in a file instead of memory: the same answers, nothing left behind, no room is an error."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from farthing import kernels
from farthing.errors import InvalidRequest
from farthing.kernels.plan import KVSpec
from farthing.models import load_model
from tests.models.small import GOLDEN, NUM_PROMPTS, golden, logits_of

SPARSE = ("mixtral", "qwen2_moe")


def program_of(name: str, folder: Path | None) -> kernels.Program:
    model = load_model(GOLDEN / name)
    c = model.config
    kv = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, 2 * NUM_PROMPTS, 16, "f32", "f32")
    return kernels.load(model.plan(), kv, experts_folder=folder)


@pytest.mark.parametrize("name", SPARSE)
def test_answers_are_the_same(name: str, tmp_path: Path) -> None:
    ids = golden(f"{name}/golden.npz")["prompt_4"]
    in_memory, in_file = program_of(name, None), program_of(name, tmp_path)
    assert list(tmp_path.iterdir()) == []  # the file has no name, and so is gone whatever happens
    assert in_file.weight_bytes == in_memory.weight_bytes
    assert np.array_equal(logits_of(in_file, ids), logits_of(in_memory, ids))


def test_a_dense_model_needs_no_file(tmp_path: Path) -> None:
    assert np.isfinite(logits_of(program_of("llama", tmp_path), [5, 6])).all()


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"missing cannot be made: No such file.*experts_folder another place"):
        program_of("mixtral", tmp_path / "missing")


@pytest.fixture
def small_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_no_room_on_disk_is_an_error_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"bytes for experts cannot be had on disk: File too large; give"):
        program_of("mixtral", tmp_path)
