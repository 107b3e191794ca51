"""What is measured, and what farthing is held to."""

from dataclasses import dataclass

__all__ = ["ROWS", "Bar", "Row"]


@dataclass(frozen=True)
class Bar:
    """How many times as fast as `against` farthing must be (floor) and should be (goal).

    against: "all" (the fastest of all peers), "llama.cpp" (its fastest setting), "4-bit" (llama.cpp's fastest with
    4-bit weights) or "file" (llama.cpp's fastest on the very file that farthing runs).
    """

    against: str
    floor: float | None = None
    goal: float | None = None


@dataclass(frozen=True)
class Row:
    """kind: "prefill" or "decode". A decode's `batch` sequences have `context` tokens each before its first step."""

    name: str
    title: str
    kind: str
    batch: int
    context: int
    is_shared: bool = False
    bars: tuple[Bar, ...] = ()

    @property
    def work(self) -> tuple[str, int, int, bool]:
        """As the processes that measure are asked for it."""
        return self.kind, self.batch, self.context, self.is_shared


LLAMACPP = Bar("llama.cpp")
ROWS = (
    Row("prefill-512", "prefill, 512 tokens", "prefill", 1, 512,
        bars=(Bar("llama.cpp", 1.8, 2.5), Bar("all", 1.2, 1.7))),
    Row("prefill-2048", "prefill, 2,048 tokens", "prefill", 1, 2048,
        bars=(LLAMACPP, Bar("all", 1.8, 2.5))),
    Row("decode-1", "decode, 1 sequence, empty context", "decode", 1, 0,
        bars=(Bar("4-bit", 1.1, 1.3), Bar("file", 1.5, 1.9), Bar("all"))),
    Row("decode-1-2048", "decode, 1 sequence, 2,048 tokens of context", "decode", 1, 2048,
        bars=(LLAMACPP, Bar("all", 2, 2.6))),
    Row("decode-16", "decode, 16 sequences, 32-token prompts", "decode", 16, 32,
        bars=(LLAMACPP, Bar("all", 2, 2.8))),
    Row("decode-16-shared", "decode, 16 sequences sharing a 512-token prefix", "decode", 16, 512, True,
        bars=(LLAMACPP, Bar("all", 2.5, 3.5))),
)  # fmt: skip
