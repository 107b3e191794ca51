"""Writes the folder that train_small.py made as a GGUF in float32, which farthing and llama.cpp open alike.

    python scripts/small_gguf.py FOLDER OUT.gguf [--check]      (needs gguf and safetensors; --check: transformers too)

--check compares transformers' logits of the folder with farthing's of the GGUF on held-out text.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

F32 = npt.NDArray[np.float32]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(folder: Path, output: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(output, "llama")
    writer.add_name(output.stem)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text())["model"])
    for name, values in load_file(folder / "model.safetensors").items():
        writer.add_tensor(_name(name), _halves_to_pairs(name, values.astype(np.float32), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, bpe: dict) -> None:  # type: ignore[type-arg]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def _name(theirs: str) -> str:
    stem = theirs.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def _halves_to_pairs(name: str, values: F32, config: dict) -> F32:  # type: ignore[type-arg]
    """GGUF's llama turns neighbours, transformers the two halves of a head: rows of q and k change places."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = next((number for part, number in heads.items() if part in name), None)
    if found is None:
        return values
    rows, cols = values.shape
    return values.reshape(found, 2, rows // found // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def check(folder: Path, output: Path) -> None:
    """Prints the largest difference of logits on a held-out stretch. Raises SystemExit above 1e-3."""
    import torch
    from transformers import AutoModelForCausalLM

    from farthing.models import load_model
    from farthing.report.score import Scorer

    ids = np.fromfile(folder / "held_out.bin", np.uint16)[:512].astype(np.int64)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        theirs = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    loaded = load_model(str(output))
    ours = np.concatenate([logits.copy() for _, logits in Scorer(loaded, len(ids)).logits(ids.tolist())])
    worst = float(np.abs(ours - theirs).max())
    text = (folder / "calibration.txt").read_text()[:20000]
    from transformers import AutoTokenizer

    is_same = loaded.tokenizer.encode(text, add_bos=False) == AutoTokenizer.from_pretrained(folder).encode(text)
    print(f"largest difference of logits {worst:.2e} (of up to {np.abs(theirs).max():.1f}); same tokens: {is_same}")
    if worst > 1e-3 or not is_same:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    write(args.folder, args.output)
    if args.check:
        check(args.folder, args.output)


if __name__ == "__main__":
    main()
