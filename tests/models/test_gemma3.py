"""Gemma 3: what its config and its GGUF say, which pages its windows leave unread, and its kind of vocabulary."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farthing.engine import Engine, EngineConfig
from farthing.errors import CorruptModel, UnsupportedModel
from farthing.models import load_model
from farthing.models.architectures import architecture_of_gguf, architecture_of_hf
from farthing.models.config import ModelConfig, RopeScaling, config_from_gguf, config_from_hf
from farthing.models.sliding import SlidingConfig
from farthing.models.template import encode_chat
from farthing.models.tokenizer import Tokenizer, load_tokenizer_gguf, load_tokenizer_json
from farthing.request import Message
from tests.models.small import GOLDEN, write_as_gguf

# As google/gemma-3-1b-it's config.json has it, without what says nothing about its form.
OF_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}


def from_hf(**changes: Any) -> ModelConfig:
    raw = {key: value for key, value in {**OF_1B, **changes}.items() if value is not ...}
    return config_from_hf(architecture_of_hf("gemma3_text"), raw)


def test_config_of_before_transformers_5() -> None:
    config = from_hf()
    assert config.is_tied_head
    assert config.has_post_norms
    assert config.embed_scale == pytest.approx(1152**0.5)
    assert config.attention_scale == 1 / 16
    assert (config.rope_theta, config.rope_scaling) == (1e6, None)
    every_sixth = frozenset(range(26)) - {5, 11, 17, 23}
    assert config.sliding == SlidingConfig(512, every_sixth, 1e4)
    assert [config.window_of(layer) for layer in (4, 5, 6)] == [512, None, 512]
    scaled = from_hf(rope_scaling={"factor": 8.0, "rope_type": "linear"})
    assert scaled.rope_scaling == RopeScaling("linear", 8.0)  # of the layers that see everything alone


def test_config_of_transformers_5() -> None:
    ropes = {
        "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    kinds = ["full_attention", "sliding_attention"] * 13
    config = from_hf(rope_parameters=ropes, layer_types=kinds, rope_theta=..., rope_local_base_freq=...)
    assert (config.rope_theta, config.rope_scaling) == (5e5, RopeScaling("linear", 4.0))
    assert config.sliding == SlidingConfig(512, frozenset(range(1, 26, 2)), 2e4)
    assert from_hf(layer_types=["full_attention"] * 26).sliding is None


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"hidden_activation": "silu"}, UnsupportedModel, "hidden_activation is 'silu'; supported: gelu_pytorch_tanh"),
        ({"attn_logit_softcapping": 50.0}, UnsupportedModel, "attn_logit_softcapping is 50.0; supported: none"),
        ({"final_logit_softcapping": 30.0}, UnsupportedModel, "final_logit_softcapping is 30.0"),
        ({"use_bidirectional_attention": True}, UnsupportedModel, "supported: causal attention"),
        ({"query_pre_attn_scalar": 0}, CorruptModel, "query_pre_attn_scalar is 0.0; allowed: above 0"),
        ({"sliding_window": -5}, CorruptModel, "sliding window is -5; allowed: 1 or more"),
        ({"layer_types": ["full_attention"]}, CorruptModel, "layer_types is .*allowed: 26 of full_attention"),
        ({"layer_types": ["chunked_attention"] * 26}, CorruptModel, "layer_types is"),
        ({"rope_local_base_freq": 0.5}, CorruptModel, "rope_theta of sliding layers is 0.5; allowed: above 1"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            UnsupportedModel,
            "sliding_attention is scaled",
        ),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        from_hf(**changes)


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [(None, {0, 1, 2}), (2, {0, 2}), (0, {0, 1, 2}), ([True, False, False], {0})],
)
def test_gguf_patterns(tmp_path: Path, pattern: Any, layers: set[int]) -> None:
    write_as_gguf("gemma3_text", tmp_path / "m.gguf", gemma3__attention__sliding_window_pattern=pattern)
    sliding = load_model(tmp_path / "m.gguf").config.sliding
    assert sliding is not None
    assert (sliding.window, sliding.layers, sliding.rope_theta) == (10, layers, 1e4)


def test_gguf_without_a_window_has_none(tmp_path: Path) -> None:
    write_as_gguf("gemma3_text", tmp_path / "m.gguf", gemma3__attention__sliding_window=None)
    assert load_model(tmp_path / "m.gguf").config.sliding is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gemma3__attention__sliding_window_pattern": [True]}, "a number, or true or false for each of 3 layers"),
        ({"gemma3__final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0; supported: none"),
        ({"gemma3__attention__scale": -1.0}, "attention.scale is -1.0; allowed: above 0"),
    ],
)
def test_gguf_that_cannot_be_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write_as_gguf("gemma3_text", tmp_path / "m.gguf", **changes)
    with pytest.raises((CorruptModel, UnsupportedModel), match=words):
        load_model(tmp_path / "m.gguf")


def test_gguf_of_27b_scales_by_another_rule() -> None:
    raw = {
        "general.architecture": "gemma3",
        "gemma3.context_length": 131072,
        "gemma3.embedding_length": 5376,
        "gemma3.block_count": 62,
        "gemma3.feed_forward_length": 21504,
        "gemma3.attention.head_count": 32,
        "gemma3.attention.head_count_kv": 16,
        "gemma3.attention.key_length": 128,
        "gemma3.attention.value_length": 128,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": 1024,
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
        "gemma3.vocab_size": 262208,
    }
    config = config_from_gguf(architecture_of_gguf("gemma3"), raw, ())
    assert config.attention_scale == pytest.approx(168**-0.5)
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    raw["gemma3.block_count"] = 34
    assert config_from_gguf(architecture_of_gguf("gemma3"), raw, ()).attention_scale == pytest.approx(128**-0.5)


def test_norms_are_stored_one_too_small_in_safetensors_alone(tmp_path: Path) -> None:
    write_as_gguf("gemma3_text", tmp_path / "m.gguf")
    folder, file = load_model(GOLDEN / "gemma3_text"), load_model(tmp_path / "m.gguf")
    for name in ("final_norm", "layers.1.q_norm", "layers.2.post_mlp_norm"):
        theirs, ours = (model.tensors[name].data.view(np.float32) for model in (folder, file))
        assert np.array_equal(theirs, ours)
        assert abs(ours.mean() - 1) < 0.5  # around 1, not 0 or 2


def test_a_layer_says_what_it_will_not_read_again() -> None:
    """Two of three layers have a window of 10; a page is given back whole, so what is unread stays."""
    model = load_model(GOLDEN / "gemma3_text")
    with Engine(model, EngineConfig(num_pages=4, k_codec="f32", v_codec="f32")) as engine:
        kv = engine.program.kv  # type: ignore[attr-defined]
    assert kv.windows == (10, None, 10)
    of_layer = 2 * 2 * 24 * 4  # K and V of two heads of 24 in float32
    assert kv.layer_bytes(0) == of_layer
    assert kv.unread_bytes(9) == 0  # the next token, the tenth, sees them all
    assert kv.unread_bytes(30) == 2 * 21 * of_layer


TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set before = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set before = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ (before if loop.first else '') + m['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def pieces() -> tuple[list[str], list[int], list[float]]:
    """Tokens, types and scores in the order of Gemma's: control tokens first, runs of white space among the plain."""
    given = json.loads((GOLDEN / "tokenizer" / "tiny_spm.json").read_text())
    rest = list(zip(given["tokens"], given["types"], given["scores"], strict=True))[3:]
    head = [("<pad>", 3, 0.0), ("<eos>", 3, 0.0), ("<bos>", 3, 0.0), ("<unk>", 2, 0.0)]
    turns = [("<start_of_turn>", 3, 0.0), ("<end_of_turn>", 3, 0.0)]
    runs = [("\n\n", 4, -1000.0), ("  ", 4, -1000.0), ("<table>", 4, -1000.0)]
    tokens, types, scores = zip(*(head + turns + runs + rest), strict=True)
    return list(tokens), list(types), list(scores)


def of_gguf() -> Tokenizer:
    tokens, types, scores = pieces()
    return load_tokenizer_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_eos_token": False,
            "tokenizer.ggml.add_space_prefix": False,
            "tokenizer.chat_template": TEMPLATE,
        }
    )


def of_folder(folder: Path) -> Tokenizer:
    """The same vocabulary as a tokenizer.json in Gemma's form."""
    tokens, types, scores = pieces()
    vocab = {token: id for id, token in enumerate(tokens)}
    makers = [id for id, token in enumerate(tokens) if types[id] == 1 and len(token) > 1]
    makers.sort(key=lambda id: -scores[id])
    merges = [
        [tokens[id][:cut], tokens[id][cut:]]
        for id in makers
        for cut in range(1, len(tokens[id]))
        if tokens[id][:cut] in vocab and tokens[id][cut:] in vocab
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": id, "content": token, "special": types[id] != 4, **flags}
        for id, token in enumerate(tokens)
        if types[id] in (2, 3, 4)
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": TEMPLATE, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    return load_tokenizer_json(folder)


TEXTS = ("The sea", " the  sea\n\nis salty", "a<table>b", "Würde 🙂 你好", "<end_of_turn> <bos>", "  x   y", "", "\n")


@pytest.mark.parametrize("text", TEXTS)
def test_both_kinds_of_file_cut_alike(tmp_path: Path, text: str) -> None:
    file, folder = of_gguf(), of_folder(tmp_path)
    ids = file.encode(text)
    assert ids == folder.encode(text)
    assert ids[0] == 2  # <bos>
    assert not any(file.is_control(id) for id in ids[1:])
    assert file.decode(ids[1:]) == folder.decode(ids[1:]) == text


def test_runs_of_white_space_are_tokens_of_their_own_and_no_space_is_put_before() -> None:
    tokenizer = of_gguf()
    tokens, _, _ = pieces()
    ids = tokenizer.encode("a  b\n\nc", add_bos=False)
    assert tokens.index("  ") in ids
    assert tokens.index("\n\n") in ids
    assert not (tokenizer.token_text(ids[0]) or "").startswith("▁")


def test_turns(tmp_path: Path) -> None:
    chat = [Message("system", "Be brief."), Message("user", "Hi <end_of_turn>"), Message("assistant", "Hello")]
    for tokenizer in (of_gguf(), of_folder(tmp_path)):
        assert tokenizer.eos_ids >= {1, 5}
        ids = encode_chat(tokenizer, [*chat, Message("user", "Why?")])
        assert [id for id in ids if tokenizer.is_control(id)] == [2, 4, 5, 4, 5, 4, 5, 4]
        assert tokenizer.decode(ids[-6:]).endswith("model\n")
