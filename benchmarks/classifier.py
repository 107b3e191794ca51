"""Classifiers: requests a second in batches and one at a time, and dollars per million, by number of layers and format.

    python benchmarks/classifier.py [--layers 30 6] [--weights q8_0 q4_0] [--model FOLDER ...] [--threads 2]

The embedded model's first layers with a random head of 77 labels: the time does not depend on what weights mean. With
--model real classifiers are measured instead. Texts are random tokens, 6 to 23 of them (14.5 in the mean, as intents
have). `whole last layer` is the same model without Take: its last layer computes every token. Rounds are interleaved,
medians; nothing else should run meanwhile. Prints a table; the last line is one JSON document, also written to
benchmarks/results/classifier.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from farthing.economics.cost import HostCost
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.kernels import instruction_sets
from farthing.kernels.plan import Plan, Product, QTensor
from farthing.models import Model, load_model
from farthing.models.checkpoint import Tensors
from farthing.models.decoder import LastLayer
from farthing.report.machine import commit, this_machine

HERE = Path(__file__).parent
NUM_LABELS = 77
NUM_SINGLE = 64  # texts that are asked one at a time in a round
MILLION = 1_000_000


class WholeModel(Model):
    """Its last layer computes every token."""

    def plan(self, product: Product = "f32", *, last_layer: LastLayer = "all") -> Plan:  # noqa: ARG002
        return super().plan(product)


@dataclass(frozen=True)
class Row:
    name: str
    layers: int
    weights: str
    weight_bytes: int
    batch_s: float  # of one request in a batch
    single_s: float  # of one request alone
    tokens_per_s: float  # in batches
    usd_per_million: str  # in batches


def cut(num_layers: int, weights: str, *, is_whole: bool = False) -> Model:
    """The embedded model's first layers with a random head."""
    model = load_model("smollm2-135m-instruct")
    config = replace(
        model.config, num_layers=num_layers, is_tied_head=False, labels=tuple(f"label {i}" for i in range(NUM_LABELS))
    )
    head = np.random.default_rng(1).standard_normal((NUM_LABELS, config.hidden_size)).astype(np.float32)
    kept = {name: model.tensors[name] for name in model.tensors if _is_kept(name, num_layers)}
    kept["head"] = QTensor("f32", *head.shape, head.reshape(-1).view(np.uint8))
    kind = WholeModel if is_whole else Model
    return kind(f"{num_layers} layers", model.path, config, model.tokenizer, Tensors(kept, weights))


def _is_kept(name: str, num_layers: int) -> bool:
    return not name.startswith("layers.") or int(name.split(".")[1]) < num_layers


def models_of(args: argparse.Namespace) -> Iterator[tuple[str, str, Model]]:
    for weights in args.weights:
        for path in args.model:
            yield Path(path).name, weights, load_model(path, weights=weights)
        for layers in () if args.model else args.layers:
            yield f"{layers} layers", weights, cut(layers, weights)
            yield f"{layers} layers, whole last layer", weights, cut(layers, weights, is_whole=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[30, 6])
    parser.add_argument("--weights", nargs="+", default=["q8_0", "q4_0"])
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=512)
    args = parser.parse_args()
    chance = np.random.default_rng(2)
    texts = [chance.integers(3, 1000, n).tolist() for n in chance.integers(6, 24, args.texts)]
    config = ClassifierConfig(num_threads=args.threads)
    found = [(name, weights, Classifier(model, config)) for name, weights, model in models_of(args)]
    batch_s, single_s = defaultdict(list), defaultdict(list)
    for number in range(args.rounds + 1):  # the first one makes room and is not counted
        print(f"round {number} of {args.rounds}", file=sys.stderr)
        for name, weights, classifier in found:
            started = time.perf_counter()
            classifier.classify(texts)
            batch_s[name, weights].append((time.perf_counter() - started) / len(texts))
            started = time.perf_counter()
            for text in texts[:NUM_SINGLE]:
                classifier.classify([text])
            single_s[name, weights].append((time.perf_counter() - started) / len(texts[:NUM_SINGLE]))
    num_tokens = sum(map(len, texts)) / len(texts)
    rows = []
    for name, weights, classifier in found:
        batch, single = (statistics.median(times[name, weights][1:]) for times in (batch_s, single_s))
        usd = HostCost().usd(Decimal(batch) * MILLION)
        layers = classifier.model.config.num_layers
        rows.append(
            Row(name, layers, weights, classifier.weight_bytes, batch, single, num_tokens / batch, f"{usd:.4f}")
        )
    print(f"{'':34} {'weights':8} {'MB':>6} {'requests/s':>10} {'tok/s':>8} {'alone':>9} {'USD per million':>15}")
    for row in rows:
        print(
            f"{row.name:34} {row.weights:8} {row.weight_bytes / 1e6:6.1f} {1 / row.batch_s:10,.0f} "
            f"{row.tokens_per_s:8,.0f} {row.single_s * 1e3:6.2f} ms {row.usd_per_million:>15}"
        )
    document = {"rows": [asdict(row) for row in rows], "rounds": args.rounds, "threads": args.threads}
    document |= {"texts": args.texts, "tokens_per_text": num_tokens, "usd_per_hour": str(HostCost().usd_per_hour)}
    document |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "classifier.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
