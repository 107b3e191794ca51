"""Text to token ids and back.

What users write never becomes a control token; what a chat template writes does. `encode` is for the first,
`encode_template` for the second (see `template.encode_chat`, which keeps the two apart inside one string).
"""

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers.models import BPE

from farthing.errors import InvalidRequest
from farthing.models.gguf import read_gguf
from farthing.models.vocabulary import ControlToken, Vocabulary
from farthing.models.vocabulary_gguf import vocabulary_from_gguf
from farthing.models.vocabulary_json import vocabulary_from_folder

__all__ = ["GUARDS", "Detokenizer", "Tokenizer", "load_tokenizer", "load_tokenizer_gguf", "load_tokenizer_json"]

GUARDS = range(0x100000, 0x10FFFE)  # private use: letters that `encode_template` may be told to leave out


class Tokenizer:
    """Ids are those of the model's reference tokenizer. Input bytes that are not UTF-8, and lone surrogates, become
    U+FFFD (bytes: one for each maximal invalid part), as the reference does."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._backend = vocabulary.backend
        self._anchor_id = self._backend.token_to_id(vocabulary.anchor)
        self._control = {token.id: token for token in vocabulary.control}
        self._by_text = {token.text: token.id for token in vocabulary.control if token.text}
        self._pattern = _control_pattern(vocabulary.control)
        self._bytes: dict[int, bytes] = {}
        self._whole: dict[int, str | None] = {}
        self._longest: int | None = None  # see least_tokens

    @property
    def vocab_size(self) -> int:
        """The number of ids, counting gaps. A model's output may be wider: such ids decode to nothing."""
        return len(self._vocabulary.pieces)

    @property
    def bos_id(self) -> int | None:
        return self._vocabulary.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends an answer: end of sequence, of turn, of message."""
        return self._vocabulary.end_ids

    @property
    def after(self) -> tuple[int, ...]:
        """What `encode_alone` puts behind each text."""
        return self._vocabulary.after

    @property
    def bos_token(self) -> str:
        return self._name(self._vocabulary.bos_id)

    @property
    def eos_token(self) -> str:
        return self._name(self._vocabulary.eos_id)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the file's chat template."""
        return self._vocabulary.chat_template

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """The control tokens' texts and ids."""
        return self._by_text

    def _name(self, id: int | None) -> str:
        return "" if id is None else self._vocabulary.pieces[id] or ""

    def is_control(self, id: int) -> bool:
        return id in self._control

    def token_text(self, id: int) -> str | None:
        """The token as the file writes it (`Ġthe`, `<|im_end|>`), None for an id without a token."""
        return self._vocabulary.pieces[id] if 0 <= id < self.vocab_size else None

    def token_id(self, text: str) -> int | None:
        """The id of the token that the file writes so, None if there is none."""
        found = self._by_text.get(text)
        return self._backend.token_to_id(text) if found is None else found

    def encode(self, text: str | bytes, *, allow_special: bool = False, add_bos: bool | None = None) -> list[int]:
        """Token ids of `text`. Control tokens written in it are ordinary text unless `allow_special`.

        add_bos None does what the model's file says; True puts the token that begins a sequence first. Raises
        InvalidRequest where it is asked for and the model has none.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        ids = self.encode_template(text) if allow_special else self._plain(_sound(text))
        if self._vocabulary.add_bos if add_bos is None else add_bos:
            if self.bos_id is None:
                if add_bos:
                    raise InvalidRequest("add_bos was asked for, but this model has no token that begins a sequence")
                return ids
            ids.insert(0, self.bos_id)
        return ids

    def encode_alone(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that stand for themselves, with what the file puts before and after each: what a
        classifier reads. Control tokens written in a text are ordinary text."""
        before, after = list(self._vocabulary.before), list(self._vocabulary.after)
        found = self._backend.encode_batch_fast([_sound(text) for text in texts], add_special_tokens=False)
        return [before + encoding.ids + after for encoding in found]

    def encode_template(self, rendered: str, guard: str = "") -> list[int]:
        """Token ids of a rendered chat template, control tokens included.

        A control token with the letter `guard` inside it is ordinary text: guards are taken out after the control
        tokens have been found. The result equals encoding the string without guards, cut at the others.
        """
        parts = self._pattern.split(_sound(rendered)) if self._pattern else [_sound(rendered)]
        control = [self._by_text[text] for text in parts[1::2]]
        for place, id in enumerate(control):
            if self._control[id].lstrip:
                parts[2 * place] = parts[2 * place].rstrip()
            if self._control[id].rstrip:
                parts[2 * place + 2] = parts[2 * place + 2].lstrip()
        text = self._vocabulary.anchor.join(parts[0::2])
        found = iter(control)
        ids = self._plain(text.replace(guard, "") if guard else text)
        return [next(found) if id == self._anchor_id else id for id in ids]

    def least_tokens(self, text: str) -> int:
        """How many tokens `text` has at least, told from its length: as many as if each were the longest one.

        Encoding megabytes takes seconds and hundreds of megabytes, this a few milliseconds. 0 where nothing is certain.
        """
        if self._longest is None:
            self._longest = self._most_bytes()
        return 0 if self._longest == 0 else len(text.encode("utf-8", "replace")) // self._longest

    def _most_bytes(self) -> int:
        """The most bytes of text that one token can stand for; 0 where that has no bound."""
        model, known = self._backend.model, self._vocabulary
        is_bounded = isinstance(model, BPE) and (model.byte_fallback or not model.fuse_unk)
        if not is_bounded or any(token.lstrip or token.rstrip for token in known.control):
            return 0
        pieces = ((id, piece) for id, piece in enumerate(known.pieces) if piece)
        sizes = [
            len(piece.encode("utf-8", "replace") if id in known.plain_ids else known.to_bytes(piece))
            for id, piece in pieces
        ]
        longest = max([*sizes, *(len(token.text.encode("utf-8", "replace")) for token in known.control)], default=0)
        return longest * 4 if self._backend.normalizer is not None else longest  # NFC makes one letter of up to four

    def _plain(self, text: str) -> list[int]:
        # The batch call leaves out what the single one computes and nobody reads here: offsets into the text.
        return list(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def token_bytes(self, id: int) -> bytes:
        """The bytes one id stands for: b"" for an id without a token, the name in UTF-8 for a control token."""
        known = self._bytes.get(id)
        if known is None:
            piece = self.token_text(id) or ""
            plain = id in self._vocabulary.plain_ids
            known = self._bytes[id] = piece.encode("utf-8", "replace") if plain else self._vocabulary.to_bytes(piece)
        return known

    def whole_text(self, id: int) -> str | None:
        """The text of an id whose bytes are whole characters and that is no control token; None for others."""
        try:
            return self._whole[id]
        except KeyError:
            pass
        try:
            text = None if self.is_control(id) else self.token_bytes(id).decode()
        except UnicodeDecodeError:
            text = None
        self._whole[id] = text
        return text

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. Control tokens are left out if `skip_special`."""
        detokenizer = Detokenizer(self, skip_special)
        return "".join([detokenizer.push(id) for id in ids]) + detokenizer.flush()


class Detokenizer:
    """Token ids to text as they come. `push` returns what is certain and holds back the beginning of a UTF-8
    character; `flush` returns the rest. All pieces together equal `Tokenizer.decode` of all ids."""

    __slots__ = ("_decoder", "_is_within", "_skip_special", "_strip", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._strip = tokenizer._vocabulary.strip_first_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_within = False  # whether the decoder holds the beginning of a character

    def push(self, id: int) -> str:
        if not (self._is_within or self._strip) and (text := self._tokenizer.whole_text(id)) is not None:
            return text  # nearly every token; without the decoder, which takes a microsecond
        if self._skip_special and self._tokenizer.is_control(id):
            return ""
        piece = self._tokenizer.token_bytes(id)
        if self._strip and piece:
            self._strip = False  # SentencePiece puts a space before the first word
            piece = piece.removeprefix(b" ")
        text = self._decoder.decode(piece)
        self._is_within = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._is_within = False
        return text


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model's GGUF file or Hugging Face folder, without its weights. Raises as the two below do."""
    return load_tokenizer_json(path) if path.is_dir() else load_tokenizer_gguf(read_gguf(path).metadata)


def load_tokenizer_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file from its metadata. Raises CorruptModel, UnsupportedModel."""
    return Tokenizer(vocabulary_from_gguf(metadata))


def load_tokenizer_json(folder: str | Path, unread_id: int | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (tokenizer.json and what stands beside it).

    unread_id: of a classifier's padding, which its head passes over: not put after a text, whatever the file says.
    Raises ModelNotFound where there is no tokenizer.json, CorruptModel, UnsupportedModel.
    """
    vocabulary = vocabulary_from_folder(Path(folder))
    after = list(vocabulary.after)
    while after and after[-1] == unread_id:
        after.pop()
    return Tokenizer(replace(vocabulary, after=tuple(after)))


def _control_pattern(control: Iterable[ControlToken]) -> re.Pattern[str] | None:
    """Finds control tokens, the longest first. A guard cannot stand inside one of a single letter: there it follows."""
    texts = sorted((token.text for token in control if token.text), key=len, reverse=True)
    unguarded = f"(?![{chr(GUARDS[0])}-{chr(GUARDS[-1])}])"
    choices = [re.escape(text) + (unguarded if len(text) == 1 else "") for text in texts]
    return re.compile(f"({'|'.join(choices)})") if choices else None


def _sound(text: str) -> str:
    """Text that UTF-8 can carry: surrogate pairs joined, lone ones replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
