"""A model of a few thousand weights as a Hugging Face folder, with a byte-level tokenizer of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from farthing.kernels.plan import QTensor
from farthing.models.gguf_write import TensorInfo
from farthing.models.output_file import ModelSink, new_file
from farthing.models.safetensors_write import safetensors_layout

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP = 32, 4, 2, 8, 48
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)
TEXTS = (
    "my card has not arrived yet, where is it?",
    "please send a new card to my address",
    "the exchange rate of this payment is wrong",
    "how do I top up by bank transfer",
    "was I charged twice for the same payment?",
    "I forgot my passcode and cannot log in",
)


def tokenizer_json(texts: Sequence[str] = TEXTS, size: int = 400) -> dict[str, Any]:
    """Byte-level BPE that was trained on the texts, and ends a text with <|im_end|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*SPECIALS], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    end = {"id": SPECIALS[2], "ids": [2], "tokens": [SPECIALS[2]]}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": SPECIALS[2], "type_id": 0}}]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {SPECIALS[2]: end},
    }
    return document


def write_tiny(
    folder: Path, *, num_layers: int = 5, labels: Sequence[str] = (), seed: int = 0, texts: Sequence[str] = TEXTS
) -> Path:
    """A random model; with labels a classifier. Later layers move the stream less, the second last hardly at all."""
    folder.mkdir(parents=True)
    document = tokenizer_json(texts)
    vocab_size = len(document["model"]["vocab"])
    config: dict[str, Any] = {
        "architectures": ["LlamaForSequenceClassification" if labels else "LlamaForCausalLM"],
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": num_layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": vocab_size,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "dtype": "float32",
    }  # fmt: skip
    if labels:
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
        config["num_labels"] = len(labels)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    added = {str(i): {"content": text, "special": True} for i, text in enumerate(SPECIALS)}
    settings = {"added_tokens_decoder": added, "eos_token": SPECIALS[2], "bos_token": SPECIALS[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _write_weights(folder / "model.safetensors", _weights(vocab_size, num_layers, len(labels), seed))
    return folder


def _weights(vocab_size: int, num_layers: int, num_labels: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    kv = KV_HEADS * HEAD_DIM
    weights = {"model.embed_tokens.weight": rng.standard_normal((vocab_size, HIDDEN)) * 0.5}
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN), "self_attn.v_proj": (kv, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (MLP, HIDDEN), "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }  # fmt: skip
    for layer in range(num_layers):
        strength = 0.001 if layer == num_layers - 2 else 1 / (1 + layer)
        for name, shape in shapes.items():
            scale = strength if name.endswith(("o_proj", "down_proj")) else 1.0
            weights[f"model.layers.{layer}.{name}.weight"] = rng.standard_normal(shape) * scale / shape[1] ** 0.5
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{norm}.weight"] = 1 + 0.1 * rng.standard_normal(HIDDEN)
    weights["model.norm.weight"] = 1 + 0.1 * rng.standard_normal(HIDDEN)
    if num_labels:
        weights["score.weight"] = rng.standard_normal((num_labels, HIDDEN)) * 0.3
    return weights


def _write_weights(path: Path, weights: dict[str, np.ndarray[Any, Any]]) -> None:
    layout = safetensors_layout([TensorInfo(name, array.shape, "f32", (name,)) for name, array in weights.items()])
    with new_file(path, layout.num_bytes) as file:
        sink = ModelSink(file, layout)
        for name, array in weights.items():
            data = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)
            sink.put(name, QTensor("f32", 1, array.size, data))
        sink.check()
