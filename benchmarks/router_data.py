"""RouteLLM's public results: which prompts Mixtral-8x7B and GPT-4-1106 answered right, and what Mixtral said on GSM8K.

The folder is FARTHING_DATA/routing/routellm. Prompts that RouteLLM calls contaminated are dropped. The subject of an
MMLU question is its file's name: it is read to leave subjects out and for one baseline, and no router ever sees it.
"""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from farthing.router.labelled import Labelled

__all__ = ["BENCHMARKS", "COSTS", "MODELS", "Results", "results_folder", "routellm"]

BENCHMARKS = ("mmlu", "gsm8k")
MODELS = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
COSTS = (0.24, 24.7)  # dollars per million tokens, blended, by RouteLLM; a request costs in proportion
_DESIGN = {"mmlu": 4, "gsm8k": 2}  # one in so many rows


@dataclass(frozen=True)
class Results:
    name: str
    rows: Labelled
    subjects: NDArray[np.int64]

    @property
    def is_design(self) -> NDArray[np.bool_]:
        """The rows on which features and recipes were chosen, by a hash of the prompt: the others were never looked at
        before the first run of the benchmark."""
        return np.array([crc32(prompt.encode()) % _DESIGN[self.name] == 0 for prompt in self.rows.prompts])


def results_folder() -> Path | None:
    given = os.environ.get("FARTHING_DATA")
    folder = Path(given) / "routing" / "routellm" if given else None
    return folder if folder is not None and folder.is_dir() else None


def routellm(name: str, folder: Path) -> Results:
    lines = (folder / name / "contaminated_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    dropped = {json.loads(line)["eval_prompt"] for line in lines if line.strip()}
    prompts, quality, answers, subjects = [], [], [], []
    for number, file in enumerate(sorted((folder / name).glob("*.csv"))):
        with file.open(encoding="utf-8", newline="") as text:
            for row in csv.DictReader(text):
                if row["prompt"] in dropped:
                    continue
                prompts.append(row["prompt"])
                quality.append([row[model] == "True" for model in MODELS])
                answers.append(row.get(f"{MODELS[0]}_response"))
                subjects.append(number)
    small = tuple(answer for answer in answers if answer is not None)
    rows = Labelled(MODELS, COSTS, tuple(prompts), np.array(quality, np.float64), small if small else None)
    return Results(name, rows, np.array(subjects))
