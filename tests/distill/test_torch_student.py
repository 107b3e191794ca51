"""The loss of a batch against sums over each text alone, by transformers and NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, SparseTargets
from tests.distill.tiny import write_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from farthing.distill.torch_student import open_student  # noqa: E402

RECIPE = Recipe(is_bf16=False, ce_weight=0.7, kl_weight=0.3, hidden_weight=0.2)
TEXTS = ((5, 9, 40, 2), (77, 3), (8, 8, 8, 30, 31, 2))


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kl(p, q):
    return (np.exp(p) * (p - q)).sum(axis=-1)


def cosine(a, b):
    return (a @ b) / np.linalg.norm(a) / np.linalg.norm(b)


def alone(student, ids):
    """Logits of one text without padding, and its last hidden state."""
    with torch.no_grad():
        hidden = student.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        head = student.model.lm_head if student.num_labels is None else student.model.score
        return head(hidden).double().numpy(), hidden[-1].double().numpy()


def test_classification(tmp_path):
    student = open_student(write_tiny(tmp_path / "m", num_layers=2, labels=("a", "b", "c")), RECIPE)
    draw = np.random.default_rng(0)
    teachers = draw.standard_normal((3, 3)).astype(np.float32)
    hiddens = draw.standard_normal((3, 32)).astype(np.float32)
    labels = (0, None, 2)
    samples = [Sample(ids, labels[i], teacher=teachers[i], hidden=hiddens[i]) for i, ids in enumerate(TEXTS)]
    total = 0.0
    for sample in samples:
        logits, hidden = alone(student, sample.token_ids)
        ours, theirs = log_softmax(logits[-1]), log_softmax(sample.teacher.astype(np.float64))
        total += 0.7 * -ours[sample.label] if sample.label is not None else 0.0
        total += 0.3 * kl(theirs, ours) + 0.2 * (1 - cosine(hidden, sample.hidden.astype(np.float64)))
    assert student.loss(samples).item() == pytest.approx(total / 3, rel=1e-4)


def test_text(tmp_path):
    """Only answers count, and the mean is over their tokens; the teacher knows two tokens and a tail."""
    student = open_student(write_tiny(tmp_path / "m", num_layers=2), replace(RECIPE, hidden_weight=0.0))
    prompts, samples, total = (2, 1, 3), [], 0.0
    for ids, num_prompt in zip(TEXTS, prompts, strict=True):
        n = len(ids) - num_prompt
        top = np.array([[4, 17]] * n, np.int32)
        logs = np.log(np.array([[0.6, 0.3]] * n, np.float32))
        sample = Sample(ids, None, num_prompt, SparseTargets(top, logs, np.full(n, np.log(0.1), np.float32)))
        samples.append(sample)
        ours = log_softmax(alone(student, ids)[0])[num_prompt - 1 : -1]
        total -= 0.7 * ours[np.arange(n), list(ids[num_prompt:])].sum()
        picked = np.exp(ours[:, [4, 17]])
        coarse = np.log(np.column_stack([picked, 1 - picked.sum(axis=1)]))
        total += 0.3 * kl(np.log([[0.6, 0.3, 0.1]] * n), coarse).sum()
    answers = sum(len(ids) - n for ids, n in zip(TEXTS, prompts, strict=True))
    assert student.loss(samples).item() == pytest.approx(total / answers, rel=1e-4)


def test_hidden_states_of_another_width_are_refused(tmp_path):
    from farthing.errors import InvalidRequest

    student = open_student(write_tiny(tmp_path / "m", num_layers=1, labels=("a", "b")), RECIPE)
    with pytest.raises(InvalidRequest, match="hidden_weight"):
        student.loss([Sample((5, 2), 0, hidden=np.zeros(48, np.float32))])
