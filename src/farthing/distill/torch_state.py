"""Where a training stands, on disk: from it a killed run goes on to the same result, bit for bit."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farthing.distill.progress import Point
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, SparseTargets
from farthing.errors import InvalidRequest

__all__ = ["Checkpoints", "Standing", "run_digest"]


@dataclass
class Standing:
    """What changes from step to step, beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0
    num_tokens: int = 0
    loss: float = 0.0  # a running mean
    loss_sum: float = 0.0  # since the last point
    loss_count: int = 0
    best: Point | None = None
    history: tuple[Point, ...] = ()


class Checkpoints:
    """Files of one run in a folder of its own, each written whole. The best weights' file is named by its step, so that
    a run that goes on from before it finds the one that its own checkpoint speaks of."""

    def __init__(self, work: Path, digest: str) -> None:
        self.folder = work / f"run-{digest[:16]}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(f"{work}: cannot be written ({error.strerror})") from None
        self._state = self.folder / "state.pt"

    def save(self, standing: Standing, trained: Mapping[str, Tensor], optimizer: Any) -> None:
        history = [astuple(point) for point in standing.history]
        plain = {key: value for key, value in vars(standing).items() if key not in ("best", "history")}
        best = None if standing.best is None else standing.best.step
        state = {"plain": plain, "history": history, "best": best}
        weights = {name: parameter.detach() for name, parameter in trained.items()}
        self._write(self._state, state | {"weights": weights, "optimizer": optimizer.state_dict()})
        for path in self.folder.glob("best-*.pt"):
            if standing.best is None or path != self._best(standing.best):
                path.unlink()

    def load(self, trained: Mapping[str, Tensor], optimizer: Any) -> Standing:
        """The standing, its weights and optimizer put in place; a new one where nothing was saved."""
        if not self._state.is_file():
            return Standing()
        state = self._read(self._state)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        history = tuple(Point(*values) for values in state["history"])
        best = next((point for point in history if point.step == state["best"]), None)
        return Standing(**state["plain"], best=best, history=history)

    def save_best(self, point: Point, trained: Mapping[str, Tensor]) -> None:
        self._write(self._best(point), {name: parameter.detach() for name, parameter in trained.items()})

    def load_best(self, point: Point) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = self._read(self._best(point))
        return weights

    def remove(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _best(self, point: Point) -> Path:
        return self.folder / f"best-{point.step:08}.pt"

    def _write(self, path: Path, content: object) -> None:
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise InvalidRequest(f"{path}: cannot be written ({error.strerror})") from None

    def _read(self, path: Path) -> Any:
        try:
            return torch.load(path, weights_only=True)
        except Exception as error:  # zip, pickle and torch raise what they like
            what = " ".join(str(error).split())[:120]
            raise InvalidRequest(f"{path}: not a checkpoint ({what}); remove {path.parent} to begin anew") from None


def run_digest(start: Path, train: Sequence[Sample], held_out: Sequence[Sample], recipe: Recipe) -> str:
    """Names a training by all that its result hangs on."""
    digest = hashlib.blake2b(repr(recipe).encode(), digest_size=16)
    for path in sorted(start.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors"):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    for sample in (*train, None, *held_out):
        _add(digest, sample)
    return digest.hexdigest()


def _add(digest: Any, sample: Sample | None) -> None:
    if sample is None:
        digest.update(b"held out")
        return
    digest.update(repr((sample.label, sample.num_prompt_tokens, len(sample.token_ids))).encode())
    digest.update(np.asarray(sample.token_ids, np.int32).tobytes())
    targets = sample.teacher
    parts: list[Any] = [targets, sample.hidden]
    if isinstance(targets, SparseTargets):
        parts = [targets.ids, targets.log_probs, targets.tail_log_mass, sample.hidden]
    for part in parts:
        digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
