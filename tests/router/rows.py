"""Labelled rows of a made-up world: prompts of topics that a small model does well or badly, answers that show it."""

import numpy as np

from farthing.router.labelled import Labelled

WORDS = {
    "garden": ["rose", "soil", "seed", "water", "leaf", "spade", "bloom", "hedge"],
    "court": ["judge", "statute", "appeal", "tort", "clause", "verdict", "counsel", "plea"],
    "kitchen": ["flour", "oven", "butter", "salt", "whisk", "dough", "sugar", "yeast"],
}
CHANCES = {"garden": (0.9, 0.95), "court": (0.2, 0.9), "kitchen": (0.6, 0.65)}  # of small and large to be right


def labelled(num_rows: int, seed: int = 0, num_models: int = 2, topics: tuple[str, ...] = tuple(WORDS)) -> Labelled:
    rng = np.random.default_rng(seed)
    prompts, quality, answers = [], [], []
    for _ in range(num_rows):
        topic = topics[rng.integers(len(topics))]
        chosen = rng.choice(WORDS[topic], 4)
        first, second = rng.integers(2, 40, 2)
        prompts.append(f"Say what the {' and the '.join(chosen)} have to do with {first} and {second}?")
        small, large = CHANCES[topic]
        chances = np.linspace(small, large, num_models)
        right = rng.random(num_models) < chances
        quality.append(right)
        total = first + second + (0 if right[0] else rng.integers(1, 9))
        answers.append(f"They have {first} + {second} = <<{first}+{second}={total}>>{total}.\n#### {total}")
    names = tuple(f"model-{i}" for i in range(num_models))
    costs = tuple(float(10**i) for i in range(num_models))
    return Labelled(names, costs, tuple(prompts), np.array(quality, np.float64), tuple(answers))
