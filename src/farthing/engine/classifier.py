"""Classifier: texts in, a logit for each label out. One forward over each text's tokens, nothing kept of any.

    Classifier(model).classify([ids, ids, …]) -> [n, num_labels]

As many whole texts as fit go through the model together, one after the other and without padding (a ragged batch); the
last layer computes only their last tokens, which the head reads. A text that does not fit alone goes through in parts.
What a text gets is the same, bit for bit, whatever stands beside it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from farthing import kernels
from farthing.engine.labelling import Labelled, Prompt, split_ns
from farthing.errors import CapacityError, InvalidRequest
from farthing.kernels.cores import MAX_THREADS
from farthing.kernels.plan import Batch, KVSpec
from farthing.models import Model
from farthing.models.log_softmax import log_softmax

__all__ = ["Classifier", "ClassifierConfig", "ClassifierStats", "log_probabilities"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
PAGE_SIZE = 16  # tokens


@dataclass(frozen=True)
class ClassifierConfig:
    """Raises InvalidRequest for a value outside its range."""

    num_threads: int = 2
    max_num_batched_tokens: int = 256  # that go through the model together
    product: Literal["f32", "int8"] = "int8"
    kv: Literal["f32", "f16", "q8"] = "f16"  # how keys and values of a batch are kept while it runs
    isa: str = "auto"

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; allowed: {allowed}")

        need(1 <= self.num_threads <= MAX_THREADS, "num_threads", f"1 to {MAX_THREADS}")
        need(1 <= self.max_num_batched_tokens <= 1 << 20, "max_num_batched_tokens", f"1 to {1 << 20}")
        need(self.product in ("f32", "int8"), "product", "f32, int8")
        need(self.kv in ("f32", "f16", "q8"), "kv", "f32, f16, q8")


@dataclass(frozen=True)
class ClassifierStats:
    """Since it was made."""

    num_texts: int = 0
    num_tokens: int = 0
    num_steps: int = 0
    busy_s: float = 0.0


class Classifier:
    """Not safe for concurrent calls. clock_ns: a monotonic clock in nanoseconds.

    Raises InvalidRequest for settings that cannot be, and for a model without labels.
    """

    stages: tuple[str, ...] = ()

    def __init__(
        self,
        model: Model,
        config: ClassifierConfig | None = None,
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.config = config or ClassifierConfig()
        if model.labels is None:
            raise InvalidRequest(
                f"{model.name} has no labels: it continues text; give a model with a classification head"
            )
        self.model, self.labels = model, model.labels
        self.max_len = model.config.max_position_embeddings
        self._clock_ns = clock_ns
        plan = model.plan(self.config.product, last_layer="wanted")
        self._program = kernels.load(
            plan, _kv_spec(model, self.config), num_threads=self.config.num_threads, isa=self.config.isa
        )
        self._counting = np.arange(self.max_len, dtype=np.int32)
        self._pages = np.arange(-(-self.max_len // PAGE_SIZE), dtype=np.int32)[None]  # [1, most pages of a text]
        self._num_texts = self._num_tokens = self._num_steps = self._busy_ns = 0

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def weight_bytes(self) -> int:
        """Of the weights as they lie in memory."""
        return self._program.weight_bytes

    def stats(self) -> ClassifierStats:
        return ClassifierStats(self._num_texts, self._num_tokens, self._num_steps, self._busy_ns / 1e9)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, with what the model's file puts around it."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of many: quicker than one by one."""
        return self.model.tokenizer.encode_alone(texts)

    def label(self, prompts: Sequence[Prompt]) -> Labelled:
        """Log-probabilities; time is shared by tokens. Raises as `classify` does."""
        started_ns = self._clock_ns()
        logs = log_softmax(self.classify([prompt.token_ids for prompt in prompts]))
        times_ns = split_ns(self._clock_ns() - started_ns, [len(prompt.token_ids) for prompt in prompts])
        return Labelled(logs, np.zeros(len(prompts), np.int64), times_ns)

    def is_sound(self, text: str) -> bool:
        return bool(np.isfinite(self.classify([self.encode(text)])).all())

    def warm_up(self) -> None:
        self.classify([[0]] * self.config.max_num_batched_tokens)

    def classify(self, token_ids: Sequence[Sequence[int]]) -> F32:
        """Logits [n, num_labels] of n texts.

        Raises InvalidRequest for a text without tokens or with ids that the model has not, CapacityError for one that
        is longer than the model holds; then none is computed.
        """
        lengths, flat = self.check(token_ids)
        started_ns = self._clock_ns()
        logits = np.empty((len(lengths), len(self.labels)), np.float32)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        for first, last in self._batches(lengths.tolist()):
            ids = flat[starts[first] : starts[last]]
            logits[first:last] = self._run(ids, lengths[first:last])
        self._busy_ns += self._clock_ns() - started_ns
        self._num_texts += len(lengths)
        self._num_tokens += len(flat)
        return logits

    def check(self, token_ids: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], I32]:
        """The texts' lengths [n], and all their token ids. Raises as `classify` does."""
        lengths = np.fromiter(map(len, token_ids), np.int64, len(token_ids))
        flat = np.fromiter(chain.from_iterable(token_ids), np.int32, int(lengths.sum()))
        vocab_size = self.model.config.vocab_size
        if (lengths == 0).any():
            raise InvalidRequest(f"text {int(lengths.argmin())} has no tokens; give one or more")
        if (lengths > self.max_len).any():
            longest = int(lengths.argmax())
            raise CapacityError(
                f"text {longest} has {lengths[longest]} tokens; {self.model.name} holds {self.max_len}: shorten it"
            )
        if len(flat) and not 0 <= flat.min() <= flat.max() < vocab_size:
            raise InvalidRequest(f"token ids run from {flat.min()} to {flat.max()}; allowed: 0 to {vocab_size - 1}")
        return lengths, flat

    def _batches(self, lengths: list[int]) -> Iterator[tuple[int, int]]:
        """Runs of texts that go through together."""
        first = num_tokens = 0
        for at, length in enumerate(lengths):
            if num_tokens and num_tokens + length > self.config.max_num_batched_tokens:
                yield first, at
                first, num_tokens = at, 0
            num_tokens += length
        if lengths:
            yield first, len(lengths)

    def _run(self, ids: I32, lengths: npt.NDArray[np.int64]) -> F32:
        """Logits of whole texts that go through together, or of a single long one, in parts."""
        if len(lengths) == 1:
            return self._run_alone(ids)
        num_pages = -(-lengths // PAGE_SIZE)
        firsts = np.cumsum(num_pages) - num_pages
        tables = (firsts[:, None] + np.arange(num_pages.max())).astype(np.int32)
        ends = np.cumsum(lengths)
        positions = (np.arange(len(ids)) - np.repeat(ends - lengths, lengths)).astype(np.int32)
        starts = np.concatenate([[0], ends]).astype(np.int32)
        self._num_steps += 1
        return kernels.run(self._program, Batch(ids, positions, starts, tables, starts[1:] - np.int32(1)))

    def _run_alone(self, ids: I32) -> F32:
        most, positions, pages = self.config.max_num_batched_tokens, self._counting, self._pages
        logits = np.empty((0, len(self.labels)), np.float32)
        for first in range(0, len(ids), most):
            last = min(first + most, len(ids))
            rows = [last - first - 1] if last == len(ids) else []
            self._num_steps += 1
            starts, wanted = np.array([0, last - first], np.int32), np.array(rows, np.int32)
            batch = Batch(ids[first:last], positions[first:last], starts, pages[:, : -(-last // PAGE_SIZE)], wanted)
            logits = kernels.run(self._program, batch)
        return logits


def log_probabilities(logits: F32) -> F32:
    """Natural logarithms of softmax over the last axis."""
    return log_softmax(logits)


def _kv_spec(model: Model, config: ClassifierConfig) -> KVSpec:
    """Pages for the most texts of a batch, or for the longest text. They take memory where they are used."""
    sizes = model.config
    most = max(config.max_num_batched_tokens, -(-sizes.max_position_embeddings // PAGE_SIZE))  # texts of one token
    return KVSpec(
        num_layers=sizes.num_layers,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        num_pages=most,
        page_size=PAGE_SIZE,
        k_codec=config.kv,
        v_codec=config.kv,
        windows=sizes.windows,
    )
