"""The gate of KV codecs: what a row says, which codec is chosen, and questions whose answers stand in their text."""

from dataclasses import replace
from pathlib import Path

import pytest

from farthing.engine import EngineConfig
from farthing.errors import CapacityError, InvalidRequest
from farthing.models import Model, load_model
from farthing.report.kv_quality import CodecRow, cheapest, measure_codecs
from farthing.report.quality import perplexity, windows
from farthing.report.retrieve import NUM_DIGITS, Question, questions, retrieve_accuracy
from farthing.report.score import Scorer

GOLDEN = Path(__file__).parents[1] / "golden" / "llama"
CONFIG = EngineConfig(num_threads=1, product="f32", num_edge_layers=0)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(GOLDEN)


def row(codec: str, window: int, kl: float, top1: float, bits: float = 8.5) -> CodecRow:
    return CodecRow(codec, window, bits, kl, top1, 10.0, 1.0, 100, 64)


def test_a_codec_passes_under_both_bounds_only() -> None:
    assert row("q8", 512, 0.0099, 0.9701).passes
    assert not row("q8", 512, 0.01, 0.99).passes
    assert not row("q8", 512, 0.001, 0.97).passes
    assert not row("q8", 512, float("nan"), 0.99).passes


def test_the_cheapest_passes_at_every_window() -> None:
    rows = [row("f16", 512, 0, 1, 16), row("q8", 512, 0.001, 0.99), row("tq4", 512, 0.005, 0.98, 4.25)]
    assert cheapest(rows) == "tq4"
    assert cheapest([*rows, row("tq4", 4096, 0.02, 0.98, 4.25)]) == "q8"
    assert cheapest([row("tq4", 512, 1.0, 0.5)]) is None


def test_rows_are_the_scorers_own_figures(model: Model) -> None:
    text = tuple((i * 7919 + 13) % model.config.vocab_size for i in range(700))
    ticks: list[None] = []
    codecs = ("f16", "q8", "f32/q8")
    rows = measure_codecs(model, text, 128, 400, codecs, CONFIG, lambda: ticks.append(None))
    assert [r.codec for r in rows] == list(codecs)
    assert len(ticks) == 3
    f16, q8, mixed = rows
    assert f16.kl_divergence == 0
    assert f16.top1_agreement == 1
    assert 0 < mixed.kl_divergence < q8.kl_divergence
    assert f16.bits_per_value == 16
    pieces = windows(text, 128, 400)
    reference = Scorer(model, 128, "f32", 1, "f16", "f16")
    alone = perplexity(Scorer(model, 128, "f32", 1, "q8", "q8"), pieces, reference)
    assert alone.divergence is not None
    assert (q8.perplexity, q8.kl_divergence) == (alone.perplexity, alone.divergence.kl_divergence)
    assert q8.num_targets == alone.divergence.num_positions


def test_what_cannot_be_measured(model: Model) -> None:
    text = tuple(range(1, 200))
    with pytest.raises(InvalidRequest, match="'q9' is not known"):
        measure_codecs(model, text, 128, None, ("q9",), CONFIG)
    with pytest.raises(InvalidRequest, match="the text has 199 tokens, a window 256"):
        measure_codecs(model, text, 256, None, ("q8",), CONFIG)
    with pytest.raises(CapacityError, match="context"):
        measure_codecs(model, tuple(range(1, 200)) * 200, 20_000, None, ("q8",), CONFIG)
    with pytest.raises(InvalidRequest, match="window is 8; allowed"):
        measure_codecs(model, text, 8, None, ("q8",), CONFIG)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.mark.parametrize("window", [256, 1000, 4096])
def test_questions_end_where_their_answer_belongs_and_share_their_window(window: int) -> None:
    text = letters("x" * 5000)
    asked = questions(letters, text, window, seed=3)
    assert asked == questions(letters, text, window, seed=3)
    assert asked != questions(letters, text, window, seed=4)
    for question in asked:
        prompt = "".join(map(chr, question.prompt))
        assert len(prompt) + NUM_DIGITS <= window
        fact = prompt.splitlines()[-1] + f" {question.answer}."
        assert prompt.count(fact) == 1
    shared = min(len(q.prompt) for q in asked) - 40
    assert len({q.prompt[:shared] for q in asked}) == 1
    assert len({q.answer for q in asked}) == len(asked)


def test_accuracy_counts_exact_answers_of_the_engine(model: Model) -> None:
    """The first question's answer is what this model says, the second's is not."""
    config = replace(CONFIG, num_pages=64)
    prompt = tuple(range(5, 40))
    from farthing.engine import Engine
    from farthing.request import Request, SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=NUM_DIGITS + 3, ignore_eos=True)
    [done] = Engine(model, config).generate([Request(token_ids=prompt, params=params)])
    said = done.text.strip()[:NUM_DIGITS]
    ticks: list[int] = []
    asked = [Question(prompt, said), Question(prompt, said + "!")]
    assert retrieve_accuracy(model, config, asked, ticks.append) == 0.5
    assert ticks == [1, 1]
