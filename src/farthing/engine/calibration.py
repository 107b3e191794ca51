"""What keys have in common, found once when an engine with TurboQuant keys is made.

Keys of a layer share a large constant part, in some models (Qwen2's biased projections) far larger than all that
distinguishes them. Taken off before coding, it costs no bits; and it changes no answer, because it adds the same to all
scores of a query. One fixed text for all models: whatever the mean, answers are right; a better one leaves less error.
"""

import numpy as np

from farthing.kernels import Program
from farthing.kernels.codecs import CODECS
from farthing.kernels.plan import KVSpec
from farthing.models.tokenizer import Tokenizer

__all__ = ["CALIBRATION", "centre_keys"]

NUM_SINKS = 4  # first tokens, whose keys are unlike all others
MOST_TOKENS = 512
PASSES = 2  # the second with keys that are centred already: closer to what is served

TEXT = """The harbour office opens at half past seven. On the third of March 1987 a storm tore the roof from the old
customs house, and for eleven years nobody could say who owned the ruin. "It belongs to the town," said the mayor; the
bank, with a letter from 1921, disagreed. In the end they sold it for 48,500 crowns to a clockmaker from Lund, who
rebuilt it stone by stone and lives there to this day.

Question: A train leaves at 14:05 and arrives at 17:50. How long does the journey take, and what is its mean speed over
315 kilometres? Answer: it takes 3 hours and 45 minutes, which is 3.75 hours; 315 / 3.75 = 84 kilometres per hour.

def moving_average(values, width):
    total, means = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0)
        if i + 1 >= width:
            means.append(total / width)
    return means

{"id": 7, "name": "Amara Okafor", "tags": ["urgent", "billing"], "amount": 129.95, "paid": false, "due": "2026-01-31"}

Photosynthesis turns light into chemical energy: in the leaves of plants, water is split, oxygen is set free, and carbon
dioxide becomes sugar. Without it there would be neither forests nor the air that animals breathe. Les enfants jouent
dans le jardin pendant que leur grand-mère prépare le dîner. Der Zug nach München fährt heute von Gleis neun ab.

Dear Ms Lindqvist, thank you for your order of 12 chairs and 3 tables. Two of the chairs will reach you a week later
than the rest, for which we are sorry. If you would rather wait and have everything in one delivery, please write to us
or call 555-0142 before Friday noon. Kind regards, the workshop.
"""

CALIBRATION = (TEXT, NUM_SINKS, MOST_TOKENS, PASSES)  # what keys depend on, beside the model


def centre_keys(program: Program, kv: KVSpec, tokenizer: Tokenizer) -> None:
    """Measure the mean of every layer's keys and have it taken off, where keys have a TurboQuant codec.

    It depends on model, codecs and instruction set, not on how many pages there are. Call it before any is in use.
    """
    if not CODECS[kv.k_codec].is_turboquant:
        return
    ids = np.asarray(tokenizer.encode(TEXT)[:MOST_TOKENS], np.int32)
    if len(ids) <= NUM_SINKS:
        return
    for _ in range(PASSES):
        means = program.key_sums(ids, NUM_SINKS) / (len(ids) - NUM_SINKS)
        program.set_key_means(means.astype(np.float32))
