"""The golden checkpoints, and what tests do with them: run prompts, decode greedily, write them as GGUF."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from farthing import kernels
from farthing.kernels.formats import dequantize
from farthing.kernels.plan import Batch, KVSpec, Product, QTensor
from farthing.models import Model, ModelConfig, load_model
from farthing.models.config import RopeScaling
from farthing.models.experts import ExpertsConfig
from farthing.models.safetensors import read_safetensors

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = ("llama", "qwen2", "qwen3", "gemma3_text")
SPARSE = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
GGUF_NAMES = {
    "gemma3_text": "gemma3",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}  # where it is another name
INTERLEAVED = ("llama", "mixtral")
NUM_PROMPTS = 5
PAGE_SIZE = 16
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


def golden(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


def program_of(
    model: Model, isa: str, *, num_tokens: int, product: Product = "f32", codec: str = "f32"
) -> kernels.Program:
    """The model with pages for num_tokens tokens of each of NUM_PROMPTS sequences."""
    c = model.config
    num_pages = NUM_PROMPTS * -(-num_tokens // PAGE_SIZE)
    kv = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, num_pages, PAGE_SIZE, codec, codec)
    return kernels.load(model.plan(product), kv, isa=isa)


def logits_of(program: kernels.Program, ids: Sequence[int] | I32) -> F32:
    """Logits [T, V] of every token of one prompt, run as one batch from position 0."""
    return step(program, [ids], [0], all_rows=True)


def step(
    program: kernels.Program, pieces: Sequence[Sequence[int] | I32], firsts: Sequence[int], *, all_rows: bool
) -> F32:
    """One batch: sequence b continues with pieces[b] at position firsts[b]. Logits of all rows, or of the last each."""
    lengths = [len(piece) for piece in pieces]
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    positions = [np.arange(first, first + n) for first, n in zip(firsts, lengths, strict=True)]
    num_pages = program.kv.num_pages // NUM_PROMPTS  # type: ignore[attr-defined]
    batch = Batch(
        token_ids=np.concatenate([np.asarray(piece, np.int32) for piece in pieces]),
        positions=np.concatenate(positions).astype(np.int32),
        seq_starts=starts,
        page_tables=np.arange(len(pieces) * num_pages, dtype=np.int32).reshape(len(pieces), num_pages),
        logit_rows=np.arange(starts[-1], dtype=np.int32) if all_rows else starts[1:] - np.int32(1),
    )
    return kernels.run(program, batch).copy()


def greedy(program: kernels.Program, prompts: Sequence[I32], num_new: int) -> list[list[int]]:
    """num_new ids after each prompt, all prompts in one ragged batch, end tokens not heeded."""
    pieces: list[Sequence[int] | I32] = list(prompts)
    firsts = [0] * len(prompts)
    new: list[list[int]] = [[] for _ in prompts]
    for _ in range(num_new):
        best = step(program, pieces, firsts, all_rows=False).argmax(axis=1).tolist()
        firsts = [first + len(piece) for first, piece in zip(firsts, pieces, strict=True)]
        pieces = [[token] for token in best]
        for ids, token in zip(new, best, strict=True):
            ids.append(token)
    return new


def write_as_gguf(
    name: str,
    path: Path,
    *,
    without: str = "",
    rope_factors: F32 | None = None,
    is_one_by_one: bool = False,
    has_head: bool = False,
    source: Path = GOLDEN,
    **changes: Any,
) -> None:
    """The golden checkpoint `name` as a float32 GGUF, written by the gguf package under its own names.

    `changes` replace metadata (key with __ for each dot; None leaves it out), `without` leaves a tensor out,
    `rope_factors` replace those that the checkpoint's scaling makes, is_one_by_one gives each expert its own tensors,
    has_head writes a tied head too, `source` holds the checkpoint's folder.
    """
    config = load_model(source / name).config
    folder, name = name, name.removeprefix("classifier_")
    family, name = name, GGUF_NAMES.get(name, name)
    writer = gguf.GGUFWriter(path, name)
    metadata = {
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.block_count": config.num_layers,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_heads,
        f"{name}.attention.head_count_kv": config.num_kv_heads,
        f"{name}.attention.key_length": config.head_dim,
        f"{name}.attention.value_length": config.head_dim,
        f"{name}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{name}.rope.freq_base": config.rope_theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        **(_experts_metadata(name, config.experts) if config.experts else {}),
        **(_gemma3_metadata(config) if name == "gemma3" else {}),
        **(_classifier_metadata(name, config.labels) if config.labels else {}),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    for key, value in metadata.items():
        if value is not None:
            kinds = {
                bool: gguf.GGUFValueType.BOOL,
                int: gguf.GGUFValueType.UINT32,
                float: gguf.GGUFValueType.FLOAT32,
                str: gguf.GGUFValueType.STRING,
                list: gguf.GGUFValueType.ARRAY,
            }
            writer.add_key_value(key, value, kinds[type(value)])
    letters = load_model(source / folder).tokenizer
    tokens = [letters.token_text(id) or "" for id in range(letters.vocab_size)]
    writer.add_token_list(tokens)
    writer.add_token_types([3 if letters.is_control(id) else 1 for id in range(len(tokens))])
    writer.add_token_merges(["Ġ t"] if "Ġt" in tokens else [])
    arch = gguf.MODEL_ARCH[name.upper()]
    names = gguf.get_tensor_name_map(arch, config.num_layers)
    dense = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)  # of layers that are not sparse
    for theirs, array in _merged_experts(read_safetensors(source / folder)).items():
        if family in INTERLEAVED and theirs.endswith(("q_proj.weight", "k_proj.weight")):
            array = interleaved(array, config.head_dim)
        if name == "gemma3" and theirs.endswith("norm.weight"):
            array = array + np.float32(1)
        if theirs == "score.weight":  # which llama.cpp's own converter has for a few architectures
            writer.add_tensor("cls.output.weight", array)
            continue
        new_name = names.get_name(theirs, try_suffixes=(".weight", ".bias")) or dense.get_name(theirs, (".weight",))
        if is_one_by_one and new_name.endswith("_exps.weight"):
            for expert, single in enumerate(array):
                writer.add_tensor(new_name.replace("_exps.weight", f".{expert}.weight"), single)
        elif new_name != without:
            writer.add_tensor(new_name, array[0] if len(array) == 1 else array)
    if has_head:
        embed = read_safetensors(source / folder)["model.embed_tokens.weight"]
        writer.add_tensor("output.weight", as_float32(embed))
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3" and rope_factors is None:
        rope_factors = llama3_factors(config.head_dim, config.rope_theta)
    if rope_factors is not None and without != "rope_freqs.weight":
        writer.add_tensor("rope_freqs.weight", rope_factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _experts_metadata(name: str, experts: ExpertsConfig) -> dict[str, int]:
    """As llama.cpp's converter writes it: an expert's size only where there is another beside it."""
    metadata = {f"{name}.expert_count": experts.num_experts, f"{name}.expert_used_count": experts.rule.top_k}
    if name in ("qwen2moe", "qwen3moe"):
        metadata[f"{name}.expert_feed_forward_length"] = experts.intermediate_size
    if experts.shared_intermediate_size:
        metadata[f"{name}.expert_shared_feed_forward_length"] = experts.shared_intermediate_size
    return metadata


def _classifier_metadata(name: str, labels: tuple[str, ...]) -> dict[str, Any]:
    """The end token of the golden checkpoints is 2."""
    pooling = {f"{name}.pooling_type": 3, f"{name}.classifier.output_labels": list(labels)}
    return {**pooling, "tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.eos_token_id": 2}


def _gemma3_metadata(config: ModelConfig) -> dict[str, Any]:
    assert config.sliding is not None
    return {
        "gemma3.attention.sliding_window": config.sliding.window,
        "gemma3.attention.sliding_window_pattern": [i in config.sliding.layers for i in range(config.num_layers)],
        "gemma3.attention.scale": config.attention_scale,
        **(_scaling_metadata(config.rope_scaling) if config.rope_scaling else {}),
    }


def _scaling_metadata(scaling: RopeScaling) -> dict[str, Any]:
    return {"gemma3.rope.scaling.type": scaling.kind, "gemma3.rope.scaling.factor": scaling.factor}


def _merged_experts(tensors: Mapping[str, QTensor]) -> dict[str, F32]:
    """All as float32, those of a layer's experts in one array [E, rows, cols] without the expert's number."""
    arrays: dict[str, F32] = {}
    parts: dict[str, dict[int, F32]] = {}
    for name, tensor in tensors.items():
        layer, is_expert, rest = name.partition(".experts.")
        if is_expert:
            expert, _, part = rest.partition(".")
            merged = layer.replace("model.layers", "layers").replace("block_sparse_moe", "feed_forward")
            whole = f"{merged if 'block_sparse' in layer else layer}.experts.{part}"
            parts.setdefault(whole, {})[int(expert)] = as_float32(tensor)
        else:
            arrays[name] = as_float32(tensor)
    return arrays | {name: np.stack([found[i] for i in range(len(found))]) for name, found in parts.items()}


def as_float32(tensor: QTensor) -> F32:
    return dequantize(tensor.data, tensor.format, tensor.rows, tensor.cols)


def interleaved(weight: F32, head_dim: int) -> F32:
    """Rows of each head reordered as GGUF's llama wants them: 0, half, 1, half + 1, ..."""
    return weight.reshape(-1, 2, head_dim // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(head_dim: int, theta: float) -> F32:
    """What converters write for the scaling of tests/golden/llama, one frequency at a time."""
    factor, low, high, original = 8.0, 1.0, 4.0, 64
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * theta ** (i / head_dim)
        smooth = (original / wavelength - low) / (high - low)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)
