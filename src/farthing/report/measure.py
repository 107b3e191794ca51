"""Runs the workload once per lever, in one process, and compares what came out.

for each lever:  free the last engine -> reset the memory mark -> load -> warm up -> TIME THE WORKLOAD -> quality
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from farthing.economics.usage import Usage
from farthing.economics.waterfall import Measured, scaled, split_seconds
from farthing.engine import Engine
from farthing.errors import CapacityError
from farthing.models import Model, load_model
from farthing.report.document import LeverResult, Quality, Sample
from farthing.report.levers import Lever, is_four_bit, levers, linear_formats
from farthing.report.machine import free_memory, peak_bytes, reset_peak
from farthing.report.quality import divergence, pieces_without_repeats
from farthing.report.score import Scorer
from farthing.report.workload import Workload
from farthing.request import Done, Request, SamplingParams, Token

__all__ = ["Findings", "Progress", "measure", "run_requests", "sample_of"]

NUM_QUALITY_TOKENS = 2_000
# Without a KV cache an answer of m tokens to a prompt of n computes about m * (n + m / 2) tokens; the sample is cut so
# that all its answers together stay below this many.
MAX_SAMPLE_TOKENS = 10_000
CHARS_PER_TOKEN = 4  # only to choose the sample, before anything is tokenized


class Progress(Protocol):
    """What a run tells while it goes on."""

    def begin(self, title: str, total: int) -> None: ...
    def advance(self, amount: int) -> None: ...


@dataclass
class Findings:
    """What has been measured so far: complete rows, the levers that are missing, and remarks."""

    results: list[LeverResult] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Run:
    """One timed pass."""

    done: list[Done]
    seconds: float
    peak_bytes: int | None

    def usage(self, indices: Sequence[int] | None = None) -> Usage:
        chosen = self.done if indices is None else [self.done[i] for i in indices]
        return sum((done.usage for done in chosen), Usage())


def measure(model: str, workload: Workload, num_threads: int, progress: Progress) -> Findings:
    """Measure every lever on `workload`. Ctrl-C ends it early: the complete rows are kept, the others named missing."""
    findings = Findings(notes=list(workload.notes))
    session = _Session(model, workload, num_threads, progress, findings)
    findings.missing = tuple(lever.name for lever in session.levers)
    try:
        for lever in session.levers:
            session.measure(lever)
            findings.missing = findings.missing[1:]
    except KeyboardInterrupt:
        findings.notes.append("Interrupted: this report holds only the rows that were complete.")
    return findings


class _Session:
    """What is carried from row to row: the model while its weights stay the same, and the answers to compare with."""

    def __init__(
        self, model: str, workload: Workload, num_threads: int, progress: Progress, findings: Findings
    ) -> None:
        opened = load_model(model)
        _check_lengths(opened, workload)  # here, and not in the middle of a measurement of minutes
        file_formats = linear_formats(opened.plan("f32"))
        self.path = model
        self.workload = workload
        self.num_threads = num_threads
        self.progress = progress
        self.findings = findings
        self.levers = levers(file_formats)
        self.sample = sample_of(workload.requests)
        self.model: Model | None = None
        self.weights: str | None = None
        self.kept: dict[str, _Run] = {}
        findings.notes += _remarks(file_formats)

    def measure(self, lever: Lever) -> None:
        """Run one row and add its result; the first row is added as it stands and scaled when the next is known."""
        requests = self.workload.requests
        indices = range(len(requests)) if lever.is_kv_cached else self.sample
        run = self._run(lever, [requests[i] for i in indices])
        measured = Measured(lever.name, run.usage(), run.seconds)
        results = self.findings.results
        if not results:
            quality = Quality("reference", "what the others are compared with", run.usage().output_tokens)
            results.append(
                LeverResult(lever.name, lever.detail, measured, quality, run.peak_bytes, self._unscaled(run, indices))
            )
        else:
            if len(results) == 1:
                self._scale_first(run, measured)
            quality = self._quality(lever, run)
            results.append(LeverResult(lever.name, lever.detail, measured, quality, run.peak_bytes))
        self.kept[lever.name] = run

    def _run(self, lever: Lever, requests: Sequence[Request]) -> _Run:
        if self.weights != lever.weights:
            self.model = None  # before the next one is loaded
        free_memory()
        has_mark = reset_peak()
        if self.model is None:
            self.model, self.weights = load_model(self.path, weights=lever.weights), lever.weights
        engine = Engine(self.model, lever.engine_config(self.num_threads))
        engine.generate([Request(requests[0].messages, params=SamplingParams(0.0, max_tokens=1), salt="warm-up")])
        self.progress.begin(lever.name, sum(request.params.max_tokens for request in requests))
        done, seconds = run_requests(engine, requests, self.progress)
        return _Run(done, seconds, peak_bytes() if has_mark else None)

    def _unscaled(self, run: _Run, indices: Sequence[int]) -> Sample | None:
        if len(indices) == len(self.workload.requests):
            return None
        return Sample(len(indices), run.seconds, None, None, None)

    def _scale_first(self, run: _Run, following: Measured) -> None:
        """Bring the first row from its sample to the whole workload, now that the next row has run on all of it."""
        first = self.findings.results[0]
        if first.sample is None:
            return
        usage = run.usage(self.sample)
        next_on_sample = Measured(following.lever, usage, usage.compute_s)
        # Both sides of the ratio are the engine's own seconds, which can be told apart by request.
        on_sample = Measured(first.lever, first.measured.usage, first.measured.usage.compute_s)
        ours, theirs = (split_seconds(item.usage, item.seconds) for item in (on_sample, next_on_sample))
        ratios = [float(a / b) if b else None for a, b in zip(ours, theirs, strict=True)]
        whole = scaled(first.lever, on_sample, next_on_sample, following)
        sample = Sample(first.sample.num_requests, on_sample.seconds, next_on_sample.seconds, *ratios)
        self.findings.results[0] = LeverResult(
            first.lever, first.detail, whole, first.quality, first.peak_bytes, sample
        )
        self.findings.notes.append(
            f"“{first.lever}” was run on {sample.num_requests} of {len(run.done)} requests; its seconds are those of "
            f"“{following.lever}” on the whole workload times the ratio of the two on that sample."
        )

    def _quality(self, lever: Lever, run: _Run) -> Quality:
        above_name = self.levers[[item.name for item in self.levers].index(lever.name) - 1].name
        above = self.kept[above_name]
        if not lever.is_lossless:
            return self._divergence(lever, run)
        ours = [run.done[i] for i in self.sample] if len(above.done) < len(run.done) else run.done
        num_different = sum(a.token_ids != b.token_ids for a, b in zip(ours, above.done, strict=True))
        if num_different:
            return self._divergence(lever, run)
        text = f"greedy tokens of {len(ours)} requests, compared with the row above"
        return Quality("identical", text, sum(len(done.token_ids) for done in ours), num_different=0)

    def _divergence(self, lever: Lever, run: _Run) -> Quality:
        """Against full precision, teacher-forced on the workload's prompts and its full-precision answers."""
        assert self.model is not None
        answers = self.kept.get("KV cache", run).done  # full precision, the whole workload
        num_different = sum(a.token_ids != b.token_ids for a, b in zip(run.done, answers, strict=True))
        texts = [
            (*self.model.encode_chat(request.messages), *done.token_ids)
            for request, done in zip(self.workload.requests, answers, strict=True)
        ]
        pieces = pieces_without_repeats(texts, NUM_QUALITY_TOKENS)
        longest = max(len(piece.token_ids) for piece in pieces)

        def scorer(model: Model, of: Lever) -> Scorer:
            return Scorer(model, longest, of.product, self.num_threads, of.kv, of.kv)

        first = self.levers[0]
        reference, other = scorer(load_model(self.path, weights=first.weights), first), scorer(self.model, lever)
        num_tokens = sum(len(piece.token_ids) - piece.first for piece in pieces)
        self.progress.begin(f"{lever.name}: quality", num_tokens)
        found = divergence(reference, other, pieces, self.progress.advance)
        text = (
            f"prompts of the workload and full-precision answers, each position once, teacher-forced against full "
            f"precision; {num_different} of {len(answers)} greedy answers differ from full precision's"
        )
        return Quality("measured", text, found.num_positions, found.kl_divergence, found.top1_agreement, num_different)


def run_requests(engine: Engine, requests: Sequence[Request], progress: Progress) -> tuple[list[Done], float]:
    """Answer the requests, all submitted at once, in their order; and the seconds on the wall clock."""
    started = time.perf_counter()
    ids = [engine.submit(request) for request in requests]
    left = {id: request.params.max_tokens for id, request in zip(ids, requests, strict=True)}
    done: dict[int, Done] = {}
    while engine.has_work:
        num_ticks = 0
        for event in engine.step():
            if isinstance(event, Token):
                left[event.request_id] -= 1
                num_ticks += 1
            else:
                done[event.request_id] = event
                num_ticks += max(left[event.request_id], 0)  # an answer that ended early
        if num_ticks:
            progress.advance(num_ticks)
    return [done[id] for id in ids], time.perf_counter() - started


def _check_lengths(model: Model, workload: Workload) -> None:
    """Raises CapacityError naming the first request that leaves no room for an answer."""
    context = model.config.max_position_embeddings
    for number, request in enumerate(workload.requests, start=1):
        num_tokens = len(model.encode_chat(request.messages))
        if num_tokens >= context:
            raise CapacityError(
                f"{workload.name}: request {number} has {num_tokens} tokens; {model.name} takes at most {context - 1} "
                "and an answer: shorten it or choose another model"
            )


def sample_of(requests: Sequence[Request]) -> list[int]:
    """Indices of the requests for the row without a KV cache: evenly spread over the requests by their work there.

    As many as stay below MAX_SAMPLE_TOKENS computed tokens (always at least one), in the workload's order.
    """
    work = [_work(request) for request in requests]
    order = sorted(range(len(requests)), key=lambda i: (work[i], i))
    best = [order[(len(order) - 1) // 2]]
    for count in range(1, len(order) + 1):
        chosen = sorted({order[(2 * k + 1) * len(order) // (2 * count)] for k in range(count)})
        if sum(work[i] for i in chosen) <= MAX_SAMPLE_TOKENS:
            best = chosen
    return best


def _work(request: Request) -> float:
    """Tokens computed for the request without a KV cache, about."""
    num_prompt = sum(len(message.content) for message in request.messages) / CHARS_PER_TOKEN
    return request.params.max_tokens * (num_prompt + request.params.max_tokens / 2)


def _remarks(file_formats: frozenset[str]) -> list[str]:
    names = ", ".join(sorted(file_formats)).upper()
    if is_four_bit(file_formats):
        return [
            f"This model's file holds its layers in 4 bits already ({names}). “Full precision” is those weights "
            "unpacked to f32, so the 4-bit rows, which keep the file's own blocks, are lossless by construction, and "
            "8-bit weights, a second rounding onto another grid, are not."
        ]
    if file_formats != {"f32"}:
        return [f"“Full precision” is the file's own weights ({names}) unpacked to f32."]
    return []
