"""One batch of a classifier: the texts of several calls are labelled together, and the time is shared among them."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.upstreams.classifier_job import ClassifierJob, Found
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.under_way import used_up

if TYPE_CHECKING:
    from farthing.engine.labelling import Labeller

__all__ = ["answer", "check_prompt", "check_text"]

Ids = Sequence[int]


def answer(classifier: "Labeller", jobs: Sequence[ClassifierJob]) -> list[tuple[ClassifierJob, Found]]:
    """What becomes of each job. Each text pays for its computing, and by its tokens for tokenizing and all else.

    A call that cannot be answered (too long, no such token, a budget that is used up, nobody waiting) does not hold up
    the others, and costs nothing.
    """
    from farthing.engine.labelling import Prompt, split_ns

    started_ns = time.perf_counter_ns()
    errors = {job: error for job in jobs if (error := _refusal(classifier, job)) is not None}
    begun = [job for job in jobs if job not in errors]
    prompts = _encoded(classifier, begun)
    for job in begun:
        for ids in prompts[job]:
            if (error := check_prompt(classifier, ids, job.question.param)) is not None:
                errors[job] = error
    begun = [job for job in begun if job not in errors]
    found = [(job, Found(Usage(), _waited_s(job, started_ns), error=error)) for job, error in errors.items()]
    if not begun:
        return found
    labelled = classifier.label(
        [
            Prompt(ids, given if isinstance(given, str) else None)
            for job in begun
            for ids, given in zip(prompts[job], job.question.prompts, strict=True)
        ]
    )
    num_tokens = [sum(map(len, prompts[job])) for job in begun]
    other_ns = max(0, time.perf_counter_ns() - started_ns - int(labelled.times_ns.sum()))
    row = 0
    for job, num_input, share_ns in zip(begun, num_tokens, split_ns(other_ns, num_tokens).tolist(), strict=True):
        its = slice(row, row + len(job.question.prompts))
        row = its.stop
        input_s = (share_ns + int(labelled.times_ns[its].sum())) * 1e-9
        usage = Usage(input_tokens=num_input, output_tokens=job.question.num_answers, input_s=input_s)
        stages = tuple(classifier.stages[at] for at in labelled.stages[its].tolist()) if classifier.stages else ()
        waited_s = _waited_s(job, started_ns)
        found.append((job, Found(usage, waited_s, classifier.labels, labelled.logs[its], stages)))
        if job.allowance is not None:
            job.allowance.charge(usage)
    return found


def check_text(classifier: "Labeller", text: str, param: str) -> UpstreamError | None:
    """Why a text cannot be classified, as far as its length tells: encoding megabytes would hold up everybody."""
    least = classifier.model.tokenizer.least_tokens(text)
    return _too_long(classifier, f"at least {least}", param) if least > classifier.max_len else None


def check_prompt(classifier: "Labeller", ids: Ids, param: str) -> UpstreamError | None:
    """Why these token ids cannot be classified, where they cannot."""
    vocab_size = classifier.model.config.vocab_size
    if len(ids) > classifier.max_len:
        return _too_long(classifier, str(len(ids)), param)
    if not ids or min(ids) < 0 or max(ids) >= vocab_size:
        what = f"{param}: is empty, or has token ids outside 0 to {vocab_size - 1}"
        return UpstreamError(what, status=400, code="invalid_value", param=param)
    return None


def _too_long(classifier: "Labeller", num_tokens: str, param: str) -> UpstreamError:
    what = f"the text has {num_tokens} tokens; this model holds {classifier.max_len}: shorten it"
    return UpstreamError(what, status=400, code="context_length_exceeded", param=param)


def _refusal(classifier: "Labeller", job: ClassifierJob) -> UpstreamError | None:
    if job.is_unwanted:
        return UpstreamError("the call was given up", status=503, code="cancelled")
    if job.allowance is not None and not job.allowance.covers():
        return used_up()
    texts = (prompt for prompt in job.question.prompts if isinstance(prompt, str))
    return next((error for text in texts if (error := check_text(classifier, text, job.question.param))), None)


def _encoded(classifier: "Labeller", jobs: Sequence[ClassifierJob]) -> dict[ClassifierJob, list[Ids]]:
    """Token ids of each job's prompts: all texts in one call, which is quicker than one by one."""
    texts = [prompt for job in jobs for prompt in job.question.prompts if isinstance(prompt, str)]
    encoded = iter(classifier.encode_all(texts))
    return {job: [next(encoded) if isinstance(p, str) else p for p in job.question.prompts] for job in jobs}


def _waited_s(job: ClassifierJob, started_ns: int) -> float:
    return max(0, started_ns - job.submitted_ns) * 1e-9
