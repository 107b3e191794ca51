"""A model of transformers that is trained: its passes, its losses, what of it is trained, and how it is written."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from farthing.distill.folder import FolderDtype, to_float
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, SparseTargets
from farthing.distill.torch_lora import add_lora, merged
from farthing.distill.torch_losses import coarse, divergence, hidden_distance, sampled_cross_entropy
from farthing.errors import CorruptModel, InvalidRequest
from farthing.kernels.formats import dequantize
from farthing.models import load_model
from farthing.models.new_folder import new_folder, write_tensors
from farthing.models.opening import read_json
from farthing.models.safetensors import read_safetensors

__all__ = ["Student", "open_student"]

_WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True)
class Student:
    model: Any  # of transformers
    folder: Path  # that it was opened from
    num_labels: int | None  # None: it writes text
    vocab_size: int
    adapters: Mapping[str, Any]  # linear layers beside which there is one, by name
    recipe: Recipe

    def trained(self) -> dict[str, Tensor]:
        """What the optimizer changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        """The recipe's loss, mean over texts (classification) or over answer tokens."""
        with self._products():
            rows, hidden = self._hidden(samples)
        if self.num_labels is None:
            return self._text_loss(samples, rows)
        return self._class_loss(samples, self._scores(hidden), hidden)

    def class_outputs(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Logits [B, num_labels] and the hidden states [B, hidden] that they are made of."""
        with self._products():
            _, hidden = self._hidden(samples)
        return self._scores(hidden), hidden

    def _products(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.is_bf16)

    def _hidden(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Final-normed hidden states: of every token [B, T, hidden], of each last one [B, hidden].

        Padding stands on the right, where a causal model cannot see it: no mask is needed.
        """
        lengths = [len(sample.token_ids) for sample in samples]
        ids = torch.zeros(len(samples), max(lengths), dtype=torch.int64)
        for row, sample in enumerate(samples):
            ids[row, : lengths[row]] = torch.tensor(sample.token_ids)
        rows = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        last = torch.tensor(lengths) - 1
        return rows, rows[torch.arange(len(samples)), last]

    def _scores(self, hidden: Tensor) -> Tensor:
        return self.model.score(hidden.float())

    def _class_loss(self, samples: Sequence[Sample], logits: Tensor, hidden: Tensor) -> Tensor:
        recipe, total = self.recipe, torch.zeros(())
        log_probs = torch.log_softmax(logits, dim=-1)
        labelled = [i for i, sample in enumerate(samples) if sample.label is not None]
        taught = [i for i, sample in enumerate(samples) if sample.teacher is not None]
        if recipe.ce_weight and labelled:
            labels = torch.tensor([samples[i].label for i in labelled])
            total = total - recipe.ce_weight * log_probs[labelled, labels].sum()
        if recipe.kl_weight and taught:
            teacher = torch.log_softmax(
                torch.from_numpy(np.stack([np.asarray(samples[i].teacher) for i in taught])), dim=-1
            )
            apart = divergence(log_probs[taught], teacher, recipe.kl, recipe.jsd_beta, recipe.temperature)
            total = total + recipe.kl_weight * apart.sum()
        return (total + self._hidden_loss(samples, hidden)) / len(samples)

    def _hidden_loss(self, samples: Sequence[Sample], hidden: Tensor) -> Tensor:
        """Summed over texts."""
        given = [i for i, sample in enumerate(samples) if sample.hidden is not None]
        if not self.recipe.hidden_weight or not given:
            return torch.zeros(())
        teacher = torch.from_numpy(np.stack([np.asarray(samples[i].hidden) for i in given]))
        if teacher.shape[-1] != hidden.shape[-1]:
            wide = f"the teacher's hidden states have {teacher.shape[-1]} numbers, the student's {hidden.shape[-1]}"
            raise InvalidRequest(f"{wide}; hidden_weight needs them alike: set it to 0")
        return self.recipe.hidden_weight * hidden_distance(hidden[given].float(), teacher).sum()

    def _text_loss(self, samples: Sequence[Sample], rows: Tensor) -> Tensor:
        places = [(b, t) for b, s in enumerate(samples) for t in range(s.num_prompt_tokens - 1, len(s.token_ids) - 1)]
        text, at = (torch.tensor(part) for part in zip(*places, strict=True))
        with self._products():
            logits = self.model.lm_head(rows[text, at])
        log_probs = torch.log_softmax(logits.float(), dim=-1)  # [answer tokens, vocabulary]
        total = torch.zeros(())
        if self.recipe.ce_weight:
            right = torch.tensor([samples[b].token_ids[t + 1] for b, t in places])
            total = total - self.recipe.ce_weight * log_probs[torch.arange(len(places)), right].sum()
        if self.recipe.kl_weight:
            total = total + self.recipe.kl_weight * self._teacher_loss(samples, log_probs)
        hidden = rows[torch.arange(len(samples)), torch.tensor([len(s.token_ids) - 1 for s in samples])]
        return (total + self._hidden_loss(samples, hidden)) / len(places)

    def _teacher_loss(self, samples: Sequence[Sample], log_probs: Tensor) -> Tensor:
        """Summed over the answer tokens that the teacher has spoken of."""
        recipe, total, first = self.recipe, torch.zeros(()), 0
        for sample in samples:
            last = first + len(sample.token_ids) - sample.num_prompt_tokens
            targets, ours, first = sample.teacher, log_probs[first:last], last
            if not isinstance(targets, SparseTargets):
                continue
            ids, theirs = torch.from_numpy(targets.ids).long(), torch.from_numpy(targets.log_probs)
            if targets.tail_log_mass is None:
                total = total + sampled_cross_entropy(ours, ids, theirs).sum()
                continue
            teacher = torch.cat([theirs, torch.from_numpy(targets.tail_log_mass)[:, None]], dim=-1)
            student = coarse(ours, ids)
            total = total + divergence(student, teacher, recipe.kl, recipe.jsd_beta, recipe.temperature).sum()
        return total

    def write(self, out: Path, trained: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """A folder as the one it was opened from, with these weights instead; what was not trained keeps its bytes.

        Raises InvalidRequest where `out` exists. notes: what is to stand in its training.json.
        """
        tensors = dict(read_safetensors(self.folder))
        with torch.no_grad():
            self.model.load_state_dict(trained, strict=False)
            changed = {name: p for name, p in self.trained().items() if ".lora_" not in name}
            for name, adapter in self.adapters.items():
                t = tensors[f"{name}.weight"]
                weight = torch.from_numpy(dequantize(t.data, t.format, t.rows, t.cols))
                changed[f"{name}.weight"] = merged(adapter, weight, self.recipe)
        for name, values in changed.items():
            dtype: FolderDtype = "bfloat16" if tensors[name].format == "bf16" else "float32"
            tensors[name] = to_float(values.detach().float().numpy(), dtype)
        with new_folder(out) as part:
            for path in sorted(self.folder.iterdir()):
                if path.is_file() and not path.name.endswith(_WEIGHTS) and not path.name.startswith("."):
                    shutil.copyfile(path, part / path.name)
            write_tensors(part / "model.safetensors", tensors)
            document = {"recipe": asdict(self.recipe), **notes}
            (part / "training.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def open_student(folder: Path, recipe: Recipe) -> Student:
    """Raises ModelNotFound, CorruptModel, UnsupportedModel for a folder that cannot be read."""
    opened = load_model(folder)  # says what is wrong with a damaged one
    raw = read_json(folder / "config.json")
    labels = opened.labels
    kind = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        what = " ".join(str(error).split())[:200]
        raise CorruptModel(f"{folder}: transformers cannot open it ({type(error).__name__}: {what})") from None
    finally:
        if bars:
            logging.enable_progress_bar()
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(not recipe.lora_rank)
    for layer in model.model.layers[: recipe.frozen_layers]:
        layer.requires_grad_(False)
    adapters = {}
    if recipe.lora_rank:
        adapters = add_lora(model, recipe)
        if labels is not None:
            model.score.weight.requires_grad_(True)
    model.model.embed_tokens.weight.requires_grad_(not recipe.frozen_embeddings and not recipe.lora_rank)
    num_labels = None if labels is None else len(labels)
    return Student(model, folder, num_labels, int(raw["vocab_size"]), adapters, recipe)
