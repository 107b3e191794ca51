"""transformers on torch: `python hf.py FOLDER THREADS SETTING`, then see serve.py. The setting is the weights' type.

torch.compile with a static cache was slower on two cores and took minutes to compile.
"""

import sys
import time

import torch
from serve import Generating, Times, serve
from transformers import AutoModelForCausalLM, DynamicCache

FOLDER, THREADS, SETTING = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Transformers(Generating):
    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(THREADS)
        self.model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=getattr(torch, SETTING)).eval()

    @torch.inference_mode()
    def run(self, prompts: list[list[int]], steps: int, is_shared: bool) -> Times:
        ids = torch.tensor(prompts[:1] if is_shared else prompts)
        cache = DynamicCache(config=self.model.config)
        started = time.perf_counter()
        token = self.model(ids, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)  # [batch, 1]
        seconds = time.perf_counter() - started
        if is_shared:
            cache.batch_repeat_interleave(len(prompts))
            token = token.repeat(len(prompts), 1)
        started = time.perf_counter()
        for _ in range(steps):
            token = self.model(token, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
        return seconds, time.perf_counter() - started


if __name__ == "__main__":
    serve(Transformers)
