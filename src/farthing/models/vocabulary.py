"""What a tokenizer file says, in the one form that the rest of the package knows: `Vocabulary`.

Control tokens (`<|im_end|>`, `<s>` ...) are unreachable from text by construction, not by a switch: the backend knows
them only under names that no text can spell (`hidden`), so neither an added-token match, nor a chain of merges, nor a
whole-word lookup can produce their ids. Where a control token is wanted, the text holds the `anchor`, an added token of
the backend, and `Tokenizer` puts the right id in its place. The backend therefore cuts the text at exactly the places
where the reference cuts it.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer as Backend

from farthing.errors import CorruptModel

__all__ = [
    "ControlToken",
    "Vocabulary",
    "byte_level_bytes",
    "check_id",
    "end_ids",
    "fresh_anchor",
    "hidden",
    "spm_bytes",
]

# A private plane that no vocabulary uses; the random part makes the names impossible to write into a prompt.
_SECRET = secrets.token_hex(16)
_END_NAMES = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "</s>", "<EOT>", "<｜end▁of▁sentence｜>",
)  # fmt: skip


@dataclass(frozen=True)
class ControlToken:
    """A token that only a template may write. lstrip and rstrip: it swallows the white space on that side."""

    text: str
    id: int
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's content. `backend` encodes ordinary text only; `pieces[id]` is the token as written in the file,
    None for an id without a token; `to_bytes` turns a piece into bytes; `plain_ids` are pieces written in plain UTF-8.
    """

    backend: Backend
    anchor: str
    pieces: list[str | None]  # [vocab_size]
    to_bytes: Callable[[str], bytes]
    plain_ids: frozenset[int]
    control: tuple[ControlToken, ...]
    strip_first_space: bool = False
    bos_id: int | None = None
    eos_id: int | None = None
    end_ids: frozenset[int] = frozenset()
    add_bos: bool = False
    chat_template: str | None = None
    before: tuple[int, ...] = ()  # what the file puts before a text that stands for itself, such as one to classify,
    after: tuple[int, ...] = ()  # and after it


def hidden(text: str) -> str:
    """The name under which the backend knows a control token: no input can contain it."""
    return f"\U000f0000{_SECRET}{text}"


def fresh_anchor() -> str:
    return f"\U000f0001{secrets.token_hex(16)}\U000f0001"


def end_ids(control: Iterable[ControlToken], declared: Iterable[int | None]) -> frozenset[int]:
    """The ids that end an answer: those the file declares, and control tokens of a well-known name."""
    named = {token.id for token in control if token.text in _END_NAMES}
    return frozenset(named | {id for id in declared if id is not None})


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable Latin-1 stands for itself, the rest for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}


_BYTES = _byte_alphabet()
_SPM_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_level_bytes(piece: str) -> bytes:
    """The bytes of a byte-level piece. One with a letter outside the alphabet stands for its own UTF-8."""
    try:
        return bytes(_BYTES[letter] for letter in piece)
    except KeyError:
        return piece.encode()


def spm_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece piece: <0x0A> is a byte, ▁ a space."""
    match = _SPM_BYTE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()


def check_id(name: str, value: object, size: int) -> int | None:
    """A token id from a file, or None. Raises CorruptModel where it is no id of this vocabulary."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < size:
        raise CorruptModel(f"{name} is {value!r}, but the vocabulary has the ids 0 to {size - 1}; take the file anew")
    return value
