"""From what was sampled in a step to a sequence's new tokens."""

from collections.abc import Collection
from typing import NamedTuple

from farthing.engine.sampler import logprobs
from farthing.engine.sequence import Sequence
from farthing.kernels import Sampled
from farthing.request import Event, Token

__all__ = ["Taken", "take_tokens"]


class Taken(NamedTuple):
    num_output: int  # tokens of the answer, the end of the sequence not among them
    num_accepted: int  # drafts that were right


def take_tokens(
    seq: Sequence, sampled: Sampled, tokens: list[int], row: int, eos_ids: Collection[int], events: list[Event]
) -> Taken:
    """Give a sequence its new tokens: the one sampled in `row`, and the next as long as the draft was that token.

        token_ids   … t | d1 d2 d3        t is the last token, d1 d2 d3 are drafts
        tokens          s1 s2 s3 s4       each from the logits after the token above its left neighbour
        d1 = s1, d2 ≠ s2: s1 and s2 are new; t and d1 are computed; d2 and d3, s3 and s4 are void

    tokens: sampled.token as a list. The end-of-sequence token is an event only where it sets held text free.
    """
    num_drafts = seq.num_draft_tokens
    drafts = seq.token_ids[seq.num_tokens : seq.num_tokens + num_drafts].tolist() if num_drafts else ()
    num_output = num_accepted = 0
    for draft in (*drafts, None):
        token_id = tokens[row + num_accepted]
        is_end = token_id in eos_ids and (seq.constraint is not None or not seq.params.ignore_eos)
        text = seq.end() if is_end else seq.append(token_id)
        num_output += not is_end
        if text or not is_end:
            known = logprobs(seq, sampled, row + num_accepted) if seq.wants_logprobs else ()
            events.append(Token(seq.id, token_id, text, *known))
        if seq.finish_reason is not None or token_id != draft:
            break
        num_accepted += 1
    if num_drafts:
        seq.num_computed_tokens += num_accepted
        assert seq.drafting is not None
        seq.drafting.learn(num_drafts, num_accepted)
    return Taken(num_output, num_accepted)
