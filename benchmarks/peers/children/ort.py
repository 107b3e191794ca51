"""onnxruntime-genai: `python ort.py FOLDER THREADS SETTING`, then see serve.py. FOLDER + SETTING is what it loads.

Sequences cannot share a prefix in it: where they could, it computes each one's own.
"""

import json
import sys
import time

import numpy as np
import onnxruntime_genai as genai
from serve import Generating, Times, serve

FOLDER, THREADS, SETTING = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class OnnxRuntime(Generating):
    def __init__(self) -> None:
        super().__init__()
        config = genai.Config(FOLDER + SETTING)
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": THREADS}}}}))
        self.model = genai.Model(config)

    def run(self, prompts: list[list[int]], steps: int, is_shared: bool) -> Times:
        del is_shared
        length = len(prompts[0]) + steps + 2
        params = genai.GeneratorParams(self.model)
        params.set_search_options(batch_size=len(prompts), max_length=length, min_length=length, do_sample=False)
        generator = genai.Generator(self.model, params)
        started = time.perf_counter()
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        return first - started, time.perf_counter() - first


if __name__ == "__main__":
    serve(OnnxRuntime)
