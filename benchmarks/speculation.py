"""Speculation on and off: the same engine, model and prompts, one sequence, greedy, rounds interleaved, medians.

    python benchmarks/speculation.py [--rounds 5] [--max-tokens 160]

Two groups of prompts: extraction and editing, where the answer repeats parts of the prompt (`overlap` says how much of
it), and free writing, where there is little to guess from and speculation must not cost anything. Seconds are those of
the answers after their first token, the engine's own account. Texts must be identical, or the run fails.
Nothing else should run meanwhile. Prints a table; the last line is one JSON document, also written to
benchmarks/results/speculation.json.
"""

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from farthing.engine import Engine, EngineConfig
from farthing.kernels import instruction_sets
from farthing.models import load_model
from farthing.report.machine import commit, this_machine
from farthing.request import Done, Message, Request, SamplingParams

HERE = Path(__file__).parent

MUSEUM = (
    "The musem opens at nine and closes at six. Visiters pay eight pounds, childern under twelve pay nothing. The new "
    "hall on the second floor shows paintings from the harbour towns of the north, and the cafe beside it serves soup "
    "and bread until five. Bags must be left at the entrence. On Mondays the musem is closed, but the garden behind it "
    "stays open to all, and on the first Sunday of the month a guide tells the story of the building in two langages."
)
FERRY = (
    "The ferry from Port Ellery leaves at seven in the morning and at four in the afternoon. It carries at most sixty "
    "passengers and eleven cars. Bicycles travel for free, dogs need a ticket of two pounds, and the crossing takes "
    "fifty minutes in calm weather. In winter the afternoon ferry does not run on Sundays."
)
REPORT = (
    "The survey of the river Lenn was made on four days in May. Water was taken at nine places between the mill and "
    "the sea. At seven of them the oxygen was above the limit. At the two places below the tannery it was not, and no "
    "fish were found there. The mayor of Aldermoor said that the tannery will get a new filter by October. A second "
    "survey is planned for next spring, and the results will be shown in the town hall."
)
LETTER = (
    "Dear Mr Hollis, thank you for the order of 14 March. The two oak tables left our workshop in Brenfield on Tuesday "
    "and will arrive on Friday before noon. The four chairs follow next week, since the fabric came late. The invoice "
    "over 1,240 pounds is due within thirty days. With kind regards, Ada Merton"
)
LOG = """2026-03-02 08:14:07 INFO backup started on server lark
2026-03-02 08:14:09 WARNING disk lark-2 is 91 percent full
2026-03-02 08:19:44 INFO backup wrote 48210 files
2026-03-02 08:20:01 ERROR copy to server wren failed: no route to host
2026-03-02 08:20:31 INFO retry 1 of 3
2026-03-02 08:20:33 INFO copy to server wren finished"""
CONFIG = (
    '{"host": "lark.example.org", "port": 8080, "workers": 4, "timeout_s": 30, "log": {"level": "info", '
    '"file": "/var/log/lark.log"}, "cache": {"size_mb": 256, "path": "/var/cache/lark"}}'
)
CODE = """def mean(values):
    total = 0
    for value in values:
        total = total + value
    return total / len(values)


def spread(values):
    middle = mean(values)
    total = 0
    for value in values:
        total = total + (value - middle) ** 2
    return (total / len(values)) ** 0.5
"""

PROMPTS = {
    "extraction and editing": {
        "spelling": f"Correct the spelling mistakes in this text and give the whole text back:\n\n{MUSEUM}",
        "replaced name": f"Repeat this report, with Aldermoor replaced by Eastmoor:\n\n{REPORT}",
        "added line": f"Copy this letter and add a line at the end that asks for an answer:\n\n{LETTER}",
        "paragraphs": f"Put each sentence of this report into a paragraph of HTML, <p> and </p>:\n\n{REPORT}",
        "layout of JSON": f"Write this JSON with one field per line:\n\n{CONFIG}",
        "renamed function": f"```python\n{CODE}```\n\nWrite this code again, with mean renamed to average.",
        "lines of a log": f"List the lines of this log that contain the word INFO:\n\n{LOG}",
        "quoted sentences": f"Quote the sentences that say what travels on the ferry and what it costs:\n\n{FERRY}",
        "quoted topic": f"Quote the sentences of this report that speak of the tannery.\n\n{REPORT}",
    },
    "free writing": {
        "story": "Write a short story about a lighthouse keeper who finds a letter.",
        "explanation": "Explain how a bicycle stays upright.",
        "advice": "Suggest a weekend in the mountains for a family with two children.",
        "mail": "Write an e-mail to a colleague about a meeting that has to be moved.",
    },
}


def overlap(prompt: list[int], answer: tuple[int, ...], n: int = 4) -> float:
    """Share of the answer's n-grams that stand in the prompt too."""
    known = {tuple(prompt[i : i + n]) for i in range(len(prompt) - n + 1)}
    grams = [answer[i : i + n] for i in range(len(answer) - n + 1)]
    return sum(gram in known for gram in grams) / max(len(grams), 1)


class Measured:
    """One prompt's seconds and answers, with speculation and without."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.done: dict[str, Done] = {}
        self.num_drafts = self.num_accepted = 0

    def run(self, name: str, engine: Engine, request: Request) -> None:
        before = engine.stats()
        (done,) = engine.generate([request])
        self.seconds[name].append(done.usage.output_s)
        self.done[name] = done
        if name == "on":
            after = engine.stats()
            self.num_drafts = after.num_draft_tokens - before.num_draft_tokens
            self.num_accepted = after.num_accepted_tokens - before.num_accepted_tokens

    def row(self, group: str, prompt: str, prompt_ids: list[int]) -> dict[str, object]:
        on, off = (self.done[name] for name in ("on", "off"))
        if (on.text, on.token_ids) != (off.text, off.token_ids):
            sys.exit(f"{prompt}: speculation changed the answer, from {off.text!r} to {on.text!r}")
        seconds = {name: statistics.median(values) for name, values in self.seconds.items()}
        return {
            "group": group,
            "prompt": prompt,
            "output_tokens": len(on.token_ids),
            "overlap": round(overlap(prompt_ids, on.token_ids), 3),
            "drafts": self.num_drafts,
            "accepted": self.num_accepted,
            "off_s": seconds["off"],
            "on_s": seconds["on"],
            "ratio": seconds["off"] / seconds["on"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=160)
    args = parser.parse_args()
    model = load_model(args.model)
    engines = {
        "off": Engine(model, EngineConfig(num_threads=args.threads, max_num_seqs=1)),
        "on": Engine(model, EngineConfig(num_threads=args.threads, max_num_seqs=1, speculation="prompt-lookup")),
    }
    params = SamplingParams(temperature=0, max_tokens=args.max_tokens)
    named = [(group, name, text) for group, prompts in PROMPTS.items() for name, text in prompts.items()]
    measured = {name: Measured() for _, name, _ in named}
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        order = ("off", "on") if number % 2 == 0 else ("on", "off")
        for _, name, text in named:
            for mode in order:
                measured[name].run(mode, engines[mode], Request((Message("user", text),), params=params))
    rows = [measured[name].row(group, name, model.encode_chat((Message("user", text),))) for group, name, text in named]
    for row in rows:
        print(
            f"{row['group']:22}  {row['prompt']:16}  {row['output_tokens']:3} tokens, overlap {row['overlap']:4.0%}, "
            f"{row['accepted']:3} of {row['drafts']:3} drafts right   {row['ratio']:5.2f} x"
        )
    groups = {group: summary([row for row in rows if row["group"] == group]) for group in PROMPTS}
    for group, found in groups.items():
        print(f"{group:22}  all {found['of_all_seconds']:.2f} x, geometric mean {found['geometric_mean']:.2f} x")
    machine = str(this_machine(instruction_sets()[0]))
    document = {"rows": rows, "groups": groups, "rounds": args.rounds, "threads": args.threads}
    document |= {"machine": machine, "commit": commit()}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "speculation.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


def summary(rows: list[dict[str, object]]) -> dict[str, float]:
    """Ratios of a group: of the sums of seconds, the mean over prompts, and the least."""
    ratios = [float(row["ratio"]) for row in rows]
    off, on = (sum(float(row[name]) for row in rows) for name in ("off_s", "on_s"))
    return {"of_all_seconds": off / on, "geometric_mean": math.prod(ratios) ** (1 / len(ratios)), "least": min(ratios)}


if __name__ == "__main__":
    main()
