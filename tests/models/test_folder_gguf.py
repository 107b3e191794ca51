"""A Hugging Face folder written as a GGUF: the same logits, the same ids of the same texts, the same template."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from farthing.engine.classifier import Classifier
from farthing.errors import UnsupportedModel
from farthing.models import load_model
from farthing.models.folder_gguf import as_gguf
from farthing.models.gguf import read_gguf
from farthing.models.gguf_values import gguf_value
from farthing.models.opening import open_checkpoint
from farthing.models.safetensors import read_safetensors
from farthing.models.tokenizer import load_tokenizer_gguf
from farthing.models.tokenizer_values import tokenizer_values
from farthing.models.vocabulary_gguf import PATTERNS
from farthing.request import Message
from farthing.tuning.job import QuantizeJob
from farthing.tuning.run import quantize_model
from tests.distill.tiny import write_tiny
from tests.models.small import GOLDEN, as_float32, golden, interleaved, logits_of, program_of

TEXTS = ("The end of  it.\n\n", "12,345 and don't", "<|im_end|>", "Ünïcode 東京 🦙", "[PAD300] [PAD301]")


def changed(tmp_path: Path, config: dict[str, Any] | None = None, **tokenizer: Any) -> Path:
    """The golden llama's folder with other keys in its config, its tokenizer, and (`model__key`) that one's model."""
    folder = Path(shutil.copytree(GOLDEN / "llama", tmp_path / "in"))
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    for key, value in tokenizer.items():
        first, _, rest = key.partition("__")
        target, name = (document[first], rest) if rest else (document, first)
        target[name] = value
    path.write_text(json.dumps(document))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | (config or {})))
    return folder


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_the_same_logits_and_ids(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.gguf"
    quantize_model(GOLDEN / name, out, QuantizeJob("f32"))
    before, after = load_model(GOLDEN / name), load_model(out)
    ids = golden(f"{name}/golden.npz")["prompt_0"]
    ours, theirs = (logits_of(program_of(model, "portable", num_tokens=32), ids) for model in (after, before))
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    for text in TEXTS:
        assert after.tokenizer.encode(text) == before.tokenizer.encode(text)
        assert after.tokenizer.encode_template(text) == before.tokenizer.encode_template(text)
    assert after.eos_ids == before.eos_ids
    assert (after.tokenizer.bos_id, after.tokenizer.chat_template) == (
        before.tokenizer.bos_id,
        before.tokenizer.chat_template,
    )
    chat = (Message("user", "Hello!"),)
    assert after.encode_chat(chat) == before.encode_chat(chat)


def test_rows_lie_as_llama_cpp_has_them(tmp_path: Path) -> None:
    """Names and shapes of the gguf package's own list; q and k in pairs."""
    out = tmp_path / "out.gguf"
    quantize_model(GOLDEN / "llama", out, QuantizeJob("f32"))
    source, config = open_checkpoint(GOLDEN / "llama"), load_model(GOLDEN / "llama").config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    found = {t.name: t for t in gguf.GGUFReader(out).tensors}
    for ours, tensor in source.tensors.items():
        values = as_float32(tensor)
        if ours.endswith((".q", ".k")):
            values = interleaved(values, config.head_dim)
        name = names.get_name(source.file_name(ours), try_suffixes=(".weight", ".bias"))
        np.testing.assert_array_equal(np.atleast_2d(found.pop(name).data), values)
    assert list(found) == ["rope_freqs.weight"]


def test_biases_are_put_in_pairs_too(tmp_path: Path) -> None:
    folder = changed(tmp_path, {"attention_bias": True})
    source = open_checkpoint(GOLDEN / "llama")
    c = source.config
    tensors = {n: as_float32(t) for n, t in read_safetensors(folder).items()}
    rng = np.random.default_rng(0)
    sizes = {"q": c.num_heads * c.head_dim, "k": c.num_kv_heads * c.head_dim, "v": c.num_kv_heads * c.head_dim}
    for layer in range(c.num_layers):
        for part, size in (sizes | {"o": c.hidden_size}).items():
            tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = rng.normal(size=(1, size)).astype(np.float32)
    _save(folder / "model.safetensors", tensors)
    quantize_model(folder, tmp_path / "out.gguf", QuantizeJob("f32"))
    ids = golden("llama/golden.npz")["prompt_0"]
    paths = (folder, tmp_path / "out.gguf")
    theirs, ours = (logits_of(program_of(load_model(path), "portable", num_tokens=32), ids) for path in paths)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, array in tensors.items():
        shape = list(array.shape) if len(array) > 1 else [array.shape[1]]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(array.tobytes() for array in tensors.values()))


@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_formats_and_a_text(tmp_path: Path, suffix: str) -> None:
    """A mixture under a budget, calibrated; our own formats where the file is not a GGUF."""
    out = tmp_path / f"out{suffix}"
    text = "It was the best of times, it was the worst of times. " * 60
    result = quantize_model(GOLDEN / "llama", out, QuantizeJob(bits=6.0, num_tokens=512), text)
    assert result.bits_per_weight <= 6.0
    assert result.divergence is not None
    assert result.divergence.kl_divergence < 0.3
    assert load_model(out).config.rope_style == "interleaved"


def test_places_without_a_token_are_gaps(tmp_path: Path) -> None:
    """A model wider than its tokenizer: the GGUF names every id, and what is unused stands for nothing."""
    path = changed(tmp_path)
    values = tokenizer_values(path, 310)
    assert len(values["tokenizer.ggml.tokens"]) == 310
    tokenizer = load_tokenizer_gguf(values)
    assert tokenizer.token_bytes(305) == b""
    assert tokenizer.encode("[PAD305]") == load_model(path).tokenizer.encode("[PAD305]")


@pytest.mark.parametrize(("name", "steps"), [
    ("smollm", [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False}]),
    ("gpt-2", [{"type": "ByteLevel", "add_prefix_space": False}]),
    *(
        (name, [
            *(
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
                for pattern in PATTERNS[name]
            ),
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ])
        for name in PATTERNS
    ),
])  # fmt: skip
def test_the_rule_that_cuts_has_its_name(tmp_path: Path, name: str, steps: list[dict[str, Any]]) -> None:
    usual = {"trim_offsets": True, "use_regex": True}
    rules = [usual | step if step["type"] == "ByteLevel" else step for step in steps]
    folder = changed(
        tmp_path,
        pre_tokenizer={"type": "Sequence", "pretokenizers": rules},
        normalizer={"type": "NFC"} if name == "qwen2" else None,
        model__ignore_merges=name == "llama-bpe",
    )
    assert tokenizer_values(folder, 300)["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "only byte-level BPE"),
        ({"model__ignore_merges": True}, "cuts text by a rule that is none of"),
        ({"normalizer": {"type": "Lowercase"}}, "cuts text by a rule that is none of"),
        ({"model__end_of_word_suffix": "</w>"}, "only byte-level BPE"),
    ],
)
def test_what_a_gguf_cannot_say(tmp_path: Path, tokenizer: dict[str, Any], message: str) -> None:
    source = open_checkpoint(changed(tmp_path, **tokenizer))
    with pytest.raises(UnsupportedModel, match=message):
        as_gguf(source)


def test_tokens_that_take_white_space_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"'<\|tool\|>' takes white space"):
        tokenizer_values(GOLDEN / "tokenizer" / "tiny_qwen2", 800)


@pytest.mark.parametrize("name", ["gemma3_text", "mixtral"])
def test_other_architectures_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"cannot be written as a GGUF; supported: llama, qwen2, qwen3"):
        as_gguf(open_checkpoint(GOLDEN / name))


def test_a_classifier_stays_one(tmp_path: Path) -> None:
    """Labels, head and the token behind a text; the probabilities are the folder's."""
    folder = write_tiny(tmp_path / "in", labels=("card", "top up", "rate"))
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    quantize_model(folder, tmp_path / "out.gguf", QuantizeJob("f32"))
    before, after = (Classifier(load_model(path)) for path in (folder, tmp_path / "out.gguf"))
    texts = ["where is my card?", "how do I top up"]
    ids = before.encode_all(texts)
    assert after.encode_all(texts) == ids
    assert all(row[-1] == 2 for row in ids)
    assert after.labels == before.labels
    np.testing.assert_allclose(after.classify(ids), before.classify(ids), atol=1e-4)
    assert "output.weight" not in read_gguf(tmp_path / "out.gguf").tensors


@pytest.mark.parametrize("is_in_front", [False, True])
def test_a_classifier_reads_the_same_ids(tmp_path: Path, is_in_front: bool) -> None:
    """add_bos_token says nothing about a text that stands for itself; the post-processor does."""
    folder = Path(shutil.copytree(GOLDEN / "classifier_llama", tmp_path / "in"))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if is_in_front:
        document = json.loads((folder / "tokenizer.json").read_text())
        bos = next(token for token in document["added_tokens"] if token["content"] == config["bos_token"])
        processor = document["post_processor"]
        processor["single"].insert(0, {"SpecialToken": {"id": bos["content"], "type_id": 0}})
        processor["special_tokens"][bos["content"]] = {"id": bos["content"], "ids": [bos["id"]], "tokens": ["x"]}
        (folder / "tokenizer.json").write_text(json.dumps(document))
    quantize_model(folder, tmp_path / "out.gguf", QuantizeJob("f32"))
    before, after = (load_model(path).tokenizer for path in (folder, tmp_path / "out.gguf"))
    texts = ["When will my card arrive?", "", "a<|im_end|>"]
    ids = before.encode_alone(texts)
    assert after.encode_alone(texts) == ids
    assert all((row[0] == before.bos_id) == is_in_front and row[-1] == 2 for row in ids)


def test_values_are_read_by_the_package(tmp_path: Path) -> None:
    quantize_model(GOLDEN / "qwen3", tmp_path / "out.gguf", QuantizeJob("q8_0"))
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    ours = read_gguf(tmp_path / "out.gguf").metadata
    for key, value in ours.items():
        assert reader.fields[key].contents() == value
    assert gguf_value([True, False])[-2:] == b"\x01\x00"
    assert as_gguf(open_checkpoint(tmp_path / "out.gguf")).gguf is not None
