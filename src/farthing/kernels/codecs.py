"""How keys and values are kept in pages: the codecs by name, what each costs in memory, and which layer has which."""

from dataclasses import dataclass

from farthing.errors import InvalidRequest

__all__ = [
    "CODECS",
    "EDGE_CODEC",
    "TURBOQUANT_MULTIPLE",
    "Codec",
    "bits_per_value",
    "codecs_name",
    "head_bytes",
    "parse_codecs",
]


@dataclass(frozen=True)
class Codec:
    bits: int  # of a value
    scale_bytes: int  # kept once for a token's head
    is_turboquant: bool = False  # rotated, rounded to a codebook (kernels/turboquant.py)


CODECS: dict[str, Codec] = {
    "f32": Codec(32, 0),
    "f16": Codec(16, 0),
    "q8": Codec(8, 4),
    "tq4": Codec(4, 2, True),
    "tq3": Codec(3, 2, True),
    "tq2": Codec(2, 2, True),
}
EDGE_CODEC = "q8"  # of the first and last layers, where the others have a TurboQuant codec
TURBOQUANT_MULTIPLE = 16  # of head_dim and page_size


def head_bytes(codec: str, head_dim: int) -> int:
    """Bytes of one token's key, or value, of one kv head, scale counted."""
    known = CODECS[codec]
    # The third bits of tq3 lie apart, those of 32 columns in one place.
    bits = 2 * head_dim + -(-head_dim // 32) * 32 if codec == "tq3" else known.bits * head_dim
    return bits // 8 + known.scale_bytes


def bits_per_value(k_codec: str, v_codec: str, head_dim: int) -> float:
    """Bits of a key's or a value's number, the mean of both, scales counted."""
    return 8 * (head_bytes(k_codec, head_dim) + head_bytes(v_codec, head_dim)) / (2 * head_dim)


def parse_codecs(text: str) -> tuple[str, str]:
    """ "q8/tq4" is q8 keys and tq4 values; one name is both. Raises InvalidRequest for any other text."""
    names = text.split("/")
    if len(names) > 2 or not all(name in CODECS for name in names):
        raise InvalidRequest(
            f"KV codec {text!r} is not known; allowed: {', '.join(CODECS)}, or two of them as K/V, such as q8/tq4"
        )
    return names[0], names[-1]


def codecs_name(k_codec: str, v_codec: str) -> str:
    """What `parse_codecs` reads: "q8", or "q8/tq4" where keys and values differ."""
    return k_codec if k_codec == v_codec else f"{k_codec}/{v_codec}"
