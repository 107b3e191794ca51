"""Tokens per second of transformers in float32: `python transformers_speed.py MODEL.gguf THREADS BATCH...`

Run by peers.py with a Python that has torch and transformers. Last line: one JSON document, work -> tokens per second.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import gguf
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from make_golden import real_model

path, threads, *batches = sys.argv[1:]
torch.set_num_threads(int(threads))
model = real_model(gguf.GGUFReader(path))  # the same weights, unpacked to float32
ids = torch.randint(0, model.config.vocab_size, (1, 512), generator=torch.Generator().manual_seed(0))
speeds = {}
with torch.inference_mode():
    times = []
    for _ in range(3):
        started = time.perf_counter()
        model(ids, logits_to_keep=1)
        times.append(time.perf_counter() - started)
    speeds["prefill 512"] = 512 / statistics.median(times)
    for batch in map(int, batches):
        past = model(ids[:, :16].repeat(batch, 1), use_cache=True, logits_to_keep=1).past_key_values
        times = []
        for _ in range(8):
            started = time.perf_counter()
            past = model(ids[:, :1].repeat(batch, 1), past_key_values=past, use_cache=True).past_key_values
            times.append(time.perf_counter() - started)
        speeds[f"decode {batch}"] = batch / statistics.median(times)
print(json.dumps(speeds))
