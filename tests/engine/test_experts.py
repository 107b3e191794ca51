"""Experts in a folder by the engine's own setting: the same answers, reads are counted, a dense model is refused."""

from pathlib import Path

import pytest

from farthing.engine import Engine, EngineConfig
from farthing.errors import InvalidRequest
from farthing.models import load_model
from farthing.request import Request, SamplingParams
from farthing.upstreams.local_config import LocalConfig
from tests.models.small import GOLDEN

PROMPTS = ([5, 6, 7, 8], [9, 10], [11] * 30)


def answers(folder: Path | None, isa: str = "auto", family: str = "qwen2_moe") -> tuple[list[tuple[int, ...]], Engine]:
    engine = Engine(load_model(GOLDEN / family), EngineConfig(experts_folder=folder, num_pages=40, isa=isa))
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    with engine:
        done = engine.generate([Request(token_ids=tuple(ids), params=params) for ids in PROMPTS])
    return [one.token_ids for one in done], engine


def test_answers_are_the_same_and_experts_are_counted(tmp_path: Path) -> None:
    in_memory, engine = answers(None)
    in_file, other = answers(tmp_path)
    assert in_file == in_memory
    stats = engine.stats()
    assert stats.num_sparse_layers == 2  # layers 1 and 3; 0 is dense by the list, 2 by the step
    assert stats.num_experts_read == other.stats().num_experts_read
    # Six experts of which each token takes two.
    assert 2 <= stats.experts_per_step <= 6
    assert stats.experts_per_step == stats.num_experts_read / (stats.num_steps * stats.num_sparse_layers)
    assert stats.num_page_faults == 0  # nothing of it lies on the disk


def test_the_reference_counts_the_same_experts() -> None:
    tokens, engine = answers(None, family="mixtral")
    expected, reference = answers(None, isa="reference", family="mixtral")
    assert len(tokens) == len(expected)
    assert 0 < reference.stats().num_experts_read <= reference.stats().num_steps * 2 * 5
    assert engine.stats().num_steps == reference.stats().num_steps


def test_a_dense_model_reads_none() -> None:
    stats = answers(None, family="qwen2")[1].stats()
    assert (stats.num_experts_read, stats.num_sparse_layers, stats.experts_per_step) == (0, 0, 0.0)


def test_a_dense_model_has_nothing_to_keep_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"experts_folder is '.*', but llama has no experts; leave it out"):
        Engine(load_model(GOLDEN / "llama"), EngineConfig(experts_folder=tmp_path))


def test_the_reference_keeps_all_in_memory(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="leave experts_folder out, or choose auto"):
        answers(tmp_path, isa="reference")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="missing cannot be made: No such file"):
        answers(tmp_path / "missing")


def test_the_setting_of_farthing_toml(tmp_path: Path) -> None:
    config = LocalConfig.from_table({"kind": "local", "models": ["m"], "experts_folder": str(tmp_path)})
    assert config.engine("m").experts_folder == tmp_path
    assert LocalConfig().engine("m").experts_folder is None
    with pytest.raises(InvalidRequest, match="experts_folder is 5; allowed: a string"):
        LocalConfig.from_table({"experts_folder": 5})
