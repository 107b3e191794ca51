"""Makes the golden files of mixtures of experts: a small random checkpoint of each family, and the gates alone.

    python scripts/make_golden_moe.py [family ...]      (needs the extra [golden])

Of every gate, tests/golden/gates.npz holds logits [n, E] and what transformers' own router makes of them: the chosen
experts, ascending, and their weights [n, top_k].
"""

import sys

import numpy as np
import torch
from make_golden import COMMON, GOLDEN, Checkpoint, make_small
from torch import nn
from transformers import (
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.olmoe.modeling_olmoe import OlmoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
CHECKPOINTS: dict[str, Checkpoint] = {
    "mixtral": (
        torch.bfloat16,
        MixtralConfig(
            **COMMON, **SIZES, num_hidden_layers=2, intermediate_size=40, num_local_experts=5, num_experts_per_tok=2
        ),
    ),
    "olmoe": (
        torch.float32,
        OlmoeConfig(**COMMON, **SIZES, num_hidden_layers=2, intermediate_size=32, num_experts=7, num_experts_per_tok=3),
    ),
    "qwen2_moe": (  # layers 0 and 2 are dense: one by the list, one by the step
        torch.float16,
        Qwen2MoeConfig(
            **COMMON,
            **SIZES,
            num_hidden_layers=4,
            intermediate_size=48,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=64,
            num_experts=6,
            num_experts_per_tok=2,
            decoder_sparse_step=2,
            mlp_only_layers=[0],
        ),
    ),
    "qwen3_moe": (
        torch.bfloat16,
        Qwen3MoeConfig(
            **COMMON,
            **SIZES,
            head_dim=16,
            num_hidden_layers=3,
            intermediate_size=64,
            moe_intermediate_size=32,
            num_experts=9,
            num_experts_per_tok=3,
            norm_topk_prob=True,
            mlp_only_layers=[1],
        ),
    ),
}

GATES: dict[str, tuple[type[nn.Module], PreTrainedConfig]] = {
    "mixtral": (MixtralTopKRouter, MixtralConfig(num_local_experts=8, num_experts_per_tok=2)),
    "olmoe": (OlmoeTopKRouter, OlmoeConfig(num_experts=64, num_experts_per_tok=8)),
    "qwen3": (Qwen3MoeTopKRouter, Qwen3MoeConfig(num_experts=128, num_experts_per_tok=8, norm_topk_prob=True)),
    "gpt_oss": (GptOssTopKRouter, GptOssConfig(num_local_experts=32, num_experts_per_tok=4)),
    "deepseek": (
        DeepseekV3TopkRouter,
        DeepseekV3Config(
            n_routed_experts=64, num_experts_per_tok=8, n_group=8, topk_group=4, routed_scaling_factor=2.5
        ),
    ),
}
NUM_ROWS = 40


@torch.no_grad()
def gate_vectors(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The router is given a unit matrix as weight, so that the rows it is asked for are its logits."""
    kind, config = GATES[name]
    num_experts = config.num_local_experts if hasattr(config, "num_local_experts") else config.num_experts
    config.hidden_size = num_experts
    router = kind(config).float()
    router.weight.data = torch.eye(num_experts)
    x = torch.tensor(rng.normal(0, 2, (NUM_ROWS, num_experts)).astype(np.float32))
    arrays = {"logits": x.numpy()}
    if hasattr(router, "bias"):  # part of the logits
        router.bias.data = torch.tensor(rng.normal(0, 1, num_experts).astype(np.float32))
        arrays["logits"] = (x + router.bias).numpy()
    if hasattr(router, "e_score_correction_bias"):
        router.e_score_correction_bias.data = torch.tensor(rng.normal(0, 0.5, num_experts).astype(np.float32))
        arrays["bias"] = router.e_score_correction_bias.numpy()
    _, weights, experts = router(x)
    order = experts.argsort(dim=-1)
    arrays |= {"experts": experts.gather(1, order).int().numpy(), "weights": weights.gather(1, order).numpy()}
    return {f"{name}_{key}": array for key, array in arrays.items()}


def main() -> None:
    rng = np.random.default_rng(3)
    arrays: dict[str, np.ndarray] = {}
    for name in GATES:
        arrays |= gate_vectors(name, rng)
    np.savez_compressed(GOLDEN / "gates.npz", **arrays)
    for name in sys.argv[1:] or CHECKPOINTS:
        make_small(name, CHECKPOINTS[name])


if __name__ == "__main__":
    main()
