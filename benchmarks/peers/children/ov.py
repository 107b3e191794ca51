"""OpenVINO GenAI: `python ov.py MODEL.gguf THREADS SETTING`, then see serve.py. It reads the GGUF itself.

The settings are its two ways to run a decoder: paged attention, stepped here like any batching server, with cached
prefixes where they are shared; and "SDPA", its stateful pipeline.
"""

import sys
import time

import numpy as np
import openvino
import openvino_genai as genai
from serve import Generating, Times, serve

MODEL, THREADS, SETTING = sys.argv[1], int(sys.argv[2]), sys.argv[3]
MAX_TOKENS = 16 * 1024  # of a step: all prompts at once


class Paged(Generating):
    def __init__(self) -> None:
        super().__init__()
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = MAX_TOKENS
        scheduler.enable_prefix_caching = "cached" in SETTING
        properties = {"INFERENCE_NUM_THREADS": THREADS}
        self.pipeline = genai.ContinuousBatchingPipeline(MODEL, scheduler, "CPU", properties)
        self.num_requests = 0

    def run(self, prompts: list[list[int]], steps: int, is_shared: bool) -> Times:
        if is_shared and "cached" in SETTING:
            self._run(prompts[:1], 0)  # the prefix must be there before the sequences that share it
        return self._run(prompts, steps)

    def _run(self, prompts: list[list[int]], steps: int) -> Times:
        config = genai.GenerationConfig(max_new_tokens=steps + 1, ignore_eos=True, do_sample=False)
        handles = []
        started = time.perf_counter()
        for ids in prompts:
            handles.append(self.pipeline.add_request(self.num_requests, openvino.Tensor(np.array([ids])), config))
            self.num_requests += 1
        ends = []
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            ends.append(time.perf_counter())
        assert len(ends) == steps + 1, f"{len(ends)} steps, not {steps + 1}"
        assert {len(handle.read_all()[0].generated_ids) for handle in handles} == {steps + 1}
        return ends[0] - started, ends[-1] - ends[0]


class Stateful(Generating):
    def __init__(self) -> None:
        super().__init__()
        properties = {"INFERENCE_NUM_THREADS": THREADS, "ATTENTION_BACKEND": "SDPA"}
        self.pipeline = genai.LLMPipeline(MODEL, "CPU", **properties)

    def run(self, prompts: list[list[int]], steps: int, is_shared: bool) -> Times:
        del is_shared
        ids = np.array(prompts, dtype=np.int64)
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = genai.GenerationConfig(max_new_tokens=steps + 1, ignore_eos=True, do_sample=False)
        started = time.perf_counter()
        result = self.pipeline.generate(inputs, config)
        seconds = time.perf_counter() - started
        assert {len(tokens) for tokens in result.tokens} == {steps + 1}
        first = result.perf_metrics.get_ttft().mean / 1000  # all sequences have their first token at once
        return first, seconds - first


if __name__ == "__main__":
    serve(Stateful if SETTING == "SDPA" else Paged)
