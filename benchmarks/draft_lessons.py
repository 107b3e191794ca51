"""What a draft model learns from: the embedded model's own answers, and its distribution at each of their tokens."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.draft_prompts import editing_prompts, first_prompts
from farthing.distill.samples import Sample, SparseTargets
from farthing.distill.teacher import TeacherSettings, collect
from farthing.engine import Engine, EngineConfig
from farthing.engine.draft_ids import DraftIds
from farthing.models import Model
from farthing.models.tokenizer import Tokenizer
from farthing.request import Message, Request, SamplingParams

__all__ = ["answers", "common_tokens", "in_draft_ids", "lessons"]

MOST_TOKENS = 384  # of a prompt and its answer
LEAST_LOG = np.float32(-60_000)


def answers(model: Model, path: Path, num_prompts: int, num_threads: int, tasks: Path | None) -> list[Sample]:
    """Prompts and what the model answered, half of them greedily and half at temperature 1; kept in the file."""
    if not path.exists():
        engine = Engine(model, EngineConfig(num_threads=num_threads, max_num_seqs=32))
        first = list(_answered(engine, first_prompts(tasks)[: num_prompts * 2 // 3], 0))
        texts = [model.tokenizer.decode(sample.token_ids[sample.num_prompt_tokens :]) for sample in first]
        edited = list(_answered(engine, editing_prompts(texts)[: num_prompts - len(first)], 1))
        rows = [[sample.num_prompt_tokens, *sample.token_ids] for sample in first + edited]
        path.write_text(json.dumps(rows))
    return [Sample(tuple(row[1:]), num_prompt_tokens=row[0]) for row in json.loads(path.read_text())]


def _answered(engine: Engine, prompts: Sequence[str], seed: int) -> Iterator[Sample]:
    model = engine.model
    [end] = [id for id in (model.tokenizer.token_id("<|im_end|>"),) if id is not None]
    requests: list[Request] = []
    encoded: list[list[int]] = []
    for number, prompt in enumerate(prompts):
        ids = model.encode_chat((Message("user", prompt),))
        room = min(160 if seed == 0 else 220, MOST_TOKENS - 1 - len(ids))
        if room < 16:
            continue
        params = SamplingParams(temperature=number % 2, seed=number + 100_000 * seed, max_tokens=room)
        requests.append(Request((Message("user", prompt),), params=params))
        encoded.append(ids)
    for ids, done in zip(encoded, engine.generate(requests), strict=True):
        answer = [*done.token_ids, *([end] if done.finish_reason == "stop" else [])]
        if answer:
            yield Sample((*ids, *answer), num_prompt_tokens=len(ids))


def common_tokens(samples: Sequence[Sample], num: int) -> list[int]:
    """The ids that occur most."""
    counts: Counter[int] = Counter()
    for sample in samples:
        counts.update(sample.token_ids)
    return sorted(id for id, _ in counts.most_common(num))


def lessons(model: Model, samples: Sequence[Sample], path: Path, num_threads: int, num: int | None) -> list[Sample]:
    """The samples, the first `num` of them (None: all) with the model's distribution at each token of the answers,
    which is kept in the file."""
    settings = TeacherSettings(num_tokens=24, product="int8", num_threads=num_threads)
    return [*collect(model, samples[:num], path, settings), *(samples[num:] if num is not None else ())]


def in_draft_ids(samples: Sequence[Sample], model: Tokenizer, draft: Tokenizer, sizes: tuple[int, int]) -> list[Sample]:
    """The samples as the draft model will meet them: its own ids, and of the teacher what it can say at all."""
    to_draft = DraftIds.of(model, draft, *sizes, "the draft model").to_draft
    is_same = np.array([draft.token_text(int(to_draft[id])) == model.token_text(id) for id in range(len(to_draft))])
    found = []
    for sample in samples:
        teacher = sample.teacher
        ids = to_draft[np.array(sample.token_ids)]
        if not isinstance(teacher, SparseTargets):
            found.append(replace(sample, token_ids=tuple(ids.tolist())))
            continue
        known = is_same[teacher.ids]  # [n, k]
        mass = np.exp(teacher.log_probs)
        missing = np.minimum((mass * ~known).sum(axis=1), 0.99)  # [n]
        log_probs = np.where(known, teacher.log_probs - np.log1p(-missing)[:, None], LEAST_LOG).astype(np.float32)
        assert teacher.tail_log_mass is not None
        tail = (teacher.tail_log_mass - np.log1p(-missing)).astype(np.float32)
        targets = SparseTargets(np.where(known, to_draft[teacher.ids], 0).astype(np.int32), log_probs, tail)
        found.append(replace(sample, token_ids=tuple(ids.tolist()), teacher=targets))
    return found
