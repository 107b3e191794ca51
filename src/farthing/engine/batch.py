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
        self._counting = np.arange(max(max_len, max_num_seqs + 1), dtype=np.int32)

    def build(self, scheduled: list[Sequence]) -> tuple[Batch, list[LogitRow]]:
        """The batch of the scheduled tokens, and its rows of logits: after the last token, and after each draft."""
        if all(seq.num_scheduled_tokens == 1 == seq.num_tokens - seq.num_computed_tokens for seq in scheduled):
            return self._build_singles(scheduled)
        starts, logit_rows, rows = [0], [], []
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

    def _build_singles(self, scheduled: list[Sequence]) -> tuple[Batch, list[LogitRow]]:
        """The same where everyone has just its last token to compute, as while all are answering. What Python needs has
        left the caches since the last step: the less it touches, the sooner the kernels run again."""
        n = len(scheduled)
        token_ids, positions, page_tables = self._token_ids[:n], self._positions[:n], self._page_tables[:n]
        rows = []
        for at, seq in enumerate(scheduled):
            lease, position = seq.lease, seq.num_computed_tokens
            assert lease is not None
            token_ids[at] = seq.token_ids[position]
            positions[at] = position
            num_pages = lease.num_pages
            page_tables[at, :num_pages] = lease.page_table[:num_pages]
            if not seq.is_pin:
                rows.append(LogitRow(seq, position + 1))
        if len(rows) < n:
            logit_rows = np.array([at for at, seq in enumerate(scheduled) if not seq.is_pin], np.int32)
        else:
            logit_rows = self._counting[:n]
        return Batch(token_ids, positions, self._counting[: n + 1], page_tables, logit_rows), rows
