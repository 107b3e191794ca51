"""Random configurations of every family against transformers, live: logits of every instruction set within 1e-3.

    python scripts/compare_random.py [--rounds 5] [--seed 0] [family ...]      (needs the extra [golden])

Sizes, numbers of heads, experts and layers, windows, scales and orders of layers are drawn anew; three threads, which
divide few of them. Ends with 1 where a configuration is further off.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from make_golden import COMMON, VOCAB_SIZE, logits_of, save_checkpoint, save_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from farthing import kernels
from farthing.kernels.plan import Batch, KVSpec
from farthing.models import load_model

BOUND = 1e-3
Rng = np.random.Generator


def pick(rng: Rng, *values: int) -> int:
    return int(rng.choice(values))


def sizes(rng: Rng, *, has_head_dim: bool = True) -> dict[str, int | bool]:
    kv_heads, group, head_dim = pick(rng, 1, 2, 3), pick(rng, 1, 2, 3, 5), pick(rng, 8, 16, 24)
    heads = kv_heads * group
    found: dict[str, int | bool] = {
        "num_key_value_heads": kv_heads,
        "num_attention_heads": heads,
        # Where head_dim is no key of its own, and where transformers asks for it, heads divide hidden_size.
        "hidden_size": heads * pick(rng, 8, 16) if has_head_dim else heads * head_dim,
        "intermediate_size": pick(rng, 24, 32, 56, 96),
        "num_hidden_layers": pick(rng, 1, 2, 3),
        "tie_word_embeddings": bool(rng.integers(2)),
    }
    return found | ({"head_dim": head_dim} if has_head_dim else {})


def experts(rng: Rng) -> tuple[int, int]:
    count = pick(rng, 2, 3, 5, 8, 11, 16)
    return count, int(rng.integers(1, count + 1))


def gemma3(rng: Rng) -> PreTrainedConfig:
    base = sizes(rng)
    kinds = ("sliding_attention", "full_attention")
    local, whole = (
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    )
    return Gemma3TextConfig(
        **COMMON,
        **base,
        pad_token_id=0,
        query_pre_attn_scalar=pick(rng, 8, 20, 64),
        sliding_window=pick(rng, 1, 3, 16, 100, 257, 300),
        layer_types=[kinds[pick(rng, 0, 0, 1)] for _ in range(int(base["num_hidden_layers"]))],
        rope_parameters={"full_attention": whole, "sliding_attention": local},
    )


def mixtral(rng: Rng) -> PreTrainedConfig:
    count, taken = experts(rng)
    return MixtralConfig(**COMMON, **sizes(rng), num_local_experts=count, num_experts_per_tok=taken)


def olmoe(rng: Rng) -> PreTrainedConfig:
    count, taken = experts(rng)
    base = sizes(rng, has_head_dim=False)
    return OlmoeConfig(
        **COMMON, **base, num_experts=count, num_experts_per_tok=taken, norm_topk_prob=bool(rng.integers(2))
    )


def qwen2_moe(rng: Rng) -> PreTrainedConfig:
    count, taken = experts(rng)
    return Qwen2MoeConfig(
        **COMMON,
        **sizes(rng, has_head_dim=False),
        num_experts=count,
        num_experts_per_tok=taken,
        moe_intermediate_size=pick(rng, 8, 32, 40),
        shared_expert_intermediate_size=pick(rng, 16, 64),
        norm_topk_prob=bool(rng.integers(2)),
        decoder_sparse_step=pick(rng, 1, 2),
    )


def qwen3_moe(rng: Rng) -> PreTrainedConfig:
    count, taken = experts(rng)
    return Qwen3MoeConfig(
        **COMMON,
        **sizes(rng),
        num_experts=count,
        num_experts_per_tok=taken,
        moe_intermediate_size=pick(rng, 8, 32, 40),
        norm_topk_prob=bool(rng.integers(2)),
        mlp_only_layers=[0] if rng.integers(2) else [],
    )


FAMILIES: dict[str, Callable[[Rng], PreTrainedConfig]] = {
    "llama": lambda rng: LlamaConfig(**COMMON, **sizes(rng)),
    "qwen3": lambda rng: Qwen3Config(**COMMON, **sizes(rng)),
    "gemma3_text": gemma3,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
}


def worst(config: PreTrainedConfig, seed: int, rng: Rng) -> dict[str, float]:
    """The largest difference of a logit, by instruction set."""
    with tempfile.TemporaryDirectory(prefix="farthing-random-") as name:
        folder = Path(name)
        save_tokenizer(folder)
        save_checkpoint((torch.float32, config), folder, seed)
        ids = rng.integers(3, VOCAB_SIZE, pick(rng, 1, 5, 40, 310)).tolist()
        expected = logits_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), ids)
        model = load_model(folder)
        c = model.config
        num_pages = -(-len(ids) // 16)
        batch = Batch(
            np.int32(ids),
            np.arange(len(ids), dtype=np.int32),
            np.array([0, len(ids)], np.int32),
            np.arange(num_pages, dtype=np.int32)[None],
            np.arange(len(ids), dtype=np.int32),
        )
        found = {}
        for isa in (*kernels.instruction_sets(), "reference"):
            spec = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, num_pages, 16, "f32", "f32")
            program = kernels.load(model.plan(), spec, isa=isa, num_threads=3)
            found[isa] = float(np.abs(kernels.run(program, batch) - expected).max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="family", help=f"of {', '.join(FAMILIES)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    is_good = True
    for name in options.families or FAMILIES:
        for seed in range(options.seed, options.seed + options.rounds):
            rng = np.random.default_rng([seed, *name.encode()])
            config = FAMILIES[name](rng)
            found = worst(config, seed, rng)
            is_good &= max(found.values()) < BOUND
            told = ", ".join(f"{isa} {difference:.1e}" for isa, difference in found.items())
            print(f"{name} seed {seed}: {told}", flush=True)
    if not is_good:
        sys.exit(f"some logit differs by {BOUND} or more")


if __name__ == "__main__":
    main()
