"""Opens a model from disk: a file, a Hugging Face folder, or a known name in the user's cache folder.

Nothing is copied that can stay where it is: matrices are views of the mapped file until a program packs them.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farthing.errors import InvalidRequest
from farthing.kernels.formats import row_bytes
from farthing.kernels.mapped import forget_mapped
from farthing.kernels.plan import Plan, Product, QTensor
from farthing.models.config import ModelConfig
from farthing.models.decoder import LastLayer, build_plan, tensor_shapes
from farthing.models.hub import find_model
from farthing.models.opening import open_checkpoint
from farthing.models.template import encode_chat
from farthing.models.tokenizer import Tokenizer
from farthing.quant import quantizable, requantize, target_format
from farthing.request import Message

__all__ = ["Model", "load_model"]

# How much of the weights stands for them; see Tensors.digest.
_WHOLE_BYTES, _SAMPLE_EVERY, _SAMPLE_BYTES = 256 << 20, 1 << 20, 4 << 10


@dataclass(frozen=True)
class Model:
    """A model that is ready to become a program. `tensors` are named as in `decoder.py`."""

    name: str
    path: Path
    config: ModelConfig
    tokenizer: Tokenizer = field(repr=False)
    tensors: "Tensors" = field(repr=False)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token id that ends an answer."""
        return self.tokenizer.eos_ids

    @property
    def labels(self) -> tuple[str, ...] | None:
        """What a classifier chooses from, in the order of its logits; None of a model that continues text."""
        return self.config.labels or None

    @property
    def num_parameters(self) -> int:
        return sum(rows * cols for _, rows, cols in tensor_shapes(self.config))

    @property
    def num_active_parameters(self) -> int:
        """Of them, those that one token is multiplied with."""
        experts = self.config.experts
        if experts is None:
            return self.num_parameters
        one_expert = 3 * experts.intermediate_size * self.config.hidden_size
        num_idle = self.config.num_sparse_layers * (experts.num_experts - experts.rule.top_k)
        return self.num_parameters - num_idle * one_expert

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the formats they run in."""
        return self.tensors.num_bytes()

    @property
    def active_weight_bytes(self) -> int:
        """Of them, those that computing one token alone reads: of experts the mean of those it takes, of an embedding
        that is not the head as well a single row."""
        in_experts, experts = self.tensors.num_bytes(lambda name: ".experts." in name), self.config.experts
        num_bytes = self.weight_bytes - in_experts
        if not self.config.is_tied_head:
            whole = self.tensors.num_bytes(lambda name: name == "embed")
            num_bytes -= whole - whole // self.config.vocab_size
        return num_bytes + (in_experts * experts.rule.top_k // experts.num_experts if experts else 0)

    def identity(self) -> str:
        """Names what this model computes: a digest of its config, its weights, and the formats they run in."""
        return hashlib.blake2b(repr(self.config).encode() + self.tensors.digest(), digest_size=16).hexdigest()

    def plan(self, product: Product = "f32", *, last_layer: LastLayer = "all") -> Plan:
        """The operations that compute this model; see `kernels.plan.Linear` for what product means, `build_plan` for
        last_layer."""
        return build_plan(self.config, self.tensors, product, last_layer=last_layer)

    def encode_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation in the model's chat template, ready for the model's answer (or for more)."""
        return encode_chat(self.tokenizer, messages, add_generation_prompt=add_generation_prompt)


class Tensors(Mapping[str, QTensor]):
    """A checkpoint's tensors under our names, in the formats they run in.

    A matrix that is to be re-blocked is converted each time it is asked for and not kept: a program packs it once, and
    then two copies of the weights would lie in memory.
    """

    def __init__(self, tensors: Mapping[str, QTensor], format: str | None = None) -> None:
        self._tensors = tensors
        self._format = format

    def __getitem__(self, name: str) -> QTensor:
        tensor = self._tensors[name]
        result = requantize(tensor, self.format_of(name))
        if result is not tensor:
            forget_mapped(tensor.data)
        return result

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # the mixin's would convert the tensor

    def format_of(self, name: str) -> str:
        """The format that the tensor has when it is asked for."""
        tensor = self._tensors[name]
        if self._format is None or name.endswith(".router"):  # a thousandth of the bytes; decides which others are read
            return tensor.format
        return target_format(tensor, self._format)

    def digest(self) -> bytes:
        """32 bytes that stand for all weights and the formats they run in, from the file's bytes.

        Up to 256 MiB every byte counts (0.1 s for 100 MB); of more, 4 KiB of each MiB of a tensor and its end: another
        training run changes all of them, but an edit by hand between them would not be seen.
        """
        is_whole = sum(tensor.data.nbytes for tensor in self._tensors.values()) <= _WHOLE_BYTES
        digest = hashlib.blake2b(digest_size=32)
        for name, tensor in sorted(self._tensors.items()):
            digest.update(repr((name, tensor.format, self.format_of(name), tensor.rows, tensor.cols)).encode())
            data, size = tensor.data, tensor.data.nbytes
            starts = [*range(0, size, _SAMPLE_EVERY), max(0, size - _SAMPLE_BYTES)]
            for part in [data] if is_whole else [data[start : start + _SAMPLE_BYTES] for start in starts]:
                digest.update(part.data)
            forget_mapped(data)
        return digest.digest()

    def num_bytes(self, is_counted: Callable[[str], bool] = lambda _: True) -> int:
        """Bytes of all tensors, or of those whose names are counted, in these formats, without converting any."""
        tensors = ((name, tensor) for name, tensor in self._tensors.items() if is_counted(name))
        return sum(tensor.rows * row_bytes(self.format_of(name), tensor.cols) for name, tensor in tensors)


def load_model(path_or_name: str | Path, *, weights: str | None = None) -> Model:
    """Open a .gguf file, a .safetensors file that `farthing quantize` wrote, a folder with config.json, or a name that
    `farthing pull` has put in the cache folder.

    weights: re-block every matrix to this format (one of `quant.quantizable()`); None keeps the file's formats.
    Raises ModelNotFound, UnsupportedModel, CorruptModel, and InvalidRequest for an unknown `weights`.
    """
    if weights is not None and weights not in quantizable():
        raise InvalidRequest(f"weights is {weights!r}; allowed: {', '.join(quantizable())}, or none to keep the file's")
    path = find_model(path_or_name)
    is_path = os.path.exists(os.path.expanduser(path_or_name))
    name = str(path_or_name) if not is_path else path.stem if path.is_file() else path.resolve().name
    opened = open_checkpoint(path)
    return Model(name, path, opened.config, opened.tokenizer(), Tensors(opened.tensors, weights))
