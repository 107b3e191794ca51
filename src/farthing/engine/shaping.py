"""What requests change in the logits themselves, before a token is chosen from them: biases, penalties, constraints.

Rows of requests that ask for nothing of this are not touched. Log-probabilities are those of the model all the same:
of a changed row they are taken from a copy made before.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from farthing.engine.batch import LogitRow
from farthing.engine.sequence import Sequence
from farthing.kernels import Sampled

__all__ = ["LogitRows", "is_shaped", "measure", "shape"]

F32 = npt.NDArray[np.float32]
LogitRows = dict[int, F32]  # row -> logits [V] as the model gave them


def is_shaped(seq: Sequence) -> bool:
    """Whether its logits are changed."""
    p = seq.params
    return bool(p.logit_bias or p.presence_penalty or p.frequency_penalty or seq.constraint is not None)


def shape(logits: F32, rows: list[LogitRow], eos_ids: Collection[int]) -> LogitRows:
    """Change logits [L, V] in place where a request asks for it; the rows whose log-probabilities were asked for as
    they were."""
    before: LogitRows = {}
    for i, (seq, num_tokens) in enumerate(rows):
        if not is_shaped(seq):
            continue
        p = seq.params
        row = logits[i]  # [V]
        if p.logprobs is not None:
            before[i] = row.copy()
        if p.logit_bias:
            ids, biases = zip(*p.logit_bias, strict=True)
            np.add.at(row, list(ids), np.array(biases, np.float32))
        if p.presence_penalty or p.frequency_penalty:
            answer = seq.token_ids[seq.num_prompt_tokens : num_tokens]  # drafts counted
            used, counts = np.unique(answer, return_counts=True)
            row[used] -= (p.frequency_penalty * counts + p.presence_penalty).astype(np.float32)
        if seq.constraint is not None:
            _mask(row, seq, eos_ids)
    return before


def _mask(row: F32, seq: Sequence, eos_ids: Collection[int]) -> None:
    assert seq.constraint is not None
    bits = np.frombuffer(seq.constraint.mask(), np.uint8)
    allowed = np.zeros(len(row), np.uint8)  # [V]
    known = np.unpackbits(bits, count=min(8 * len(bits), len(row)), bitorder="little")
    allowed[: len(known)] = known
    if not allowed.any():  # it cannot go on and has not said that it is done
        allowed[list(eos_ids)] = 1
    row[allowed == 0] = -np.inf


def measure(sampled: Sampled, rows: list[LogitRow], before: LogitRows) -> None:
    """Put the model's own log-probabilities of changed rows in the place of what the sampler saw."""
    for i, row in before.items():
        logits = row.astype(np.float64)
        most = logits.max()
        log_sum = most + np.log(np.exp(logits - most).sum())
        sampled.logprob[i] = logits[sampled.token[i]] - log_sum
        num_top = rows[i].seq.params.logprobs or 0
        if num_top:
            likeliest = np.argpartition(-logits, min(num_top, len(logits) - 1))[:num_top]
            likeliest = likeliest[np.lexsort((likeliest, -logits[likeliest]))]
            sampled.top_token[i, :num_top] = likeliest
            sampled.top_logprob[i, :num_top] = logits[likeliest] - log_sum
