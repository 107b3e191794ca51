"""The quality gate of KV codecs: what each does to a model's answers, beside float16 keys and values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from farthing.engine import EngineConfig
from farthing.errors import InvalidRequest
from farthing.kernels.codecs import bits_per_value, parse_codecs
from farthing.models import Model
from farthing.report.quality import Perplexity, perplexities, windows
from farthing.report.retrieve import Question, questions, retrieve_accuracy
from farthing.report.score import Scorer

__all__ = ["GATED", "LEAST_TOP1", "MOST_KL", "CodecRow", "cheapest", "measure_codecs"]

GATED = ("f16", "q8", "q8/tq4", "tq4", "tq3", "tq2")
REFERENCE = "f16"
MOST_KL = 0.01  # nats per token
LEAST_TOP1 = 0.97
MOST_WEIGHT_BYTES = 2 << 30  # of models that are measured side by side
NUM_QUESTIONS = 64  # of a window, at least


@dataclass(frozen=True)
class CodecRow:
    """One codec at one window. bits_per_value: of K and V together, norms counted, without the layers that keep more.

    KL divergence is from float16 keys and values, in nats per token; it, top1_agreement and perplexity are over the
    targets of each window's second half. retrieve_accuracy: exact answers by questions. Shares are 0 to 1.
    """

    codec: str
    window: int
    bits_per_value: float
    kl_divergence: float
    top1_agreement: float
    perplexity: float
    retrieve_accuracy: float
    num_targets: int
    num_questions: int

    @property
    def passes(self) -> bool:
        return self.kl_divergence < MOST_KL and self.top1_agreement > LEAST_TOP1


def measure_codecs(
    model: Model,
    text: Sequence[int],
    window: int,
    num_tokens: int | None,
    codecs: Sequence[str],
    config: EngineConfig,
    tick: Callable[[], None] = lambda: None,
) -> list[CodecRow]:
    """A row for each codec ("q8", "q8/tq4") on the first num_tokens of the text, cut into windows; tick after each.

    config.product is what predictions are multiplied in; answers to questions come from the engine as it is by default.

    Raises InvalidRequest for a codec that is not known or a text shorter than a window, CapacityError for a window
    beyond the model's context.
    """
    parsed = [parse_codecs(name) for name in codecs]
    pieces = windows(text, window, num_tokens)
    asked = _questions(model, text, window)

    def scorer(k: str, v: str) -> Scorer:
        return Scorer(model, window, config.product, config.num_threads, k, v, num_edge_layers=config.num_edge_layers)

    reference = scorer(REFERENCE, REFERENCE)
    together = max(1, MOST_WEIGHT_BYTES // reference.weight_bytes)
    found: list[Perplexity] = []
    for first in range(0, len(parsed), together):
        found += perplexities([scorer(k, v) for k, v in parsed[first : first + together]], pieces, reference)
    rows = []
    for name, (k, v), of in zip(codecs, parsed, found, strict=True):
        assert of.divergence is not None
        # One sequence at a time, and room for two: a window stays while its questions are asked.
        num_pages = 2 * -(-window // config.page_size) + 2
        engine = replace(config, k_codec=k, v_codec=v, num_pages=num_pages, max_num_seqs=1)
        rows.append(
            CodecRow(
                codec=name,
                window=window,
                bits_per_value=bits_per_value(k, v, model.config.head_dim),
                kl_divergence=of.divergence.kl_divergence,
                top1_agreement=of.divergence.top1_agreement,
                perplexity=of.perplexity,
                retrieve_accuracy=retrieve_accuracy(model, replace(engine, product=EngineConfig.product), asked),
                num_targets=of.divergence.num_positions,
                num_questions=len(asked),
            )
        )
        tick()
    return rows


def cheapest(rows: Sequence[CodecRow]) -> str | None:
    """The codec of the fewest bits that passes at every window it was measured at; None where none does."""
    names = dict.fromkeys(row.codec for row in rows)
    passing = [name for name in names if all(row.passes for row in rows if row.codec == name)]
    return min(passing, key=lambda name: next(r.bits_per_value for r in rows if r.codec == name), default=None)


def _questions(model: Model, text: Sequence[int], window: int) -> list[Question]:
    """Of as many windows, in different parts of the text, as it takes."""
    asked: list[Question] = []

    def encode(piece: str) -> list[int]:
        return list(model.tokenizer.encode(piece, add_bos=False))

    for seed in range(NUM_QUESTIONS):
        first = seed * window % max(len(text) - window, 1)
        found = questions(encode, text[first:], window, seed)
        if len(found[0].prompt) > window:
            raise InvalidRequest(f"window is {window}; allowed: 64 or more tokens, which a question and its code take")
        asked += found
        if len(asked) >= NUM_QUESTIONS:
            break
    return asked
