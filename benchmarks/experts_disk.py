"""A checkpoint larger than the memory given: experts in a file, read when a token takes them, and what that costs.

    python benchmarks/experts_disk.py [--layers 4] [--share 0.5] [--tokens 32] [--rounds 5] [--folder DIR]

An OLMoE-shaped GGUF with random 4-bit weights is written, and `farthing generate` answers with it: in memory and with
--experts-folder, without a limit and in a control group that may use `share` of the checkpoint's size, page cache
included. Linux, as root or in a group of one's own (v1 or v2). Where the model does not fit, the kernel ends the
program; that is what the folder is for. Rounds are interleaved; of each case the run of the median
pace is told. The last line is one JSON document.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.moe_models import RandomTensors, olmoe_config, write_olmoe
from farthing.kernels import instruction_sets
from farthing.report.machine import commit, this_machine

PROMPT = "The ferry left the harbour at 7:45 with 112 passengers and a cargo of apples."
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Group:
    """A control group with a limit of memory; v1 and v2 name their files differently."""

    folder: Path
    limit: str
    peak: str

    @property
    def peak_bytes(self) -> int:
        return int((self.folder / self.peak).read_text())


@contextmanager
def limited(num_bytes: int) -> Iterator[Group]:
    """Raises OSError where none can be made."""
    root = Path("/sys/fs/cgroup")
    name = f"farthing-experts-{os.getpid()}"
    if (root / "memory" / "memory.limit_in_bytes").exists():
        group = Group(root / "memory" / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
    else:
        group = Group(root / name, "memory.max", "memory.peak")
    group.folder.mkdir()
    try:
        (group.folder / group.limit).write_text(str(num_bytes))
        with suppress(OSError):  # what is swapped out would not have to be read again
            (group.folder / "memory.swappiness").write_text("0")
        yield group
    finally:
        for _ in range(50):  # the program that ended may still be counted
            try:
                group.folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def answer(model: Path, tokens: int, experts: Path | None, group: Group | None) -> dict[str, Any]:
    """What `farthing generate` says, and how much memory it took; or how it ended."""
    command = [sys.executable, "-m", "farthing", "generate", PROMPT, "--model", str(model), "--raw", "--json"]
    command += ["--max-tokens", str(tokens), "--temperature", "0", "--ignore-eos", "--speculation", "off"]
    command += [] if experts is None else ["--experts-folder", str(experts)]
    if group is not None:  # the shell joins the group and becomes the program, which so is counted from its first page
        command = ["sh", "-c", f'echo $$ > {group.folder}/cgroup.procs && exec "$@"', "sh", *command]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        how = f"ended by signal {-done.returncode}" if done.returncode < 0 else done.stderr.strip()[-200:]
        return {"ended": how, "seconds": seconds}
    told = json.loads(done.stdout)
    usage = told["usage"]
    return {
        "seconds": seconds,
        "usd": told["cost_usd"],
        "usd_per_mtok_output": usage["output_s"] * told["usd_per_hour"] / 3600 / (usage["output_tokens"] - 1) * 1e6,
        "tokens_per_s": told["tokens_per_s"],
        "peak_bytes": None if group is None else group.peak_bytes,
        "token_ids": told["token_ids"],
        **told["experts"],
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = folder / "olmoe.gguf"
    write_olmoe(RandomTensors(olmoe_config(options.layers)), model, has_vocabulary=True)
    size = model.stat().st_size
    room = int(size * options.share)
    cases = (
        ("in memory", None, False),
        ("in a file", folder, False),
        ("in a file, limited", folder, True),
        ("in memory, limited", None, True),
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in cases}
    for _ in range(options.rounds):
        for name, experts, is_limited in cases:
            if is_limited:
                with limited(room) as group:
                    found[name].append(answer(model, options.tokens, experts, group))
            else:
                found[name].append(answer(model, options.tokens, experts, None))
    texts = {tuple(row.pop("token_ids")) for of in found.values() for row in of if "token_ids" in row}
    rows = {name: sorted(of, key=lambda row: row.get("tokens_per_s", 0.0))[len(of) // 2] for name, of in found.items()}
    for name, row in rows.items():
        print(line(name, row), flush=True)
    return {
        "checkpoint_bytes": size,
        "memory_bytes": room,
        "rounds": options.rounds,
        "is_same_answer": len(texts) == 1,
        "rows": rows,
    }


def line(name: str, row: dict[str, Any]) -> str:
    if "ended" in row:
        return f"{name:20} {row['ended']}"
    peak = "" if row["peak_bytes"] is None else f", {row['peak_bytes'] / 2**20:.0f} MiB at most"
    return (
        f"{name:20} {row['tokens_per_s']:.1f} tok/s, ${row['usd_per_mtok_output']:.3f} a million, "
        f"{row['num_page_faults']:,} waits for the disk, {row['per_layer_and_step']:.1f} experts a layer and step{peak}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.5, help="of the checkpoint's size, that the program may use")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where checkpoint and experts lie; on a disk, not in memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farthing-experts-", dir=options.folder) as folder:
        document = measure(options, Path(folder))
    print(f"checkpoint {document['checkpoint_bytes'] / 1e6:.0f} MB, memory {document['memory_bytes'] / 1e6:.0f} MB")
    document |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
