"""The measuring itself, on a checkpoint small enough to run every lever in a second."""

import dataclasses
from pathlib import Path

import pytest

from farthing.economics.waterfall import split_seconds
from farthing.errors import CapacityError
from farthing.report.levers import is_four_bit, levers
from farthing.report.machine import peak_bytes, reset_peak, this_machine
from farthing.report.measure import Findings, measure, sample_of
from farthing.report.workload import Workload
from farthing.request import Message, Request, SamplingParams

GOLDEN = str(Path(__file__).parents[1] / "golden" / "llama")
SYSTEM = Message("system", "the same beginning for all of them, long enough to fill pages of sixteen tokens")


def requests(count: int = 6, max_tokens: int = 6) -> tuple[Request, ...]:
    return tuple(
        Request((SYSTEM, Message("user", "abc" * n)), params=SamplingParams(0.0, max_tokens=max_tokens))
        for n in range(1, count + 1)
    )


class Ticks:
    """Notes the progress; raises KeyboardInterrupt when a title comes up, as Ctrl-C would."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.titles: list[str] = []
        self.done: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self.stop_at = stop_at

    def begin(self, title: str, total: int) -> None:
        if title == self.stop_at:
            raise KeyboardInterrupt
        self.titles.append(title)
        self.totals[title], self.done[title] = total, 0

    def advance(self, amount: int) -> None:
        self.done[self.titles[-1]] += amount


def run(stop_at: str | None = None) -> tuple[Findings, Ticks]:
    ticks = Ticks(stop_at)
    return measure(GOLDEN, Workload("test", requests()), 1, ticks), ticks


def test_every_lever_is_measured_in_order_with_its_quality() -> None:
    findings, ticks = run()
    names = [lever.name for lever in levers(frozenset({"f16"}))]
    assert [result.lever for result in findings.results] == names
    assert findings.missing == ()
    assert ticks.done == ticks.totals
    kinds = [result.quality.kind for result in findings.results]
    assert kinds == ["reference", *["identical"] * 3, *["measured"] * 4, "identical"]
    for result in findings.results:
        assert result.measured.seconds > 0
        assert result.measured.usage.output_tokens > 0
    reuse = findings.results[3].measured.usage
    assert reuse.cache_read_tokens > 5 * 64
    assert findings.results[2].measured.usage.cache_read_tokens == 0
    eight, four, _ = (result.quality for result in findings.results[4:7])
    assert eight.kl_divergence is not None
    assert four.kl_divergence is not None
    assert 0 < eight.kl_divergence < four.kl_divergence
    assert eight.tokens > 150  # each position once: less than six whole conversations


def test_an_interrupt_keeps_the_complete_rows() -> None:
    findings, _ = run(stop_at="continuous batching")
    assert [result.lever for result in findings.results] == ["full precision, no KV cache", "KV cache"]
    assert findings.missing[0] == "continuous batching"
    assert len(findings.missing) == 7
    assert any("Interrupted" in note for note in findings.notes)


def test_a_lever_that_changes_answers_is_not_called_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lossless is checked, not believed: with prefix reuse made lossy, its row says measured and how many differ."""
    lossy = tuple(
        dataclasses.replace(lever, product="int8", weights="q4_0") if lever.name == "prefix reuse" else lever
        for lever in levers(frozenset({"f16"}))[:4]
    )
    monkeypatch.setattr("farthing.report.measure.levers", lambda _: lossy)
    findings, _ = run()
    quality = findings.results[-1].quality
    assert quality.kind == "measured"
    assert quality.num_different
    assert quality.kl_divergence


def test_the_first_row_is_scaled_from_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.report.measure.MAX_SAMPLE_TOKENS", 400)
    findings, _ = run()
    first, second = findings.results[:2]
    sample = first.sample
    assert sample is not None
    assert sample.num_requests < 6
    assert first.measured.usage.input_tokens == second.measured.usage.input_tokens
    assert sample.output_ratio is not None
    of_next = split_seconds(second.measured.usage, second.measured.seconds)[1]
    assert first.measured.usage.output_s == pytest.approx(sample.output_ratio * float(of_next), rel=1e-3)
    assert any("run on" in note for note in findings.notes)


def test_the_sample_spreads_over_the_work_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    many = requests(50, max_tokens=20)
    monkeypatch.setattr("farthing.report.measure.MAX_SAMPLE_TOKENS", 5_000)
    chosen = sample_of(many)
    assert 2 <= len(chosen) < 50
    assert chosen == sorted(set(chosen))
    assert chosen[0] < 15
    assert chosen[-1] > 30
    monkeypatch.setattr("farthing.report.measure.MAX_SAMPLE_TOKENS", 1)
    assert sample_of(many) == [24]


def test_four_bit_files_keep_their_own_blocks() -> None:
    assert is_four_bit(frozenset({"q4_1"}))
    assert not is_four_bit(frozenset({"q4_1", "q6_k"}))
    assert [lever.weights for lever in levers(frozenset({"q4_1"}))][-3:] == [None, None, None]
    assert [lever.weights for lever in levers(frozenset({"q6_k"}))][-3:] == ["q4_1"] * 3


def test_only_the_last_lever_speculates() -> None:
    engines = [lever.engine_config(1) for lever in levers(frozenset({"f16"}))]
    assert [engine.speculation for engine in engines] == [*["off"] * 8, "prompt-lookup"]
    assert engines[-1] == dataclasses.replace(engines[-2], speculation="prompt-lookup")


def test_keys_and_values_of_8_bits_are_a_row_of_their_own() -> None:
    engines = [lever.engine_config(1) for lever in levers(frozenset({"f16"}))]
    assert [(engine.k_codec, engine.v_codec) for engine in engines] == [*[("f16", "f16")] * 7, *[("q8", "q8")] * 2]
    assert engines[-2] == dataclasses.replace(engines[-3], k_codec="q8", v_codec="q8")


def test_the_memory_mark_falls_back() -> None:
    if not reset_peak():
        pytest.skip("this system does not tell")
    block = bytearray(b"x" * (64 << 20))
    high = peak_bytes()
    del block
    assert reset_peak()
    low = peak_bytes()
    assert high is not None
    assert low is not None
    assert high - low > 48 << 20


def test_the_machine_is_described() -> None:
    machine = this_machine("avx2")
    assert machine.cpu
    assert machine.num_cores >= 1
    assert "avx2" in str(machine)


def test_a_request_too_long_is_refused_before_anything_is_measured():
    ticks = Ticks()
    too_long = Request((Message("user", "abc" * 9000),), params=SamplingParams(0.0, max_tokens=6))
    with pytest.raises(CapacityError, match=r"w: request 3 has \d+ tokens; llama takes at most \d+"):
        measure(GOLDEN, Workload("w", (*requests(2), too_long)), 1, ticks)
    assert not ticks.titles
