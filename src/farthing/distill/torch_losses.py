"""The losses of distillation, on logarithms of probabilities."""

import torch
from torch import Tensor

from farthing.distill.recipe import KlKind
from farthing.distill.samples import LEAST_LOG

__all__ = ["coarse", "divergence", "hidden_distance", "sampled_cross_entropy", "soften"]

_LEAST_TAIL = 1e-7  # float32 cannot tell a smaller rest from none


def soften(log_probs: Tensor, temperature: float) -> Tensor:
    """The same distributions [..., outcomes], each probability to the power of 1 / temperature and renormed."""
    return log_probs if temperature == 1 else torch.log_softmax(log_probs / temperature, dim=-1)


def divergence(student: Tensor, teacher: Tensor, kl: KlKind, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """How far two distributions are apart, [...] of log-probabilities [..., outcomes].

    forward: KL(teacher, student), reverse: KL(student, teacher), jsd: beta KL(teacher, m) + (1 - beta) KL(student, m)
    of the mixture m = beta teacher + (1 - beta) student (arXiv 2306.13649). Times the temperature squared, so that
    gradients keep their size.
    """
    student, teacher = soften(student, temperature), soften(teacher, temperature)
    if kl == "forward":
        result = _kl(teacher, student)
    elif kl == "reverse":
        result = _kl(student, teacher)
    else:
        shares = torch.tensor([beta, 1 - beta], dtype=student.dtype).log()
        mixture = torch.logaddexp(teacher + shares[0], student + shares[1])
        result = beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)
    return result * temperature**2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Outcomes of probability 0 under p count nothing."""
    terms = p.exp() * (p - q)
    return torch.where(p == -torch.inf, torch.zeros_like(terms), terms).sum(dim=-1)


def coarse(log_probs: Tensor, ids: Tensor) -> Tensor:
    """[n, k + 1]: of distributions [n, vocabulary] the outcomes ids [n, k], and all others as one. An id of -1 is an
    outcome that cannot be."""
    picked = log_probs.gather(-1, ids.clamp_min(0)).masked_fill(ids < 0, LEAST_LOG)
    rest = (1 - picked.exp().sum(dim=-1, keepdim=True)).clamp_min(_LEAST_TAIL)
    return torch.cat([picked, rest.log()], dim=-1)


def sampled_cross_entropy(log_probs: Tensor, ids: Tensor, log_weights: Tensor) -> Tensor:
    """[n]: an estimate without bias of the cross-entropy with the teacher, from ids [n, k] drawn with weights.
    The recipe's `kl` and `temperature` do not come into it."""
    return -(log_weights.exp() * log_probs.gather(-1, ids)).sum(dim=-1)


def hidden_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """[n]: one minus the cosine of rows [n, hidden]."""
    return 1 - torch.nn.functional.cosine_similarity(student, teacher, dim=-1)
