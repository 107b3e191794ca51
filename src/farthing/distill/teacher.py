"""What the teacher says of every sample, collected by our own engine: many texts at a time, kept in a compact file.

A classifier gives the logits of all labels. Of a model that writes text each token of the given answer has a row: the
likeliest tokens with the mass of all others, or tokens drawn from its distribution, whose mean is without bias where a
cut-off tail is not. A second call goes on where the first was killed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing import kernels
from farthing.distill.samples import Sample, SparseTargets, check_samples
from farthing.distill.teacher_file import TargetKind, TargetsFile, TargetsHeader
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.errors import CapacityError, InvalidRequest
from farthing.kernels.plan import Batch, KVSpec, Product
from farthing.models import Model
from farthing.models.log_softmax import log_softmax

__all__ = ["TeacherSettings", "collect"]

F32 = NDArray[np.float32]
Ints = NDArray[Any]  # of whole numbers

PAGE_SIZE = 16
MOST_TEXTS = 32
BATCH_TOKENS = 512  # that go through the model together
FLUSH_EVERY = 64  # samples; what a kill can lose
LEAST_LOG = np.float32(-60_000)  # half precision ends at 65,504


@dataclass(frozen=True)
class TeacherSettings:
    """Of a model that writes text: how many tokens a row keeps (48 are 290 bytes), and whether they are drawn.

    The teacher is run in float32 products unless told otherwise. Raises InvalidRequest.
    """

    num_tokens: int = 48
    is_drawn: bool = False
    seed: int = 0
    product: Product = "f32"
    num_threads: int = 2

    def __post_init__(self) -> None:
        most = 74 if self.is_drawn else 49  # 300 bytes a token
        if not 1 <= self.num_tokens <= most:
            raise InvalidRequest(f"{self.num_tokens} tokens of the teacher's per row; allowed: 1 to {most}")


def collect(
    model: Model,
    samples: Sequence[Sample],
    path: Path,
    settings: TeacherSettings | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> list[Sample]:
    """The samples with what `model` says of them, from the file at `path` as far as it goes, the rest computed and
    added. on_progress is told how many there are.

    Raises InvalidRequest (samples that the model cannot read; a file of another teacher or of other samples),
    CapacityError (a text longer than the model holds), CorruptModel (a damaged file).
    """
    settings = settings or TeacherSettings()
    num_labels = None if model.labels is None else len(model.labels)
    bare = [replace(sample, teacher=None, label=sample.label or 0) for sample in samples]
    check_samples(bare, "the teacher", num_labels, model.config.vocab_size)
    longest = max(len(sample.token_ids) for sample in samples)
    if longest > model.config.max_position_embeddings:
        raise CapacityError(f"a text of {longest} tokens; {model.name} holds {model.config.max_position_embeddings}")
    kind: TargetKind = "labels" if num_labels is not None else "drawn" if settings.is_drawn else "top"
    width = num_labels or min(settings.num_tokens, model.config.vocab_size)
    header = TargetsHeader(model.identity(), _digest(samples), kind, width, len(samples), settings.seed)
    with TargetsFile(path, header) as file:
        missing = samples[len(file) :]
        found: Iterator[F32 | SparseTargets] = (
            _labels(model, missing, settings) if num_labels else _texts(model, missing, settings, header, len(file))
        )
        for count, targets in enumerate(found, len(file) + 1):
            file.add(targets)
            if count % FLUSH_EVERY == 0:
                file.flush()
                if on_progress is not None:
                    on_progress(count)
        file.flush()
        return [replace(sample, teacher=targets) for sample, targets in zip(samples, file.read(), strict=True)]


def _digest(samples: Sequence[Sample]) -> str:
    digest = sha256()
    for sample in samples:
        digest.update(repr((sample.token_ids, sample.num_prompt_tokens)).encode())
    return digest.hexdigest()[:32]


def _labels(model: Model, samples: Sequence[Sample], settings: TeacherSettings) -> Iterator[F32]:
    if not samples:
        return
    classifier = Classifier(model, ClassifierConfig(settings.num_threads, product=settings.product))
    for first in range(0, len(samples), FLUSH_EVERY):
        logits = classifier.classify([sample.token_ids for sample in samples[first : first + FLUSH_EVERY]])
        yield from _said(logits)


def _texts(
    model: Model, samples: Sequence[Sample], settings: TeacherSettings, header: TargetsHeader, first: int
) -> Iterator[SparseTargets]:
    """Of each sample the rows of its answer."""
    if not samples:
        return
    runner = _Runner(model, max(len(sample.token_ids) for sample in samples), settings)
    rows = runner.rows(samples)
    for number, parts in groupby(rows, lambda row: row[0]):
        logits = (_said(part) for _, part in parts)
        if header.kind == "drawn":
            draw = np.random.default_rng([settings.seed, first + number])
            yield _joined([_drawn(part, header.width, draw) for part in logits])
        else:
            yield _joined([_top(part, header.width) for part in logits])


class _Runner:
    """Whole texts through the model, several at a time; of a text that is too long for that, its parts in turn."""

    def __init__(self, model: Model, longest: int, settings: TeacherSettings) -> None:
        c = model.config
        num_pages = max(-(-longest // PAGE_SIZE), 2 * BATCH_TOKENS // PAGE_SIZE + MOST_TEXTS)
        kv = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, num_pages, PAGE_SIZE, "f32", "f32", windows=c.windows)
        self._program = kernels.load(model.plan(settings.product), kv, num_threads=settings.num_threads)
        self._num_pages = num_pages

    def rows(self, samples: Sequence[Sample]) -> Iterator[tuple[int, F32]]:
        """(number of the sample, logits of some of its answer's tokens), in order: the row before each token."""
        first = 0
        while first < len(samples):
            last, num_tokens = first, 0
            while last < len(samples) and last - first < MOST_TEXTS:
                num_tokens += len(samples[last].token_ids)
                if num_tokens > BATCH_TOKENS and last > first:
                    break
                last += 1
            group = range(first, last)
            yield from self._alone(samples[first], first) if len(group) == 1 else self._together(samples, group)
            first = last

    def _together(self, samples: Sequence[Sample], group: range) -> Iterator[tuple[int, F32]]:
        pieces = [samples[i].token_ids[:-1] for i in group]
        wanted = [samples[i].num_prompt_tokens - 1 for i in group]
        lengths = np.array([len(piece) for piece in pieces])
        starts, num_pages = np.cumsum([0, *lengths]), -(-lengths // PAGE_SIZE)
        tables = (np.cumsum(num_pages) - num_pages)[:, None] + np.arange(num_pages.max())
        positions = np.concatenate([np.arange(n) for n in lengths])
        rows = [np.arange(w, n) + s for w, n, s in zip(wanted, lengths, starts[:-1], strict=True)]
        logits = self._run(np.concatenate(pieces), positions, starts, tables, np.concatenate(rows))
        counts = np.cumsum([0, *map(len, rows)])
        for place, i in enumerate(group):
            yield i, logits[counts[place] : counts[place + 1]]

    def _alone(self, sample: Sample, number: int) -> Iterator[tuple[int, F32]]:
        ids, tables = np.asarray(sample.token_ids[:-1]), np.arange(self._num_pages)[None]
        for start in range(0, len(ids), BATCH_TOKENS):
            part = ids[start : start + BATCH_TOKENS]
            rows = np.arange(max(0, sample.num_prompt_tokens - 1 - start), len(part))
            positions = np.arange(start, start + len(part))
            logits = self._run(part, positions, np.array([0, len(part)]), tables, rows)
            if len(rows):
                yield number, logits

    def _run(self, ids: Ints, positions: Ints, starts: Ints, tables: Ints, rows: Ints) -> F32:
        arrays = (values.astype(np.int32) for values in (ids, positions, starts, tables, rows))
        return kernels.run(self._program, Batch(*arrays)).copy()


def _top(log_probs: F32, k: int) -> SparseTargets:
    """The k likeliest tokens of each row, the likeliest first, and the mass of the others."""
    some = np.argpartition(log_probs, -k, axis=1)[:, -k:] if k < log_probs.shape[1] else np.argsort(log_probs, axis=1)
    values = np.take_along_axis(log_probs, some, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    ids, values = np.take_along_axis(some, order, axis=1), np.take_along_axis(values, order, axis=1)
    rest = np.maximum(1 - np.exp(values.astype(np.float64)).sum(axis=1), 0)
    with np.errstate(divide="ignore"):
        tail = np.maximum(np.log(rest), LEAST_LOG).astype(np.float32)
    return SparseTargets(ids.astype(np.int32), values, tail)


def _drawn(log_probs: F32, k: int, draw: np.random.Generator) -> SparseTargets:
    """k tokens of each row, drawn with replacement; each stands for a k-th of the mass."""
    edges = np.cumsum(np.exp(log_probs.astype(np.float64)), axis=1)
    places = draw.random((len(log_probs), k)) * edges[:, -1:]
    ids = np.array([np.searchsorted(row, place, side="right") for row, place in zip(edges, places, strict=True)])
    ids = np.minimum(ids, log_probs.shape[1] - 1).astype(np.int32).reshape(len(log_probs), k)
    return SparseTargets(ids, np.full(ids.shape, -np.log(k), np.float32))


def _joined(parts: Sequence[SparseTargets]) -> SparseTargets:
    tails = [part.tail_log_mass for part in parts if part.tail_log_mass is not None]
    ids, logs = np.concatenate([part.ids for part in parts]), np.concatenate([part.log_probs for part in parts])
    return SparseTargets(ids, logs, np.concatenate(tails) if tails else None)


def _said(logits: F32) -> F32:
    """Such that half precision holds it."""
    return np.maximum(log_softmax(logits.astype(np.float64)), LEAST_LOG).astype(np.float32)
