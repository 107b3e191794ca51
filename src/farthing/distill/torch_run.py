"""The steps of a training: batches, evaluation, checkpoints, and when it ends."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from farthing.distill.batches import epoch_batches, length_batches, steps_per_epoch
from farthing.distill.progress import Point, Progress, Trained
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, check_samples
from farthing.distill.torch_optimizer import learning_share, make_optimizer, set_learning_rates
from farthing.distill.torch_state import Checkpoints, run_digest
from farthing.distill.torch_student import Student, open_student
from farthing.engine.labelling import cut
from farthing.errors import CorruptModel, InvalidRequest
from farthing.models.opening import read_json
from farthing.models.output import check_output

__all__ = ["class_outputs", "run"]

_EVALUATION_BATCH = 64
_MEAN = 0.95  # how slowly the running mean of the loss forgets


def run(
    start: Path,
    out: Path,
    train: Sequence[Sample],
    held_out: Sequence[Sample],
    recipe: Recipe,
    work: Path,
    on_progress: Callable[[Progress], None],
) -> Trained:
    """See `torch_train.train`."""
    with _settings(recipe):
        student = open_student(start, recipe)
        train = _of_length(train, student, recipe)
        held_out = _of_length(held_out, student, recipe)
        check_samples(train, "training", student.num_labels, student.vocab_size)
        check_samples(held_out, "held out", student.num_labels, student.vocab_size)
        if student.num_labels is not None and all(sample.label is None for sample in held_out):
            raise InvalidRequest("held out: no sample has a label, so that the best point cannot be told; label some")
        digest = run_digest(start, train, held_out, recipe)
        checkpoints = Checkpoints(work, digest)
        if (done := _already(out, digest)) is not None:
            checkpoints.remove()  # a kill may have come just before
            return done
        check_output(out, "folder")
        return _Run(student, train, held_out, checkpoints, on_progress).finish(out, digest)


@contextmanager
def _settings(recipe: Recipe) -> Iterator[None]:
    """Threads as the recipe says, and only operations whose result does not hang on chance."""
    threads, is_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        torch.set_num_threads(recipe.num_threads or threads)
        torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(is_strict)


def _of_length(samples: Sequence[Sample], student: Student, recipe: Recipe) -> list[Sample]:
    """None longer than max_length: a text to classify is cut before its last token, another is left out."""
    longest = recipe.max_length
    if student.num_labels is None:
        return [sample for sample in samples if len(sample.token_ids) <= longest]
    return [replace(sample, token_ids=cut(sample.token_ids, longest)) for sample in samples]


def _already(out: Path, digest: str) -> Trained | None:
    """What stands in a folder that this very training has written."""
    if not (out / "training.json").is_file():
        return None
    notes = read_json(out / "training.json")
    if notes.get("digest") != digest:
        return None
    try:
        history = tuple(Point(**point) for point in notes["history"])
        best = next(point for point in history if point.step == notes["best_step"])
        return Trained(out, best, history, notes["num_steps"], notes["num_tokens"], notes["seconds"])
    except (KeyError, TypeError, StopIteration):
        raise CorruptModel(f"{out}/training.json is not what a training writes; remove {out} to train anew") from None


class _Run:
    def __init__(
        self,
        student: Student,
        train: Sequence[Sample],
        held_out: Sequence[Sample],
        checkpoints: Checkpoints,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.student, self.recipe, self.checkpoints = student, student.recipe, checkpoints
        self.train, self.held_out, self.on_progress = train, held_out, on_progress
        self.trained = student.trained()
        num_layers = student.model.config.num_hidden_layers
        self.optimizer = make_optimizer(self.trained, num_layers, self.recipe)
        self.now = checkpoints.load(self.trained, self.optimizer)
        self.lengths = [len(sample.token_ids) for sample in train]
        self.per_epoch = steps_per_epoch(len(train), self.recipe.batch_size)
        self.num_steps = self._num_steps()
        self._epoch, self._batches = -1, list[list[int]]()
        self._clock = time.monotonic()
        self._saved = self.now.seconds

    def _num_steps(self) -> int | None:
        by_epochs = None if self.recipe.epochs is None else max(1, round(self.recipe.epochs * self.per_epoch))
        given = [count for count in (by_epochs, self.recipe.num_steps) if count is not None]
        return min(given) if given else None

    def done(self, ahead: int = 0) -> float:
        """The share of the training that is over, `ahead` steps from here; by steps or by the clock, whichever is
        further. Without minutes the clock is not asked, so that the run can be repeated."""
        by_steps = 0.0 if self.num_steps is None else (self.now.step + ahead) / self.num_steps
        by_clock = 0.0 if self.recipe.minutes is None else self.now.seconds / (60 * self.recipe.minutes)
        return min(1.0, max(by_steps, by_clock))

    def finish(self, out: Path, digest: str) -> Trained:
        while not self._is_over():
            self._step()
            is_last = self.done() >= 1
            if self.now.step % self.recipe.evaluate_every == 0 or is_last:
                self._evaluate()
            self._tick()
            if self.now.seconds - self._saved >= self.recipe.checkpoint_every_s:
                self._save()
        if not self.now.history or self.now.history[-1].step != self.now.step:
            self._evaluate()  # the clock ran out between two evaluations
        self._save()
        now, best = self.now, self.now.best
        assert best is not None
        notes = {
            "digest": digest,
            "best_step": best.step,
            "num_steps": now.step,
            "num_tokens": now.num_tokens,
            "seconds": round(now.seconds, 1),
            "history": [asdict(point) for point in now.history],
        }
        self.student.write(out, self.checkpoints.load_best(best), notes)
        self.checkpoints.remove()
        return Trained(out, best, now.history, now.step, now.num_tokens, round(now.seconds, 1))

    def _is_over(self) -> bool:
        return self.done() >= 1 or self._is_stuck()

    def _is_stuck(self) -> bool:
        now, patience = self.now, self.recipe.patience
        if patience is None or now.best is None:
            return False
        return sum(1 for point in now.history if point.step > now.best.step) >= patience

    def _step(self) -> None:
        now, epoch = self.now, self.now.step // self.per_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._batches = epoch_batches(self.lengths, self.recipe.batch_size, self.recipe.seed, epoch)
        batch = self._batches[now.step % self.per_epoch]
        set_learning_rates(self.optimizer, learning_share(self.done(ahead=1), self.recipe.warmup))
        loss = self.student.loss([self.train[i] for i in batch])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        if not math.isfinite(value):
            raise InvalidRequest(f"the loss is not a number after step {now.step}; lower learning_rate")
        now.step += 1
        now.num_tokens += sum(self.lengths[i] for i in batch)
        now.loss = value if now.step == 1 else _MEAN * now.loss + (1 - _MEAN) * value
        now.loss_sum, now.loss_count = now.loss_sum + value, now.loss_count + 1

    def _evaluate(self) -> None:
        now = self.now
        loss, accuracy = evaluate(self.student, self.held_out)
        point = Point(now.step, loss, accuracy, now.loss_sum / max(1, now.loss_count))
        now.loss_sum, now.loss_count = 0.0, 0
        now.history = (*now.history, point)
        if point.is_better_than(now.best):
            self.checkpoints.save_best(point, self.trained)
            now.best = point

    def _save(self) -> None:
        self.checkpoints.save(self.now, self.trained, self.optimizer)
        self._saved = self.now.seconds

    def _tick(self) -> None:
        now, clock = self.now, time.monotonic()
        now.seconds += clock - self._clock
        self._clock = clock
        done = self.done()
        left = now.seconds * (1 - done) / done if done else 0.0
        latest = now.history[-1] if now.history else None
        self.on_progress(
            Progress(now.step, self.num_steps, now.loss, now.num_tokens, now.seconds, left, latest, now.best)
        )


def class_outputs(
    folder: Path, samples: Sequence[Sample], recipe: Recipe
) -> Iterator[tuple[list[int], NDArray[np.float32], NDArray[np.float32]]]:
    """Places of some samples, logits and hidden states [n, ...] of them; see `torch_teacher.taught`."""
    with _settings(recipe), torch.no_grad():
        teacher = open_student(folder, replace(recipe, lora_rank=0))
        if teacher.num_labels is None:
            raise InvalidRequest(f"{folder} is no classifier: it has no labels")
        teacher.model.eval()
        samples = _of_length(samples, teacher, recipe)
        for batch in length_batches([len(sample.token_ids) for sample in samples], _EVALUATION_BATCH):
            logits, hidden = teacher.class_outputs([samples[i] for i in batch])
            yield batch, logits.numpy(), hidden.float().numpy()


def evaluate(student: Student, samples: Sequence[Sample]) -> tuple[float, float | None]:
    """Mean loss with the right answers alone, where there are any, else the recipe's; and accuracy of a classifier."""
    losses, num_right, num_labelled = 0.0, 0, 0
    student.model.eval()
    with torch.no_grad():
        for batch in length_batches([len(sample.token_ids) for sample in samples], _EVALUATION_BATCH):
            part = [samples[i] for i in batch]
            if student.num_labels is None:
                losses += student.loss(part).item() * len(part)
                continue
            logits, _ = student.class_outputs(part)
            labels = torch.tensor([-1 if s.label is None else s.label for s in part])
            log_probs = torch.log_softmax(logits, dim=-1)
            is_labelled = labels >= 0
            losses -= log_probs[torch.arange(len(part)), labels.clamp_min(0)][is_labelled].sum().item()
            num_right += int((logits.argmax(dim=-1) == labels)[is_labelled].sum())
            num_labelled += int(is_labelled.sum())
    student.model.train()
    if student.num_labels is None:
        return losses / len(samples), None
    return losses / num_labelled, num_right / num_labelled
