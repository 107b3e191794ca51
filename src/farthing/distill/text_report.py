"""What came of a distillation to texts: every model's greedy answers to the held-out rows, with their cost."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from farthing.distill.data import Data, Example
from farthing.distill.job import DistillJob
from farthing.distill.report_file import STUDENT, TEACHER
from farthing.distill.result import Cost, Quality, Result
from farthing.distill.samples import Sample
from farthing.distill.stages import Made, Telling
from farthing.distill.text_run import text_samples
from farthing.engine import Engine, EngineConfig
from farthing.models import Model, load_model
from farthing.models.log_softmax import log_softmax
from farthing.report.compare_match import is_right
from farthing.report.score import Scorer
from farthing.request import Request, SamplingParams

__all__ = ["measure_text"]

MOST_ROWS = 500  # answered
MOST_COMPARED = 100  # of them, whose distributions are compared
MORE_TOKENS = 1.5  # than the longest right answer has
UNTRAINED = "untrained teacher"


def measure_text(job: DistillJob, data: Data, made: Made, telling: Telling) -> list[Result]:
    """The untrained teacher, the tuned one, the student as it was trained and quantized: exact match (but for case,
    punctuation and spaces), and KL divergence from the tuned teacher, a token of the right answer."""
    telling.stage("measuring")
    rows = data.held_out[:MOST_ROWS]
    teacher = load_model(made.teacher)
    models = {
        UNTRAINED: load_model(job.teacher),
        TEACHER: load_model(made.teacher, weights=job.format),
        STUDENT: load_model(made.student),
        f"{STUDENT}, {job.format}": load_model(made.quantized),
    }
    found = []
    for number, (name, model) in enumerate(models.items()):
        right, cost = _answered(job, model, rows)
        kl = None if name in (UNTRAINED, TEACHER) else _divergence(job, teacher, model, rows[:MOST_COMPARED])
        found.append(Result(name, Quality(len(rows), right, kl), cost))
        telling.tick("measuring", number + 1, len(models))
    return found


def _answered(job: DistillJob, model: Model, rows: Sequence[Example]) -> tuple[int, Cost]:
    """How many rows are answered right, and what one takes: all at once, as the engine batches them."""
    longest = max(len(model.tokenizer.encode(row.answer, add_bos=False)) for row in rows)
    params = SamplingParams(temperature=0, max_tokens=int(longest * MORE_TOKENS) + 4)
    engine = Engine(model, EngineConfig(num_threads=job.num_threads))
    requests = [Request(row.messages, params=params) for row in rows]
    started = time.perf_counter()
    done = engine.generate(requests)
    seconds = time.perf_counter() - started
    right = sum(is_right(answer.text, (row.answer,), "normalized") for answer, row in zip(done, rows, strict=True))
    num_tokens = sum(len(model.encode_chat(row.messages)) for row in rows) + sum(len(d.token_ids) for d in done)
    return right, Cost(seconds / len(rows), num_tokens / len(rows), model.weight_bytes)


def _divergence(job: DistillJob, teacher: Model, student: Model, rows: Sequence[Example]) -> float:
    """Nats a token of the right answers, over the tokens that both models know."""
    texts = [student.tokenizer.token_text(id) for id in range(student.tokenizer.vocab_size)]
    known = [(own, their) for own, text in enumerate(texts) if text is not None
             and (their := teacher.tokenizer.token_id(text)) is not None]  # fmt: skip
    own_ids, their_ids = (np.array(side) for side in zip(*known, strict=True))
    recipe = replace(job.student_recipe, max_length=teacher.config.max_position_embeddings)
    samples = [[text_samples(model, [row], recipe)[0] for row in rows] for model in (teacher, student)]
    longest = max(len(sample.token_ids) for part in samples for sample in part)
    scorers = [Scorer(model, longest, num_threads=job.num_threads) for model in (teacher, student)]
    total, count = 0.0, 0
    for theirs, ours in zip(*samples, strict=True):
        if len(theirs.token_ids) - theirs.num_prompt_tokens != len(ours.token_ids) - ours.num_prompt_tokens:
            continue  # an answer that the student's tokenizer cuts otherwise
        p, q = _logs(scorers[0], theirs, their_ids), _logs(scorers[1], ours, own_ids)
        total += float((np.exp(p) * (p - q)).sum())
        count += len(p)
    return total / max(count, 1)


def _logs(scorer: Scorer, sample: Sample, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-probabilities [n, len(ids)] before each token of the answer, over these tokens alone."""
    parts = [part[:, ids] for _, part in scorer.logits(sample.token_ids[:-1], sample.num_prompt_tokens - 1)]
    return log_softmax(np.concatenate(parts).astype(np.float64))
