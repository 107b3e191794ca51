"""CTranslate2: `python ct2.py FOLDER THREADS SETTING`, then see serve.py. The setting is its compute type.

It chooses oneDNN or MKL by itself; CT2_USE_MKL and CT2_USE_EXPERIMENTAL_PACKED_GEMM were slower on an AMD EPYC.
"""

import json
import sys
import time
from pathlib import Path

import ctranslate2
from serve import Generating, Times, serve

FOLDER, THREADS, SETTING = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


class CTranslate2(Generating):
    def __init__(self) -> None:
        super().__init__()
        self.generator = ctranslate2.Generator(
            str(FOLDER), device="cpu", compute_type=SETTING, inter_threads=1, intra_threads=THREADS
        )
        self.tokens = json.loads((FOLDER / "vocabulary.json").read_text())

    def run(self, prompts: list[list[int]], steps: int, is_shared: bool) -> Times:
        batch = len(prompts)
        starts = [[self.tokens[i] for i in ids] for ids in prompts]
        # A static prompt is computed once; its K and V are copied for each sequence.
        split = len(starts[0]) - 1 if is_shared else 0
        ends: list[float] = []  # when a step's last sequence had its token

        def on_token(result: ctranslate2.GenerationStepResult) -> bool:
            if result.batch_id == batch - 1:
                ends.append(time.perf_counter())
            return False

        started = time.perf_counter()
        self.generator.generate_batch(
            [tokens[split:] for tokens in starts],
            static_prompt=starts[0][:split] or None,
            max_batch_size=batch,
            max_length=steps + 1,
            min_length=steps + 1,
            include_prompt_in_result=False,
            callback=on_token,
        )
        assert len(ends) == steps + 1, f"{len(ends)} steps, not {steps + 1}"
        return ends[0] - started, ends[-1] - ends[0]


if __name__ == "__main__":
    serve(CTranslate2)
