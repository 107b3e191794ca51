"""What a student is taught with: token ids, and beside them the right answer, the teacher's, or both."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest

__all__ = ["LEAST_LOG", "Sample", "SparseTargets", "check_samples", "with_second_teacher"]

F32 = NDArray[np.float32]
LEAST_LOG = -60.0  # of a probability that is none
_LEAST = 1e-9  # of a probability whose logarithm is taken


@dataclass(frozen=True, eq=False)
class SparseTargets:
    """What the teacher would say next at each of n places, of a vocabulary too large to keep whole.

    Its k likeliest tokens with the mass of all others (tail_log_mass [n]), an id of -1 where the student has no such
    token; or, where that is None, k tokens drawn without bias, log_probs then being the logarithms of their weights.
    From drawn ones the cross-entropy alone can be told: a recipe's `kl` and `temperature` mean nothing to them.
    """

    ids: NDArray[np.int32]  # [n, k]
    log_probs: F32  # [n, k]
    tail_log_mass: F32 | None = None  # [n]

    def __post_init__(self) -> None:
        n = len(self.ids)
        assert self.ids.ndim == 2
        assert self.log_probs.shape == self.ids.shape
        assert self.tail_log_mass is None or self.tail_log_mass.shape == (n,)


@dataclass(frozen=True, eq=False)
class Sample:
    """One text. Classification: `label`, and `teacher` the logits of all classes. Else the text's tokens from
    num_prompt_tokens on are the answer, and `teacher` has a row for each of them."""

    token_ids: tuple[int, ...]
    label: int | None = None
    num_prompt_tokens: int = 0
    teacher: F32 | SparseTargets | None = field(default=None, repr=False)  # [num_labels], or of each answer token
    hidden: F32 | None = field(default=None, repr=False)  # [hidden_size] the teacher's, normed, of the last token


def with_second_teacher(samples: Sequence[Sample], probabilities: F32, share: float = 0.5) -> list[Sample]:
    """The samples with the mean of two teachers: theirs, and one whose probabilities [n, num_labels] are given.

    Two that err in different places (a tuned model, and a linear one on n-grams) are together better than either.
    """
    result = []
    for sample, other in zip(samples, probabilities, strict=True):
        assert isinstance(sample.teacher, np.ndarray)
        first = np.exp(sample.teacher - sample.teacher.max(), dtype=np.float64)
        mean = (1 - share) * first / first.sum() + share * other
        result.append(replace(sample, teacher=np.log(np.maximum(mean, _LEAST)).astype(np.float32)))
    return result


def check_samples(samples: Sequence[Sample], what: str, num_labels: int | None, vocab_size: int) -> None:
    """Raises InvalidRequest for samples that do not belong to such a model; num_labels None: one that writes text."""
    if not samples:
        raise InvalidRequest(f"{what}: there is no sample; give one or more")
    for number, sample in enumerate(samples):
        problem = _problem(sample, num_labels, vocab_size)
        if problem is not None:
            raise InvalidRequest(f"{what}: sample {number} {problem}")


def _problem(sample: Sample, num_labels: int | None, vocab_size: int) -> str | None:
    size, teacher = len(sample.token_ids), sample.teacher
    if not size or not 0 <= min(sample.token_ids) <= max(sample.token_ids) < vocab_size:
        return f"has no tokens, or ids that the model has not; allowed: 0 to {vocab_size - 1}"
    if num_labels is not None:
        if sample.label is None and teacher is None:
            return "has neither a label nor the teacher's logits"
        if sample.label is not None and not 0 <= sample.label < num_labels:
            return f"has the label {sample.label}; the model has 0 to {num_labels - 1}"
        if isinstance(teacher, SparseTargets) or (teacher is not None and teacher.shape != (num_labels,)):
            return f"has not one logit of the teacher for each of {num_labels} labels: it is from another teacher"
        return None
    if not 1 <= sample.num_prompt_tokens < size:
        return f"has {size} tokens, {sample.num_prompt_tokens} of them prompt; both it and the answer need one or more"
    if teacher is None:
        return None
    if not isinstance(teacher, SparseTargets) or len(teacher.ids) != size - sample.num_prompt_tokens:
        return f"has not one row of the teacher for each of {size - sample.num_prompt_tokens} answer tokens"
    least = 0 if teacher.tail_log_mass is None else -1
    if teacher.ids.size and not least <= teacher.ids.min() <= teacher.ids.max() < vocab_size:
        return f"has a teacher with ids that the model has not; allowed: 0 to {vocab_size - 1}"
    return None
