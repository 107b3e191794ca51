"""Slots of small classifiers whose labels say which version they are of; an upstream of one, and what it answers."""

import json
import shutil
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from farthing.upstreams import Tally
from farthing.upstreams.classifier import ClassifierUpstream
from farthing.upstreams.classifier_config import ClassifierTable

GOLDEN = Path(__file__).parent.parent / "golden"
NUM_LABELS = 5


def add_version(slot: Path, name: str, family: str = "llama") -> Path:
    """A golden classifier with labels like "NAME/3"."""
    folder = slot / "versions" / name
    shutil.copytree(GOLDEN / f"classifier_{family}", folder)
    config = json.loads((folder / "config.json").read_text())
    labels = [f"{name}/{i}" for i in range(NUM_LABELS)]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def promote(slot: Path, name: str) -> None:
    """As a promotion does it: written beside, then renamed over the old one."""
    (slot / "current.new").write_text(name + "\n")
    (slot / "current.new").replace(slot / "current")


@asynccontextmanager
async def opened(path, **more):
    """An upstream of one classifier."""
    upstream = ClassifierUpstream("small", ClassifierTable(models=(str(path),), threads=1, **more))
    try:
        await upstream.start()
        yield upstream
    finally:
        await upstream.aclose()


async def ask(upstream, call, tally=None):
    """The text that it answers."""
    async with aclosing(upstream.stream(call, tally or Tally())) as chunks:
        return "".join([chunk.text async for chunk in chunks])
