"""What a request used. Counts follow the cache-inclusive convention: input_tokens contains cache_read_tokens."""

from dataclasses import dataclass

__all__ = ["Usage"]


@dataclass(frozen=True)
class Usage:
    """Tokens and engine seconds of one request, or of many added together.

    `input_s` and `output_s` are the seconds of the engine spent on prompt tokens and on generated tokens; of a step
    shared by several sequences each gets the share of its tokens, so that all shares sum to the engine's busy time.
    """

    input_tokens: int = 0  # includes cache_read_tokens
    cache_read_tokens: int = 0
    output_tokens: int = 0
    input_s: float = 0.0
    output_s: float = 0.0
    cache_write_tokens: int = 0  # part of input_tokens too: what a provider wrote into its cache, and charges for
    cache_write_1h_tokens: int = 0  # part of cache_write_tokens
    reasoning_tokens: int = 0  # part of output_tokens

    @property
    def compute_s(self) -> float:
        return self.input_s + self.output_s

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.output_tokens + other.output_tokens,
            self.input_s + other.input_s,
            self.output_s + other.output_s,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )
