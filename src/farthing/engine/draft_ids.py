"""Which token of a small model's vocabulary is which of the large one's."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.models.tokenizer import Tokenizer

__all__ = ["DraftIds"]

_LEAST_SHARE = 0.5  # of the small vocabulary's tokens that the large one must have


@dataclass(frozen=True)
class DraftIds:
    """A token of the large vocabulary that the small one lacks is read as the last piece that its text has there, so
    that both count the same places. to_model is -1 where no draft is to be made of a token."""

    to_draft: npt.NDArray[np.int32]  # [V of the model]
    to_model: npt.NDArray[np.int32]  # [V of the draft model]

    @classmethod
    def of(cls, model: Tokenizer, draft: Tokenizer, vocab_size: int, draft_vocab_size: int, name: str) -> Self:
        """Of two tokenizers of one family. Raises InvalidRequest where the vocabularies have little in common."""
        to_draft = np.zeros(vocab_size, np.int32)
        to_model = np.full(draft_vocab_size, -1, np.int32)
        missing: dict[int, str] = {}
        num_same = 0
        for id in range(min(model.vocab_size, vocab_size)):
            text = model.token_text(id)
            found = None if text is None else draft.token_id(text)
            # A tokenizer may have more ids than its model has rows: those beyond are as good as missing.
            if found is None or found >= draft_vocab_size or model.is_control(id) != draft.is_control(found):
                missing[id] = model.token_bytes(id).decode("utf-8", "replace")
                continue
            num_same += 1
            to_draft[id] = found
            if id not in model.eos_ids:
                to_model[found] = id
        if num_same < _LEAST_SHARE * draft.vocab_size:
            raise InvalidRequest(
                f"speculation: {name} has another vocabulary ({num_same} of its {draft.vocab_size} tokens are the "
                "model's): give a draft model of the same tokenizer, or a part of it"
            )
        for id, text in missing.items():
            pieces = [piece for piece in draft.encode(text, add_bos=False) if piece < draft_vocab_size]
            to_draft[id] = pieces[-1] if pieces else 0
        return cls(to_draft, to_model)
