"""Opens the draft model that an engine's settings name."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from farthing import kernels
from farthing.engine.config import EngineConfig, check_generates
from farthing.engine.draft_ids import DraftIds
from farthing.engine.draft_model import DraftModel
from farthing.kernels import Program
from farthing.kernels.plan import Batch, KVSpec
from farthing.models import Model

__all__ = ["LEAST_MATCH", "draft_page_bytes", "open_draft_model"]

LEAST_MATCH = 2  # tokens that prompt lookup must find again, where a draft model is there for the rest
# Of a run: what it takes whatever the model's size, beside a step of the model. Measured: SmolLM2-135M on 2 cores takes
# 1.5 ms, of which a draft's Python and the barriers between threads are 0.06.
_FIXED_COST = 0.04


def draft_page_bytes(draft: Model, config: EngineConfig) -> int:
    return _kv_spec(draft, config, 0).page_bytes


def open_draft_model(
    draft: Model,
    model: Model,
    config: EngineConfig,
    num_pages: int,
    program: Program,
    run: Callable[[Program, Batch], npt.NDArray[np.float32]],
    clock_ns: Callable[[], int],
) -> DraftModel:
    """With num_pages pages of its own, on the threads of the model's program. Raises InvalidRequest for a vocabulary
    that is not the model's or a part of it."""
    check_generates(draft)
    vocab_size, draft_vocab_size = model.config.vocab_size, draft.config.vocab_size
    ids = DraftIds.of(model.tokenizer, draft.tokenizer, vocab_size, draft_vocab_size, draft.name)
    kv = _kv_spec(draft, config, num_pages)
    loaded = kernels.load(
        draft.plan(config.product), kv, num_threads=config.num_threads, isa=config.isa, beside=program
    )
    return DraftModel(
        run,
        loaded,
        kv,
        ids,
        max_len=min(draft.config.max_position_embeddings, num_pages * kv.page_size),
        cost_of_one=_FIXED_COST + draft.active_weight_bytes / model.active_weight_bytes,
        most_tokens=min(config.max_num_batched_tokens, config.max_tokens_beside_answers),
        clock_ns=clock_ns,
    )


def _kv_spec(draft: Model, config: EngineConfig, num_pages: int) -> KVSpec:
    c = draft.config
    return KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, num_pages, config.page_size, windows=c.windows)
