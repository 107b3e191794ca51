"""Makes tests/golden: small random checkpoints with the logits and greedy continuations that transformers computes.

    python scripts/make_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf      (needs the extra [golden] and gguf)

Each small checkpoint is saved as transformers saves it, loaded again in float32, and asked. The real model's weights
are dequantized by the `gguf` package and given to LlamaForCausalLM in float32; of its logits a seeded sample is kept
(rows x columns), and of every row the largest logit, its index and the log of the sum of exponentials.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
from gguf.quants import dequantize
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
VOCAB_SIZE = 300
NUM_NEW_TOKENS = 128
PROMPT_LENGTHS = (1, 3, 7, 12, 17)
MIN_MARGIN = 1e-3  # between the two best logits of any greedy step: below it, rounding could choose the token
NUM_ROWS, NUM_COLUMNS = 24, 256  # of the real model's logits, per prompt

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COMMON = {
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # logits of an ordinary size: with 0.02 all would be nearly equal
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CHECKPOINTS = {
    "llama": (
        torch.float16,
        LlamaConfig(
            **COMMON,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters=LLAMA3,
            tie_word_embeddings=False,
        ),
    ),
    "qwen2": (
        torch.float32,
        Qwen2Config(
            **COMMON,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3": (
        torch.bfloat16,
        Qwen3Config(
            **COMMON,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            tie_word_embeddings=True,
        ),
    ),
}
PROMPTS = (
    "Gravity is",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n    if n < 2:\n        return n\n',
    "Die Würde des Menschen ist unantastbar. 1949, 23. Mai: 你好, мир! 🙂",
    "The ferry left the harbour at 7:45 with 112 passengers and a cargo of apples. " * 16 + "At noon",
)


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE of VOCAB_SIZE tokens, trained on this very file."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "chat_template": CHAT_TEMPLATE, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    return model(torch.tensor([ids])).logits[0].numpy()  # [T, V]


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: list[int]) -> tuple[list[int], float]:
    """NUM_NEW_TOKENS ids, end tokens not heeded, and the smallest distance between the best and second-best logit."""
    new, margin, cache = [], np.inf, None
    step = ids
    for _ in range(NUM_NEW_TOKENS):
        out = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        best = torch.topk(out.logits[0, -1], 2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        new.append(int(best.indices[0]))
        cache, step = out.past_key_values, new[-1:]
    return new, margin


Checkpoint = tuple[torch.dtype, PreTrainedConfig]


def make_small(name: str, checkpoint: Checkpoint) -> None:
    """Saves the checkpoint of the first seed whose greedy steps are all clear, and its golden numbers."""
    folder = GOLDEN / name
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    for seed in range(100):
        save_checkpoint(checkpoint, folder, seed)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        rng = np.random.default_rng(seed)
        arrays: dict[str, np.ndarray] = {}
        margins = []
        for i, length in enumerate(PROMPT_LENGTHS):
            ids = rng.integers(3, VOCAB_SIZE, length).tolist()
            new, margin = greedy(model, ids)
            margins.append(margin)
            arrays |= {f"prompt_{i}": np.int32(ids), f"logits_{i}": logits_of(model, ids), f"greedy_{i}": np.int32(new)}
        if min(margins) > MIN_MARGIN:
            np.savez_compressed(folder / "golden.npz", **arrays)
            print(f"{name}: seed {seed}, smallest greedy margins {[round(m, 4) for m in margins]}")
            return
    raise SystemExit(f"{name}: no seed below 100 gives clear greedy steps")


def save_checkpoint(checkpoint: Checkpoint, folder: Path, seed: int) -> None:
    dtype, config = checkpoint
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for key, tensor in model.named_parameters():
        if key.endswith(("norm.weight", ".bias")):  # the defaults, ones and zeros, would hide a mix-up
            tensor.data = (tensor.data + 0.3 * torch.randn(tensor.shape)).to(dtype)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)


def real_tokenizer(reader: gguf.GGUFReader) -> tokenizers.Tokenizer:
    """SmolLM2's byte-level BPE, control tokens understood in the text."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def real_model(reader: gguf.GGUFReader) -> LlamaForCausalLM:
    def key(name: str) -> int | float:
        return reader.fields[f"llama.{name}"].contents()

    num_heads, num_kv_heads = key("attention.head_count"), key("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=key("vocab_size"),
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": key("rope.freq_base")},
        tie_word_embeddings=True,
    )
    tensors = {t.name: torch.tensor(dequantize(t.data, t.tensor_type).astype(np.float32)) for t in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    model = LlamaForCausalLM(config).float().eval()
    state = {}
    for name in model.state_dict():
        if name == "lm_head.weight":
            weight = tensors["token_embd.weight"]
        else:
            weight = tensors[names.get_name(name, try_suffixes=(".weight",))]
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # GGUF interleaves the two halves of each head; transformers wants them one after the other.
            heads = num_heads if "q_proj" in name else num_kv_heads
            weight = weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        state[name] = weight
    model.load_state_dict(state)
    return model


def make_real(path: Path) -> None:
    reader = gguf.GGUFReader(path)
    tokenizer, model = real_tokenizer(reader), real_model(reader)
    rng = np.random.default_rng(11)
    arrays: dict[str, np.ndarray] = {}
    margins = []
    for i, text in enumerate(PROMPTS):
        ids = tokenizer.encode(text).ids
        logits = logits_of(model, ids)
        rows = np.sort(np.append(rng.choice(len(ids) - 1, min(NUM_ROWS, len(ids)) - 1, replace=False), len(ids) - 1))
        columns = np.sort(rng.choice(logits.shape[1], NUM_COLUMNS, replace=False))
        new, margin = greedy(model, ids)
        margins.append(margin)
        arrays |= {
            f"prompt_{i}": np.int32(ids),
            f"rows_{i}": np.int32(rows),
            f"columns_{i}": np.int32(columns),
            f"logits_{i}": logits[np.ix_(rows, columns)],  # [rows, columns]
            f"max_{i}": logits.max(axis=1),  # [T]
            f"argmax_{i}": np.int32(logits.argmax(axis=1)),  # [T]
            f"logsumexp_{i}": torch.logsumexp(torch.tensor(logits), 1).numpy(),  # [T]
            f"greedy_{i}": np.int32(new),
        }
        print(f"{len(ids)} tokens, smallest greedy margin {margin:.5f}: {tokenizer.decode(new)[:100]!r}")
    np.savez_compressed(GOLDEN / "smollm2-135m-instruct.npz", **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="GGUF of SmolLM2-135M-Instruct; without it only the small ones")
    args = parser.parse_args()
    for name, checkpoint in CHECKPOINTS.items():
        make_small(name, checkpoint)
    if args.model:
        make_real(args.model)


if __name__ == "__main__":
    main()
