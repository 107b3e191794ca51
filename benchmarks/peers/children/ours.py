"""farthing: `python ours.py MODEL THREADS PRODUCT`, then see serve.py. The engine's kernels, batched as it batches."""

import sys

from serve import serve

from farthing.engine import EngineConfig
from farthing.models import load_model
from farthing.report.roofline import Work
from farthing.report.speed import Bench

MODEL, THREADS, PRODUCT = sys.argv[1], int(sys.argv[2]), sys.argv[3]
LARGEST = (Work("decode", 1, 2048), Work("decode", 16, 512))  # what there must be room for


class Farthing:
    def __init__(self) -> None:
        assert PRODUCT in ("int8", "f32")
        self.bench = Bench(load_model(MODEL), LARGEST, PRODUCT, THREADS, EngineConfig().kv)

    def speed(self, kind: str, batch: int, context: int, is_shared: bool) -> float:
        """All tokens by all seconds; the first repetition is not counted, as in serve.py."""
        work = Work("prefill" if kind == "prefill" else "decode", batch, context, is_shared)
        times = self.bench.seconds(work)
        return work.num_tokens * len(times) / sum(times)


if __name__ == "__main__":
    serve(Farthing)
