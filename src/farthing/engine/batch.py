"""Builds a step's ragged batch in arrays that are made once."""

import numpy as np

from farthing.engine.sequence import Sequence
from farthing.kernels.plan import Batch

__all__ = ["BatchBuilder"]


class BatchBuilder:
    """The arrays of a Batch are views that the next `build` overwrites."""

    def __init__(self, max_num_seqs: int, max_num_tokens: int, max_len: int, page_size: int) -> None:
        self._token_ids = np.zeros(max_num_tokens, np.int32)  # [max_num_tokens]
        self._positions = np.zeros(max_num_tokens, np.int32)  # [max_num_tokens]
        self._page_tables = np.zeros((max_num_seqs, -(-max_len // page_size)), np.int32)  # [max_num_seqs, max pages]
        self._counting = np.arange(max_len, dtype=np.int32)  # [max_len]

    def build(self, scheduled: list[Sequence]) -> tuple[Batch, list[Sequence]]:
        """The batch of the scheduled tokens, and the sequences that get a row of logits: those that catch up."""
        starts, rows, caught_up = [0], [], []
        start = 0
        for at, seq in enumerate(scheduled):
            lease = seq.lease
            assert lease is not None
            first = seq.num_computed_tokens
            last = first + seq.num_scheduled_tokens
            end = start + seq.num_scheduled_tokens
            self._token_ids[start:end] = seq.token_ids[first:last]
            self._positions[start:end] = self._counting[first:last]
            self._page_tables[at, : lease.num_pages] = lease.page_table[: lease.num_pages]
            if last == seq.num_tokens:
                rows.append(end - 1)
                caught_up.append(seq)
            starts.append(end)
            start = end
        batch = Batch(
            token_ids=self._token_ids[:start],
            positions=self._positions[:start],
            seq_starts=np.array(starts, np.int32),
            page_tables=self._page_tables[: len(scheduled)],
            logit_rows=np.array(rows, np.int32),
        )
        return batch, caught_up
