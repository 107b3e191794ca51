"""Makes tests/golden/classifier_*: small random checkpoints with a classification head, and what transformers says.

    python scripts/make_golden_classifier.py      (needs the extra [golden])

Each folder is saved as transformers saves it. golden.npz has the ids that its tokenizer makes of TEXTS, with the end
token that the post-processor puts after them, and the logits of ...ForSequenceClassification for each text alone. In
qwen3 padding is that very end token, which transformers then passes over; llama says that its embedding is tied.
"""

import json

import numpy as np
import tokenizers
import torch
from make_golden import COMMON, GOLDEN, SPECIAL, Checkpoint, save_tokenizer
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

LABELS = ("card arrival", "lost_card", "über 30 %", "🙂", "exchange rate")
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: id for id, label in enumerate(LABELS)},
}
CHECKPOINTS: dict[str, Checkpoint] = {
    "llama": (
        torch.bfloat16,
        LlamaConfig(**COMMON, **SIZES, pad_token_id=0, intermediate_size=48, num_hidden_layers=3),
    ),
    "qwen2": (
        torch.float32,
        Qwen2Config(**COMMON, **SIZES, pad_token_id=0, intermediate_size=64, num_hidden_layers=1),
    ),
    "qwen3": (
        torch.float16,
        Qwen3Config(**COMMON, **SIZES, pad_token_id=2, intermediate_size=64, num_hidden_layers=2, head_dim=16),
    ),
    "gemma3_text": (
        torch.float32,
        Gemma3TextConfig(
            **COMMON,
            **SIZES,
            pad_token_id=0,
            intermediate_size=48,
            num_hidden_layers=2,
            head_dim=24,
            query_pre_attn_scalar=20,
            sliding_window=6,
            layer_types=["full_attention", "sliding_attention"],
        ),
    ),
}
TEXTS = (
    "a",
    "When will my card arrive?",
    "Ich habe meine Karte verloren, was nun? 🙂",
    "I would like to know the exchange rate of today for pounds and euros, please, and why it changed so much.",
    "  two  spaces\nand a line\t",
)


def add_end(folder: object) -> None:
    """The tokenizer puts the end token after a text."""
    path = str(folder) + "/tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(path)
    end = SPECIAL[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B:1 {end}:1", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    tokenizer.save(path, pretty=False)


@torch.no_grad()
def make(name: str, checkpoint: Checkpoint) -> None:
    dtype, config = checkpoint
    folder = GOLDEN / f"classifier_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    add_end(folder)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).to(dtype)
    for key, tensor in model.named_parameters():
        if key.endswith(("norm.weight", ".bias")):  # the defaults, ones and zeros, would hide a mix-up
            tensor.data = (tensor.data + 0.3 * torch.randn(tensor.shape)).to(dtype)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    arrays: dict[str, np.ndarray] = {}
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text).input_ids
        assert ids[-1] == 2, ids
        arrays |= {f"ids_{i}": np.int32(ids), f"logits_{i}": model(torch.tensor([ids])).logits[0].numpy()}
    np.savez_compressed(folder / "golden.npz", texts=np.array(json.dumps(TEXTS)), **arrays)
    print(name, json.loads((folder / "config.json").read_text())["architectures"], arrays["logits_1"])


def main() -> None:
    for name, checkpoint in CHECKPOINTS.items():
        make(name, checkpoint)


if __name__ == "__main__":
    main()
