"""Makes tests/golden/gemma3_text: a small random Gemma 3 with what transformers computes of it.

    python scripts/make_golden_gemma3.py      (needs the extra [golden])

The window is smaller than two of the prompts and all of the continuations, three kinds of layer order come up, and the
scale of attention is not that of head_dim.
"""

import torch
from make_golden import COMMON, Checkpoint, make_small
from transformers import Gemma3TextConfig

CHECKPOINT: Checkpoint = (
    torch.float32,
    Gemma3TextConfig(
        **COMMON,
        pad_token_id=0,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        query_pre_attn_scalar=20,
        sliding_window=10,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    ),
)


def main() -> None:
    make_small("gemma3_text", CHECKPOINT)


if __name__ == "__main__":
    main()
