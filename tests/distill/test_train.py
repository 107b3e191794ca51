"""Training of tiny models: it learns, repeats, resumes after a kill, and leaves whole folders only."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, SparseTargets
from farthing.errors import FarthingError, InvalidRequest
from farthing.models import load_model
from tests.distill.tiny import TEXTS, write_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from farthing.distill.torch_teacher import taught  # noqa: E402
from farthing.distill.torch_train import train  # noqa: E402

LABELS = ("card", "money")
RECIPE = Recipe(
    learning_rate=3e-3, head_learning_rate=1e-2, batch_size=8, epochs=None, num_steps=24, evaluate_every=6,
    is_bf16=False, num_threads=1, checkpoint_every_s=1e-9,
)  # fmt: skip


def class_samples(folder, num=64, seed=0):
    """Made-up texts, of the words of some of TEXTS each; the label says of which."""
    draw, tokenizer = np.random.default_rng(seed), load_model(folder).tokenizer
    words = [[word for text in TEXTS[i::2] for word in text.split()] for i in range(2)]
    labels = [int(label) for label in draw.integers(0, 2, num)]
    ids = tokenizer.encode_alone([" ".join(draw.choice(words[label], 6)) for label in labels])
    return [Sample(tuple(i), label) for i, label in zip(ids, labels, strict=True)]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("start") / "m", num_layers=2, labels=LABELS)


@pytest.fixture(scope="module")
def samples(start):
    return class_samples(start)


@pytest.fixture(scope="module")
def whole(start, samples, tmp_path_factory):
    """A training that nobody disturbs, and its folder."""
    home = tmp_path_factory.mktemp("whole")
    return train(start, home / "out", samples, class_samples(start, 32, 1), RECIPE, work=home / "work")


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_it_learns_and_keeps_the_best_point(whole, start):
    assert whole.best.accuracy > 0.85
    assert [point.step for point in whole.history] == [6, 12, 18, 24]
    assert max(point.accuracy for point in whole.history) == whole.best.accuracy
    assert whole.num_steps == 24
    model = load_model(whole.folder)
    assert model.labels == LABELS
    assert (model.tensors["embed"].data == load_model(start).tensors["embed"].data).all()


def test_the_same_seed_gives_the_same_student(whole, start, samples, tmp_path):
    args = (start, tmp_path / "out", samples, class_samples(start, 32, 1))
    again = train(*args, RECIPE, work=tmp_path / "work")
    assert weights(again.folder) == weights(whole.folder)
    assert again.history == whole.history
    assert not list((tmp_path / "work").iterdir())
    assert train(*args, RECIPE, work=tmp_path / "work") == again  # it is there already
    other = train(start, tmp_path / "other", *args[2:], replace(RECIPE, seed=1), work=tmp_path / "work")
    assert weights(other.folder) != weights(whole.folder)
    with pytest.raises(InvalidRequest, match="exists"):
        train(*args, replace(RECIPE, seed=1), work=tmp_path / "work")


@pytest.mark.parametrize("at", [1, 7, 18, 23])
def test_it_goes_on_where_it_was_stopped(whole, start, samples, tmp_path, at):
    seen = []

    def stop(progress):
        seen.append(progress.step)
        if progress.step == at and len(seen) == at:
            raise KeyboardInterrupt

    args = (start, tmp_path / "out", samples, class_samples(start, 32, 1), RECIPE)
    with pytest.raises(KeyboardInterrupt):
        train(*args, work=tmp_path / "work", on_progress=stop)
    assert not (tmp_path / "out").exists()
    again = train(*args, work=tmp_path / "work", on_progress=stop)
    assert weights(again.folder) == weights(whole.folder)
    assert again.history == whole.history
    assert seen[at] == max(1, at)  # the checkpoint is from before the step that was told of


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.distill.test_train import RECIPE, class_samples
from farthing.distill.torch_train import train
start, home = Path(sys.argv[1]), Path(sys.argv[2])
stop = lambda p: os.kill(os.getpid(), signal.SIGKILL) if p.step == 14 else None
samples = class_samples(start), class_samples(start, 32, 1)
train(start, home / "out", *samples, RECIPE, work=home / "work", on_progress=stop)
"""


def test_it_goes_on_after_a_kill(whole, start, samples, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(start), str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    first = []
    args = (start, tmp_path / "out", samples, class_samples(start, 32, 1), RECIPE)
    again = train(*args, work=tmp_path / "work", on_progress=first.append)
    assert first[0].step == 14
    assert weights(again.folder) == weights(whole.folder)


def test_a_damaged_checkpoint_is_told(start, samples, tmp_path):
    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    args = (start, tmp_path / "out", samples, samples[:8], RECIPE)
    with pytest.raises(KeyboardInterrupt):
        train(*args, work=tmp_path / "work", on_progress=stop)
    [state] = tmp_path.glob("work/*/state.pt")
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InvalidRequest, match="remove"):
        train(*args, work=tmp_path / "work")


def test_minutes_end_it(start, samples, tmp_path):
    recipe = replace(RECIPE, num_steps=None, minutes=0.01, evaluate_every=10**6)
    seen = []
    done = train(start, tmp_path / "out", samples, samples[:8], recipe, work=tmp_path / "w", on_progress=seen.append)
    assert done.num_steps >= 1
    assert len(done.history) == 1
    assert seen[-1].seconds >= 0.6
    assert seen[0].seconds_left > 0


def test_a_lora_is_merged_into_ordinary_weights(start, samples, tmp_path):
    recipe = replace(RECIPE, lora_rank=4, learning_rate=2e-2, num_steps=30, evaluate_every=30)
    done = train(start, tmp_path / "out", samples, samples, recipe, work=tmp_path / "work")
    assert done.best.accuracy > 0.85
    before, after = load_model(start), load_model(done.folder)
    assert {*before.tensors} == {*after.tensors}
    changed = {name for name in before.tensors if (before.tensors[name].data != after.tensors[name].data).any()}
    assert changed == {f"layers.{i}.{part}" for i in (0, 1) for part in ["q", "k", "v", "o", "gate", "up", "down"]} | {
        "head"
    }
    by_torch = taught(done.folder, samples, recipe)
    right = sum(int(np.argmax(s.teacher) == s.label) for s in by_torch)
    assert right / len(samples) == done.best.accuracy


@pytest.mark.parametrize("rank", [0, 2])
def test_frozen_layers_stay(start, samples, tmp_path, rank):
    recipe = replace(RECIPE, frozen_layers=1, lora_rank=rank, num_steps=3, evaluate_every=3)
    done = train(start, tmp_path / "out", samples, samples[:8], recipe, work=tmp_path / "work")
    before, after = load_model(start), load_model(done.folder)
    changed = {name for name in before.tensors if (before.tensors[name].data != after.tensors[name].data).any()}
    assert {"layers.1.q", "layers.1.up", "layers.1.down", "head"} <= changed
    assert not any(name.startswith("layers.0.") for name in changed)


def test_a_student_learns_from_the_teacher_alone(whole, samples, tmp_path):
    """Without a single label: logits and hidden states of the tuned model."""
    targets = [replace(sample, label=None) for sample in taught(whole.folder, samples, RECIPE)]
    small = write_tiny(tmp_path / "small", num_layers=1, labels=LABELS, seed=5)
    recipe = replace(RECIPE, kl_weight=1.0, ce_weight=0.0, hidden_weight=0.5, temperature=2.0, num_steps=48)
    done = train(small, tmp_path / "out", targets, samples, recipe, work=tmp_path / "work")
    assert done.best.accuracy > 0.8
    wrong = [replace(targets[0], teacher=np.zeros(3, np.float32))]
    with pytest.raises(InvalidRequest, match="another teacher"):
        train(small, tmp_path / "x", wrong, samples, recipe, work=tmp_path / "work")


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_student_that_writes(tmp_path, is_sampled):
    """The answer to a text is its first token again; the teacher knows it for sure."""
    folder = write_tiny(tmp_path / "m", num_layers=2)
    draw, size = np.random.default_rng(0), load_model(folder).config.vocab_size
    rows = []
    for _ in range(48):
        first = int(draw.integers(10, 14))
        ids = np.array([[first, 3], [2, 3]], np.int32)
        logs = np.log(np.array([[0.98, 0.01]] * 2, np.float32))
        tail = None if is_sampled else np.full(2, np.log(0.01), np.float32)
        rows.append(Sample((first, 5, first, 2), None, 2, SparseTargets(ids, logs, tail)))
    recipe = replace(RECIPE, ce_weight=0.0, kl_weight=1.0, frozen_embeddings=False, num_steps=60, evaluate_every=20)
    done = train(folder, tmp_path / "out", rows, rows[:8], recipe, work=tmp_path / "work")
    losses = [point.loss for point in done.history]
    assert losses[-1] < 0.3 * losses[0] or losses[-1] < 0.25
    assert done.best.accuracy is None
    from tests.models.small import logits_of, program_of

    model = load_model(done.folder)
    assert model.config.vocab_size == size
    for first in (10, 13):
        found = logits_of(program_of(model, "auto", num_tokens=32), [first, 5, first])
        assert found[1:].argmax(axis=1).tolist() == [first, 2]


def test_a_folder_keeps_its_number_format(start, samples, tmp_path):
    from farthing.distill.folder import write_folder

    write_folder(load_model(start), tmp_path / "half", dtype="bfloat16")
    recipe = replace(RECIPE, num_steps=2, evaluate_every=2)
    done = train(tmp_path / "half", tmp_path / "out", samples, samples[:8], recipe, work=tmp_path / "work")
    assert {t.format for t in load_model(done.folder).tensors.values() if t.rows > 1} == {"bf16"}
    notes = json.loads((done.folder / "training.json").read_text())
    assert notes["recipe"]["num_steps"] == 2
    assert notes["best_step"] == 2


def test_a_damaged_folder_is_told(start, samples, tmp_path):
    write_tiny(tmp_path / "bad", num_layers=2, labels=LABELS)
    path = tmp_path / "bad" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FarthingError, match="truncated"):
        train(tmp_path / "bad", tmp_path / "out", samples, samples, RECIPE, work=tmp_path / "work")
    with pytest.raises(InvalidRequest, match="held out"):
        train(start, tmp_path / "out", samples, [], RECIPE, work=tmp_path / "work")
    unlabelled = [Sample(samples[0].token_ids, teacher=np.zeros(2, np.float32))]
    with pytest.raises(InvalidRequest, match="no sample has a label"):
        train(start, tmp_path / "out", samples, unlabelled, RECIPE, work=tmp_path / "work")
