"""llama.cpp's probabilities beside ours on the same files: the random checkpoints of tests/golden as float32 GGUF.

    python benchmarks/moe_logits.py [--llamacpp FOLDER] [FAMILY ...]

llama.cpp's server is asked for the log-probability of every token of the vocabulary after a prompt of ids (logits but
for a constant), with keys and values in float32. Of each family: the largest difference over all tokens and prompts,
and whether the likeliest token is the same. llama.cpp opens Qwen's mixtures
only without dense layers (those get the experts of the next sparse one) and OLMoE only with as many heads of k as of q
(they are repeated, which changes nothing); its gelu, Gemma's, is a table in float16. The last line is one JSON
document.
"""

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.llama_server import Server
from benchmarks.peers.build import Missing, cache_folder, llamacpp_programs
from farthing import kernels
from farthing.models import load_model
from farthing.models.safetensors import read_safetensors
from farthing.report.machine import commit, this_machine
from tests.models.small import GOLDEN, NUM_PROMPTS, SPARSE, as_float32, golden, logits_of, program_of, write_as_gguf

FAMILIES = (*SPARSE, "gemma3_text")
SERVER = "llama-server"
F32 = npt.NDArray[np.float32]
OPTIONS = ["-c", "512", "-np", "1", "-fa", "off", "-ctk", "f32", "-ctv", "f32", "--no-webui", "--no-warmup"]


def theirs(server: Server, ids: list[int], vocab_size: int) -> F32 | None:
    """Log-probabilities [V] of the token after `ids`; None where that is the end token, of which nothing is told.
    Raises ValueError where the server gives fewer."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": vocab_size, "temperature": 0, "cache_prompt": False}
    with closing(server.connect()) as connection:
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        document = json.loads(response.read())
    if response.status != 200:
        raise ValueError(f"llama-server answered {response.status}: {str(document)[:200]}")
    if "completion_probabilities" not in document:
        return None
    found = np.full(vocab_size, np.nan, np.float32)
    for entry in document["completion_probabilities"][0]["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    if np.isnan(found).any():
        raise ValueError(f"llama-server told {vocab_size - int(np.isnan(found).sum())} of {vocab_size} tokens")
    return found


def fitting(family: str, folder: Path) -> None:
    """The checkpoint of a family in float32, `folder / family`, in the form that llama.cpp wants."""
    source, target = GOLDEN / family, folder / family
    target.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target)
    config = json.loads((source / "config.json").read_text())
    tensors = {name: as_float32(tensor) for name, tensor in read_safetensors(source).items()}
    experts = load_model(source).config.experts
    layers = range(config["num_hidden_layers"]) if experts else ()
    for layer in layers:
        if experts and not experts.is_sparse(layer):
            other = next(i for i in (*layers[layer:], *layers) if experts.is_sparse(i))
            here, there = (f"model.layers.{number}.mlp." for number in (layer, other))
            kept = {name: array for name, array in tensors.items() if not name.startswith(here)}
            taken = {here + name.removeprefix(there): array for name, array in kept.items() if name.startswith(there)}
            tensors = kept | taken
    config |= {"mlp_only_layers": [], "decoder_sparse_step": 1} if experts else {}
    if family == "olmoe":
        num_kv_heads, num_heads = config["num_key_value_heads"], config["num_attention_heads"]
        config["num_key_value_heads"] = num_heads
        for name, array in tensors.items():
            if name.endswith(("k_proj.weight", "v_proj.weight", "k_norm.weight")):
                shape = (1, -1) if len(array) == 1 else (-1, array.shape[1])
                heads = array.reshape(num_kv_heads, -1, shape[1] if len(array) > 1 else 1)
                tensors[name] = heads.repeat(num_heads // num_kv_heads, axis=0).reshape(shape)
    (target / "config.json").write_text(json.dumps(config))
    arrays = {name: array[0] if len(array) == 1 and "gate" not in name else array for name, array in tensors.items()}
    save_file(arrays, target / "model.safetensors")


def compare(family: str, programs: Path, folder: Path) -> dict[str, Any]:
    path = folder / f"{family}.gguf"
    # llama.cpp takes no scale of attention for Gemma 3 from a file.
    changes = {"gemma3__attention__scale": None} if family == "gemma3_text" else {}
    fitting(family, folder / "source")
    write_as_gguf(family, path, source=folder / "source", has_head=family in SPARSE, **changes)
    model = load_model(path)
    program = program_of(model, "auto", num_tokens=32)
    worst, num_same, num_compared = 0.0, 0, 0
    with Server(programs / SERVER, path, 1, OPTIONS, cache_folder() / "logs" / f"logits-{family}.log") as server:
        for i in range(NUM_PROMPTS):
            ids = golden(f"{family}/golden.npz")[f"prompt_{i}"].tolist()
            logits = logits_of(program, ids)[-1].astype(np.float64)  # [V]
            ours = logits - np.logaddexp.reduce(logits)
            other = theirs(server, ids, model.config.vocab_size)
            if other is None:
                continue
            num_compared += 1
            worst = max(worst, float(np.abs(ours - other).max()))
            num_same += int(ours.argmax() == other.argmax())
    return {"family": family, "largest_difference": worst, "same_token": num_same, "prompts": num_compared}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; default: all")
    parser.add_argument("--llamacpp", type=Path, help="folder of llama-server; without it, it is built once")
    options = parser.parse_args()
    try:
        programs = llamacpp_programs(cache_folder(), options.llamacpp, (SERVER,))
    except Missing as error:
        sys.exit(f"llama.cpp cannot be had: {error}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="farthing-logits-") as folder:
        for family in options.families or FAMILIES:
            rows.append(compare(family, programs, Path(folder)))
            row = rows[-1]
            likeliest = f"{row['same_token']} of {row['prompts']} likeliest tokens the same"
            print(f"{family:12} largest difference of a log-probability {row['largest_difference']:.2g}, {likeliest}")
    print(json.dumps({"rows": rows, "machine": str(this_machine(kernels.instruction_sets()[0])), "commit": commit()}))


if __name__ == "__main__":
    main()
