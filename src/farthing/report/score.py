"""Teacher-forced logits: what a model would have said at each position of a given text, a few rows at a time.

[T, V] logits of a 49,152-word vocabulary are 200 KB per token, so they are made and used in chunks and never kept.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from farthing import kernels
from farthing.engine.calibration import centre_keys
from farthing.engine.config import check_generates
from farthing.errors import CapacityError
from farthing.kernels.plan import Batch, KVSpec, Product

if TYPE_CHECKING:
    from farthing.models import Model

__all__ = ["Scorer"]

F32 = npt.NDArray[np.float32]
PAGE_SIZE = 16


class Scorer:
    """Runs sequences of up to `longest` tokens through `model`, one after the other, in one set of pages.

    Raises CapacityError where `longest` exceeds the model's context, InvalidRequest for a classifier.
    """

    def __init__(
        self,
        model: "Model",
        longest: int,
        product: Product = "f32",
        num_threads: int = 2,
        k_codec: str = "f32",
        v_codec: str = "f32",
        chunk: int = 128,
        isa: str = "auto",
        num_edge_layers: int = KVSpec.num_edge_layers,
    ) -> None:
        check_generates(model)
        config = model.config
        if longest > config.max_position_embeddings:
            raise CapacityError(
                f"{longest} tokens in one piece; the model's context is {config.max_position_embeddings}: use less"
            )
        num_pages = -(-longest // PAGE_SIZE)
        kv = KVSpec(
            config.num_layers,
            config.num_kv_heads,
            config.head_dim,
            num_pages,
            PAGE_SIZE,
            k_codec,
            v_codec,
            num_edge_layers,
            config.windows,
        )
        self.vocab_size = config.vocab_size
        self.longest = longest
        self.chunk = chunk
        self._page_table = np.arange(num_pages, dtype=np.int32)[None]  # [1, num_pages]
        self._program = kernels.load(model.plan(product), kv, num_threads=num_threads, isa=isa)
        centre_keys(self._program, kv, model.tokenizer)

    @property
    def weight_bytes(self) -> int:
        return self._program.weight_bytes

    def logits(self, token_ids: Sequence[int], first: int = 0) -> Iterator[tuple[int, F32]]:
        """Yields (position, logits [n, V]) in order, for the positions from `first` on; row i is at position + i.

        Positions before `first` are computed (the later ones see them) but their logits are not.
        """
        ids = np.asarray(token_ids, np.int32)  # [T]
        assert len(ids) <= self.longest
        for start in range(0, len(ids), self.chunk):
            stop = min(start + self.chunk, len(ids))
            rows = np.arange(max(first - start, 0), stop - start, dtype=np.int32)  # empty before `first`
            batch = Batch(
                token_ids=ids[start:stop],
                positions=np.arange(start, stop, dtype=np.int32),
                seq_starts=np.array([0, stop - start], np.int32),
                page_tables=self._page_table,
                logit_rows=rows,
            )
            logits = kernels.run(self._program, batch)
            if len(rows):
                yield start + int(rows[0]), logits
