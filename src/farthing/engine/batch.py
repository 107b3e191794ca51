"""Builds a step's ragged batch in arrays that are made once."""

from typing import NamedTuple

import numpy as np

from farthing.engine.sequence import Sequence
from farthing.kernels.plan import Batch

__all__ = ["BatchBuilder", "LogitRow"]


class LogitRow(NamedTuple):
    """A row of logits: what comes after the first num_tokens tokens of a sequence, drafts counted."""

    seq: Sequence
    num_tokens: int


class BatchBuilder:
    """The arrays of a Batch are views that the next `build` overwrites."""

    def __init__(self, max_num_seqs: int, max_num_tokens: int, max_len: int, page_size: int) -> None:
        self._token_ids = np.zeros(max_num_tokens, np.int32)  # [max_num_tokens]
        self._positions = np.zeros(max_num_tokens, np.int32)  # [max_num_tokens]
        self._page_tables = np.zeros((max_num_seqs, -(-max_len // page_size)), np.int32)  # [max_num_seqs, max pages]
        self._counting = np.arange(max_len, dtype=np.int32)  # [max_len]

    def build(self, scheduled: list[Sequence]) -> tuple[Batch, list[LogitRow]]:
        """The batch of the scheduled tokens, and its rows of logits: after the last token, and after each draft."""
        starts, logit_rows, rows = [0], [], []
        start = 0
        for at, seq in enumerate(scheduled):
            lease = seq.lease
            assert lease is not None
            first = seq.num_computed_tokens
            last = first + seq.num_scheduled_tokens
            end = start + seq.num_scheduled_tokens
            if last - first == 1:  # the usual case, without slices
                self._token_ids[start] = seq.token_ids[first]
                self._positions[start] = first
            else:
                self._token_ids[start:end] = seq.token_ids[first:last]
                self._positions[start:end] = self._counting[first:last]
            self._page_tables[at, : lease.num_pages] = lease.page_table[: lease.num_pages]
            for num_tokens in () if seq.is_pin else range(seq.num_tokens, last + 1):
                logit_rows.append(end - 1 - (last - num_tokens))
                rows.append(LogitRow(seq, num_tokens))
            starts.append(end)
            start = end
        batch = Batch(
            token_ids=self._token_ids[:start],
            positions=self._positions[:start],
            seq_starts=np.array(starts, np.int32),
            page_tables=self._page_tables[: len(scheduled)],
            logit_rows=np.array(logit_rows, np.int32),
        )
        return batch, rows
