"""How many tokens a text has: exact for OpenAI's encodings, offline; an honest estimate for a private tokenizer.

Special tokens written in a text are ordinary text, as they are for a provider who escapes its users' input. What a chat
adds around a message (a few tokens each) is not counted. A model that runs here is counted with its own tokenizer
(farthing.models.tokenizer), not by this module.
"""

import base64
import gzip
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    import tiktoken

__all__ = ["ENCODINGS", "Count", "count_for_model", "count_tokens", "tokens_of"]

# The pattern that splits a text before merging belongs to the encoding, as its ranks do (see data/LICENSE-tiktoken).
_O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
ENCODINGS = {"o200k_base": _O200K, "cl100k_base": _CL100K}


@dataclass(frozen=True)
class Count:
    """`tokens` with what they mean: exact (then low == tokens == high), or an estimate between `low` and `high`."""

    tokens: int
    characters: int  # Unicode code points
    method: Literal["exact", "estimate"]
    encoding: str
    low: int
    high: int
    basis: str  # where the number comes from, for people

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class _Family:
    """How a family with a tokenizer that is not here compares with o200k_base: tokens x factor, give or take band."""

    factor: float
    band: float
    basis: str


_CLAUDE = "Claude's tokenizer is private; factor from third-party measurements on English and code (sammcj/ingest #65)"
_OLD_CLAUDE = _Family(1.18, 0.20, _CLAUDE)
_NEW_CLAUDE = _Family(1.53, 0.20, _CLAUDE)
_GEMINI = _Family(
    1.08,
    0.25,
    "Gemini's tokenizer is not shipped here; factor from third-party measurements on English (alehatsman/dex #183);"
    " Asian scripts take fewer tokens",
)
_NEW_OPENAI = _Family(1.0, 0.20, "OpenAI has not published this model's encoding; counted as o200k_base")
_OTHER = _Family(
    1.08,
    0.30,
    "no factor is known for this family; for an exact count give --model the folder or file with its tokenizer",
)


@cache
def _encoding(name: str) -> "tiktoken.Encoding":
    """The encoding built from the packaged ranks. Without special tokens: whatever a text holds is text."""
    import tiktoken

    packed = (Path(__file__).parent / "data" / f"{name}.tiktoken.gz").read_bytes()
    ranks = {}
    for line in gzip.decompress(packed).splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding(name, pat_str=ENCODINGS[name], mergeable_ranks=ranks, special_tokens={})


def _encode(text: str, encoding: str) -> list[int]:
    if encoding not in ENCODINGS:
        raise InvalidRequest(f"encoding {encoding!r} is not known; known: {', '.join(ENCODINGS)}")
    # A lone surrogate cannot be encoded: it counts as the replacement character, as in tiktoken.
    return _encoding(encoding).encode_ordinary(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def count_tokens(text: str, encoding: str) -> int:
    """Tokens of `text` in an OpenAI encoding, exactly as tiktoken counts. Raises InvalidRequest for an unknown one."""
    return len(_encode(text, encoding))


def tokens_of(text: str, encoding: str) -> list[tuple[int, bytes]]:
    """The tokens themselves, as (id, bytes): a token may hold a part of a character."""
    ids = _encode(text, encoding)
    return list(zip(ids, _encoding(encoding).decode_tokens_bytes(ids), strict=True))


def count_for_model(text: str, model: str, other_names: tuple[str, ...] = ()) -> Count:
    """Count `text` for an encoding's name or a hosted model's; `other_names` may be proposed in an error.

    Raises UnknownModel, with the nearest names, for a name that is in no price list and no encoding, and
    InvalidRequest for a model of OpenAI's older encodings, which are not shipped.
    """
    encoding, family = _method(model.strip(), other_names)
    base = count_tokens(text, encoding)
    if family is None:
        return Count(base, len(text), "exact", encoding, base, base, f"{encoding}, counted exactly and offline")
    tokens = base * family.factor
    low, high = int(tokens * (1 - family.band)), -int(-tokens * (1 + family.band) // 1)
    basis = f"{family.factor:g} x {encoding}, +-{family.band:.0%}: {family.basis}"
    return Count(round(tokens), len(text), "estimate", encoding, low, high, basis)


def _method(model: str, other_names: tuple[str, ...]) -> tuple[str, _Family | None]:
    """(encoding, None) where it is exact, (o200k_base, how to scale it) where it is not."""
    if model in ENCODINGS:
        return model, None
    import tiktoken.model

    from farthing.economics.price_sources import known_model

    name = model.lower().removeprefix("openai/")
    if name not in tiktoken.model.MODEL_TO_ENCODING:
        name = known_model(model, other_names)  # refuses a typo; tiktoken's prefixes alone would accept gpt-4o-mnii
    name = name.rpartition("/")[2]
    try:
        # gpt-oss: o200k_harmony differs from o200k_base in its special tokens only
        encoding = tiktoken.model.encoding_name_for_model(name).replace("o200k_harmony", "o200k_base")
    except KeyError:
        return "o200k_base", _family(name)
    if encoding not in ENCODINGS:
        raise InvalidRequest(f"{model} uses {encoding}, which is not shipped; shipped: {', '.join(ENCODINGS)}")
    return encoding, None


def _family(name: str) -> _Family:
    if "claude" in name:
        # The version is the first one or two short numbers of the name; a date has more digits.
        version = [int(part) for part in re.findall(r"(?<!\d)\d{1,2}(?!\d)", name)[:2]]
        return _NEW_CLAUDE if [*version, 0, 0][:2] >= [4, 7] else _OLD_CLAUDE
    if "gemini" in name:
        return _GEMINI
    return _NEW_OPENAI if re.match(r"gpt-\d|o\d", name) else _OTHER
