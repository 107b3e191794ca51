"""The drift alarm: silent on the same mix, loud on another."""

import numpy as np
import pytest

from benchmarks.router_data import results_folder, routellm
from farthing.errors import InvalidRequest
from farthing.router.drift import baseline, drift
from farthing.router.encode import encode_prompts
from farthing.router.train import train
from tests.router.rows import labelled


def test_the_same_mix_raises_no_alarm_and_a_shifted_one_does() -> None:
    rng = np.random.default_rng(0)
    base = baseline({"score": rng.standard_normal(1_500)})
    looks = [drift(base, {"score": rng.standard_normal(size)}) for size in (60, 200, 1_000) for _ in range(100)]
    assert not any(look.alarms for look in looks)
    assert drift(base, {"score": rng.standard_normal(300) + 1}).alarms
    assert drift(base, {"score": 2 * rng.standard_normal(1_000)}).alarms


def test_a_signal_of_few_values_is_binned_by_them() -> None:
    rng = np.random.default_rng(0)
    base = baseline({"score": (rng.random(1_000) < 0.3).astype(float)})
    assert not drift(base, {"score": (rng.random(500) < 0.3).astype(float)}).alarms
    assert drift(base, {"score": (rng.random(500) < 0.7).astype(float)}).alarms
    constant = baseline({"score": np.ones(100)})
    assert not drift(constant, {"score": np.ones(100)}).alarms


def test_a_changed_mix_of_topics_is_noticed() -> None:
    trained = train(labelled(400, seed=1))

    def look(seed: int, topics: tuple[str, ...]) -> bool:
        prompts = labelled(300, seed, topics=topics).prompts
        return drift(trained.base, trained.signals(encode_prompts(prompts))).alarms

    assert not any(look(seed, ("garden", "court", "kitchen")) for seed in range(10, 20))
    assert look(10, ("court",))
    assert look(10, ("garden", "kitchen"))


def test_gsm8k_among_mmlu_is_noticed_and_more_mmlu_is_not() -> None:
    folder = results_folder()
    if folder is None:
        pytest.skip("FARTHING_DATA is not set: no RouteLLM results")
    mmlu, other = routellm("mmlu", folder).rows, routellm("gsm8k", folder).rows.prompts
    order = np.random.default_rng(0).permutation(len(mmlu))
    trained = train(mmlu.take(order[:600]))
    live = [mmlu.prompts[i] for i in order[600:2_600]]

    def is_alarm(prompts: list[str]) -> bool:
        return drift(trained.base, trained.signals(encode_prompts(prompts))).alarms

    assert not any(is_alarm(live[start : start + 250]) for start in range(0, 2_000, 250))
    assert is_alarm([*live[:350], *other[:150]])


def test_too_few_rows_or_other_signals_say_nothing() -> None:
    base = baseline({"score": np.arange(100.0)})
    with pytest.raises(InvalidRequest, match="drift needs 50 or more"):
        drift(base, {"score": np.arange(49.0)})
    with pytest.raises(InvalidRequest, match="of score"):
        drift(base, {"length": np.arange(60.0)})
