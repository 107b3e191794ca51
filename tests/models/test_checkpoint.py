"""Opening a model: what is missing, misshapen or unknown is named; re-blocked weights are made when they are read."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farthing.errors import CorruptModel, InvalidRequest, ModelNotFound, UnsupportedModel
from farthing.kernels.formats import row_bytes
from farthing.models import checkpoint, load_model
from farthing.models.decoder import tensor_shapes
from farthing.models.safetensors import read_safetensors
from farthing.request import Message
from tests.models.small import GOLDEN, SMALL, SPARSE, as_float32, golden, logits_of, program_of, write_as_gguf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the llama checkpoint, to be spoiled."""
    return Path(shutil.copytree(GOLDEN / "llama", tmp_path / "llama"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_folder(name: str) -> None:
    model = load_model(GOLDEN / name)
    assert (model.name, model.path) == (name, GOLDEN / name)
    assert model.config.architecture == name
    assert model.eos_ids >= {2}
    values = sum(tensor.rows * tensor.cols for tensor in read_safetensors(GOLDEN / name).values())
    assert model.num_parameters == values  # every tensor of the file is used, and none twice
    assert {model.tensors[n].format for n, rows, _ in tensor_shapes(model.config) if rows == 1} == {"f32"}
    assert model.weight_bytes == sum(tensor.data.nbytes for tensor in model.tensors.values())


def test_conversation_is_encoded_with_the_template_of_the_file() -> None:
    model = load_model(GOLDEN / "llama")
    ids = model.encode_chat((Message("user", "hi"),))
    assert model.tokenizer.decode(ids, skip_special=False) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_gguf_is_named_by_its_file(tmp_path: Path) -> None:
    write_as_gguf("qwen3", tmp_path / "tiny-qwen.gguf")
    model = load_model(tmp_path / "tiny-qwen.gguf")
    assert (model.name, model.config.architecture, model.config.head_dim) == ("tiny-qwen", "qwen3", 16)
    assert model.tensors["layers.1.q_norm"].cols == 16


@pytest.mark.parametrize("weights", ["f32", "q8_0", "q4_0", "q4_1"])
def test_weights_are_reblocked(weights: str) -> None:
    model, original = load_model(GOLDEN / "llama", weights=weights), load_model(GOLDEN / "llama")
    sizes = 0
    for name, rows, cols in tensor_shapes(model.config):
        tensor = model.tensors[name]
        assert tensor.format == model.tensors.format_of(name) == ("f32" if rows == 1 else weights)
        assert tensor.data.nbytes == rows * row_bytes(tensor.format, cols)
        sizes += tensor.data.nbytes
        before, after = as_float32(original.tensors[name]), as_float32(tensor)
        step = {"f32": 0.0, "q8_0": 1 / 127, "q4_0": 1 / 7, "q4_1": 1 / 7}[weights]
        assert np.abs(after - before).max() <= step * np.abs(before).max() * 1.01
    assert model.weight_bytes == sizes


def test_plan_reads_no_weight() -> None:
    """A plan of re-blocked weights converts nothing by itself, each weight anew when asked, and holds no copy."""
    plan = load_model(GOLDEN / "llama", weights="q8_0").plan()
    assert plan.tensors["layers.0.q"] is not plan.tensors["layers.0.q"]
    assert set(plan.tensors) > {"embed", "rope_inv_freq"}
    assert len(plan.tensors) == len(list(plan.tensors))


def test_reblocked_model_stays_near_the_golden_logits() -> None:
    expected = golden("llama/golden.npz")
    program = program_of(load_model(GOLDEN / "llama", weights="q8_0"), "reference", num_tokens=32)
    distance = np.abs(logits_of(program, expected["prompt_4"]) - expected["logits_4"]).max()
    assert 1e-3 < distance < 0.05 * np.abs(expected["logits_4"]).max()


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"weights is 'q3'; allowed: f32, .*q4_1"):
        load_model(GOLDEN / "llama", weights="q3")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no-such-model"):
        load_model("no-such-model")
    with pytest.raises(ModelNotFound):
        load_model(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelNotFound, match=file):
        load_model(folder)


@pytest.mark.parametrize("content", ["{", "[]", "\xff", "[" * 100_000])
def test_config_that_is_no_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CorruptModel, match=r"config\.json"):
        load_model(folder)


def test_unsupported_architecture_lists_the_supported(folder: Path) -> None:
    change_config(folder, model_type="mamba")
    with pytest.raises(UnsupportedModel, match="'mamba' is not supported; supported: gemma3_text, llama, mixtral"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 3}, r"'model\.layers\.2\..*weight' .* is missing"),
        ({"num_hidden_layers": 2**40}, r"'model\.layers\.2\..*weight' .* is missing"),
        ({"attention_bias": True}, r"'model\.layers\.0\.self_attn\.q_proj\.bias' \[1, 64\] is missing"),
        ({"vocab_size": 301}, r"'model\.embed_tokens\.weight' is \[300, 64\]; .* \[301, 64\]"),
        ({"intermediate_size": 64}, r"'model\.layers\.0\.mlp\.gate_proj\.weight' is \[96, 64\]; .* \[64, 64\]"),
        ({"num_key_value_heads": 4}, r"'model\.layers\.0\.self_attn\.k_proj\.weight' is \[32, 64\]; .* \[64, 64\]"),
    ],
)
def test_sizes_that_do_not_fit_the_tensors(folder: Path, changes: dict[str, Any], words: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CorruptModel, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "mixtral",
            {"num_local_experts": 6},
            r"'model\.layers\.0\.block_sparse_moe\.gate\.weight' is \[5, 32\]; .*\[6, 32\]",
        ),
        ("mixtral", {"num_local_experts": 2**40}, r"gate\.weight' is \[5, 32\]; .*\[1099511627776, 32\]"),
        ("mixtral", {"num_local_experts": 0}, r"number of experts is 0; allowed: 1 or more"),
        ("olmoe", {"num_experts_per_tok": 8}, r"number of experts per token is 8; allowed: 1 to .*\(7\)"),
        ("olmoe", {"intermediate_size": 64}, r"experts\.0\.gate_proj\.weight' is \[32, 32\]; .*\[64, 32\]"),
        ("qwen2_moe", {"mlp_only_layers": []}, r"dense"),
        ("qwen2_moe", {"mlp_only_layers": [1]}, r"'model\.layers\.1\.mlp\.gate_proj\.weight' .* is missing"),
        ("qwen2_moe", {"decoder_sparse_step": 0}, r"decoder_sparse_step is 0; allowed: 1 or more"),
        ("qwen2_moe", {"shared_expert_intermediate_size": 32}, r"shared_expert\.gate_proj\.weight' is \[64, 32\]"),
        ("qwen3_moe", {"mlp_only_layers": "none"}, r"mlp_only_layers is 'none'; allowed: a list of whole numbers"),
        ("qwen3_moe", {"mlp_only_layers": []}, r"'model\.layers\.1\.mlp\.gate\.weight' .* is missing"),
    ],
)
def test_experts_that_do_not_fit_the_tensors(tmp_path: Path, name: str, changes: dict[str, Any], words: str) -> None:
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    change_config(folder, **changes)
    if words == "dense":  # layer 0 is dense by decoder_sparse_step too
        assert load_model(folder).num_parameters == load_model(GOLDEN / name).num_parameters
        return
    with pytest.raises(CorruptModel, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("mixtral", {"sliding_window": 64}, "sliding_window is 64"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8.0; supported: no clipping"),
        ("qwen2_moe", {"use_sliding_window": True}, "use_sliding_window is true"),
    ],
)
def test_what_experts_files_do_not_know_is_named(tmp_path: Path, name: str, config: dict[str, Any], words: str) -> None:
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    change_config(folder, **config)
    with pytest.raises(UnsupportedModel, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("mixtral", "blk.1.ffn_gate_inp.weight"),
        ("mixtral", "blk.1.ffn_down_exps.weight"),
        ("olmoe", "blk.0.ffn_up_exps.weight"),
        ("olmoe", "blk.0.attn_q_norm.weight"),
        ("qwen2_moe", "blk.1.ffn_gate_inp_shexp.weight"),
        ("qwen2_moe", "blk.1.ffn_down_shexp.weight"),
        ("qwen3_moe", "blk.2.ffn_gate_exps.weight"),
    ],
)
def test_gguf_without_a_tensor_of_experts(tmp_path: Path, name: str, tensor: str) -> None:
    write_as_gguf(name, tmp_path / "m.gguf", without=tensor)
    with pytest.raises(CorruptModel, match=tensor.replace(".", r"\.") + ".* is missing"):
        load_model(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "mixtral",
            {"llama__expert_count": 4},
            r"'blk\.0\.ffn_(gate|up|down)_exps\.weight' is \[5, .*; allowed: \[4, ",
        ),
        ("mixtral", {"llama__expert_used_count": 0}, "experts per token is 0; allowed: 1 to"),
        ("mixtral", {"llama__expert_used_count": None}, r"llama\.expert_used_count is missing"),
        (
            "qwen3_moe",
            {"qwen3moe__expert_feed_forward_length": 16},
            r"ffn_gate_exps\.weight\.0' is \[32, 32\]; .*\[16, 32\]",
        ),
        ("qwen3_moe", {"qwen3moe__expert_gating_func": 2}, r"expert_gating_func is 2; supported: 1, softmax"),
    ],
)
def test_gguf_experts_that_lie(tmp_path: Path, name: str, changes: dict[str, Any], words: str) -> None:
    write_as_gguf(name, tmp_path / "m.gguf", **changes)
    with pytest.raises((CorruptModel, UnsupportedModel), match=words):
        load_model(tmp_path / "m.gguf")


def test_experts_one_by_one_in_old_gguf_files(tmp_path: Path) -> None:
    """Mixtral's first GGUF files have a tensor for each expert."""
    expected = golden("mixtral/golden.npz")
    write_as_gguf("mixtral", tmp_path / "m.gguf", is_one_by_one=True)
    program = program_of(load_model(tmp_path / "m.gguf"), "auto", num_tokens=32)
    assert np.abs(logits_of(program, expected["prompt_4"]) - expected["logits_4"]).max() < 1e-3


def test_active_parameters_and_routers_that_stay() -> None:
    model = load_model(GOLDEN / "olmoe", weights="q4_0")
    assert model.num_parameters - model.num_active_parameters == 2 * (7 - 3) * 3 * 32 * 32
    assert model.tensors["layers.0.router"].format == "f32"
    assert model.tensors["layers.0.experts.6.down"].format == "q4_0"
    assert load_model(GOLDEN / "llama").num_active_parameters == load_model(GOLDEN / "llama").num_parameters


def test_norm_that_is_not_finite(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    header_bytes = int.from_bytes(raw[:8], "little")
    begin, _ = json.loads(raw[8 : 8 + header_bytes])["model.norm.weight"]["data_offsets"]
    raw[8 + header_bytes + begin : 8 + header_bytes + begin + 2] = np.float16("nan").tobytes()
    path.write_bytes(raw)
    with pytest.raises(CorruptModel, match=r"'model\.norm\.weight' holds values that are not finite"):
        load_model(folder)


@pytest.mark.parametrize("tensor", ["token_embd.weight", "blk.1.ffn_down.weight", "output_norm.weight"])
def test_gguf_without_a_tensor(tmp_path: Path, tensor: str) -> None:
    write_as_gguf("llama", tmp_path / "model.gguf", without=tensor)
    with pytest.raises(CorruptModel, match=f"'{tensor}' .* is missing"):
        load_model(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qwen2__embedding_length": None}, "qwen2.embedding_length is missing"),
        ({"qwen2__attention__head_count": 0}, "num_heads is 0"),
        ({"qwen2__block_count": 4}, r"'blk\.3\..*' .* is missing"),
        ({"qwen2__rope__scaling__type": "yarn"}, "yarn"),
    ],
)
def test_gguf_metadata_that_lies(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write_as_gguf("qwen2", tmp_path / "model.gguf", **changes)
    with pytest.raises((CorruptModel, UnsupportedModel), match=words):
        load_model(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("factors", "words"),
    [([1, 1, 1, 0, 1, 1, 1, 1], "not above 0"), ([1, np.nan] * 4, "not finite"), ([1, 1], r"is \[1, 2\]; .* \[1, 8\]")],
)
def test_rope_factors_that_cannot_be(tmp_path: Path, factors: list[float], words: str) -> None:
    write_as_gguf("llama", tmp_path / "model.gguf", rope_factors=np.array(factors, np.float32))
    with pytest.raises(CorruptModel, match=f"rope_freqs.weight'.*{words}"):
        load_model(tmp_path / "model.gguf")


@pytest.mark.parametrize("most", [1 << 28, 0])
def test_identity_stands_for_config_weights_and_formats(
    folder: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the weights are more than what is read whole."""
    monkeypatch.setattr(checkpoint, "_WHOLE_BYTES", most)
    known = load_model(GOLDEN / "llama").identity()
    assert load_model(folder).identity() == known
    assert load_model(folder, weights="q8_0").identity() != known
    assert load_model(GOLDEN / "qwen2").identity() != known
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    assert load_model(folder).identity() != known
    change_config(folder, rope_theta=9999.0)
    assert load_model(folder).identity() != known
