"""Slots of small classifiers whose labels say which version they are of."""

import json
import shutil
from pathlib import Path

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
