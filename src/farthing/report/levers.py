"""The levers in their stated order, each a setting of the engine; every one keeps the ones before it."""

from dataclasses import dataclass

from farthing.engine import EngineConfig, Speculation
from farthing.kernels.codecs import parse_codecs
from farthing.kernels.plan import Linear, Plan, Product

__all__ = ["Lever", "effective_product", "has_codes", "is_four_bit", "levers", "linear_formats"]

FOUR_BIT = ("q4_0", "q4_1")
BATCH = EngineConfig().max_num_seqs


@dataclass(frozen=True)
class Lever:
    """`weights` None takes the file's own formats. A lossless lever is compared with the row above, token for token;
    the others with full precision."""

    name: str
    detail: str
    weights: str | None
    is_lossless: bool
    product: Product = "f32"
    max_num_seqs: int = BATCH
    is_kv_cached: bool = True
    is_prefix_cached: bool = True
    kv: str = "f16"  # codec of keys and values, or two as K/V
    speculation: Speculation = "off"

    def engine_config(self, num_threads: int) -> EngineConfig:
        k_codec, v_codec = parse_codecs(self.kv)
        return EngineConfig(
            num_threads=num_threads,
            max_num_seqs=self.max_num_seqs,
            is_prefix_cached=self.is_prefix_cached,
            is_kv_cached=self.is_kv_cached,
            product=self.product,
            k_codec=k_codec,
            v_codec=v_codec,
            speculation=self.speculation,
        )


def levers(file_formats: frozenset[str]) -> tuple[Lever, ...]:
    """The rows for a model whose file holds its matrices in these formats.

    A file that is 4-bit already keeps its own blocks in the 4-bit rows; any other is re-blocked to q4_1.
    """
    is_native = is_four_bit(file_formats)
    four_bit = None if is_native else "q4_1"
    of_four_bit = f"{'/'.join(sorted(file_formats)).upper()}, as in the file" if is_native else "Q4_1, blocks of 32"
    one = "one request at a time"
    drafts = f"off above; here prompt lookup, up to {EngineConfig().max_draft_tokens} tokens of an answer in a step"
    return (
        Lever(
            "full precision, no KV cache", f"f32, {one}, all tokens again for each", "f32", True, "f32", 1, False, False
        ),
        Lever("KV cache", f"f32, {one}", "f32", True, max_num_seqs=1, is_prefix_cached=False),
        Lever("continuous batching", f"f32, up to {BATCH} requests in a step", "f32", True, is_prefix_cached=False),
        Lever("prefix reuse", "f32, shared beginnings computed once", "f32", True),
        Lever("8-bit weights", "Q8_0, multiplied in f32", "q8_0", False),
        Lever("4-bit weights", f"{of_four_bit}, multiplied in f32", four_bit, False),
        Lever("integer products", f"{of_four_bit}, times activations in 8 bits", four_bit, False, "int8"),
        Lever("8-bit keys and values", "a scale for each token's head", four_bit, False, "int8", kv="q8"),
        Lever("speculation", drafts, four_bit, True, "int8", kv="q8", speculation="prompt-lookup"),
    )


def linear_formats(plan: Plan) -> frozenset[str]:
    """Formats of the matrices in the layers (embedding and head are often kept finer)."""
    names = [name for op in plan.ops if isinstance(op, Linear) for name in op.weights]
    return frozenset(plan.tensors[name].format for name in names)


def effective_product(plan: Plan, product: Product) -> Product:
    """What the layers multiply in: weights without integer codes are multiplied in f32 whatever is asked for."""
    return product if any(map(has_codes, linear_formats(plan))) else "f32"


def has_codes(format: str) -> bool:
    """Whether weights of this format are integer codes, which integer products multiply."""
    return format.startswith(("q", "iq"))


def is_four_bit(file_formats: frozenset[str]) -> bool:
    return all(name in FOUR_BIT for name in file_formats)
