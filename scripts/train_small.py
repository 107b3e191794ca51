"""Trains the small full-precision model of the quantization ladder, from scratch, on two cores.

    apt-get download anarchism dict-gcide dict-wn dict-foldoc ... && dpkg -x each into texts/<package>
    python scripts/train_small.py OUTPUT texts/* gsm8k/train.jsonl --minutes 45

Needs torch, transformers and tokenizers (the extra [golden]). A llama of transformers whose widths are multiples of
256, with a byte-level BPE made from the same text. Stopped at any time, the same command goes on from the last
checkpoint. The clock counts training alone, and the learning rate follows it; --clock cpu counts the processor's time
over the number of threads, for a machine that others use at the same time (set OMP_WAIT_POLICY=passive, so that waiting
is not counted). OUTPUT becomes a folder that load_model and transformers open, with README.md (what it was trained on)
and calibration.txt (held-out text of the same kind, never trained on).
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from small_muon import Muon
from small_text import pieces_of, spaced
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
LENGTH = 512  # tokens of a sequence
MICRO, ACCUMULATED = 8, 2  # sequences at once, times a step
EVERY_S = 150.0  # between checkpoints
NUM_HELD_OUT = 48  # sequences that the loss is measured on


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    if not (args.output / "train.bin").exists():
        prepare(args.output, args.sources, int(args.max_mb * 1e6), args.vocab)
    train(args)


def prepare(output: Path, sources: list[Path], max_bytes: int, vocab: int) -> None:
    """train.bin and held_out.bin (token ids of 16 bits), tokenizer.json, calibration.txt and sources.json."""
    rng = random.Random(1)
    texts: list[str] = []
    counts = {}
    for source in sources:
        pieces = [spaced(piece) for piece in pieces_of(source, max_bytes)]
        counts[source.name] = sum(map(len, pieces))
        print(f"{source.name}: {counts[source.name] / 1e6:.1f} MB", flush=True)
        texts += pieces
    rng.shuffle(texts)
    held, kept = texts[: len(texts) // 40], texts[len(texts) // 40 :]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # cuts as GPT-2 does
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(kept, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(output)
    for name, part in (("held_out", held[::2]), ("train", kept)):
        ids = [id for encoding in tokenizer.encode_batch(part) for id in (0, *encoding.ids)]
        np.asarray(ids, np.uint16).tofile(output / f"{name}.bin")
        print(f"{name}: {len(ids) / 1e6:.2f} M tokens")
    (output / "calibration.txt").write_text("\n".join(held[1::2]))
    (output / "sources.json").write_text(json.dumps(counts, indent=1))


def make_model(args: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=256 // 64,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2 and "embed" not in name:  # what ends in the residual stream begins at 0
                p.zero_() if "o_proj" in name or "down_proj" in name else p.normal_(0, p.shape[1] ** -0.5)
    return model


def train(args: argparse.Namespace) -> None:
    data = {n: np.memmap(args.output / f"{n}.bin", np.uint16).astype(np.int64) for n in ("train", "held_out")}
    model = make_model(args)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or "embed" in n]
    optimizers = (
        Muon(matrices, args.lr),
        torch.optim.AdamW(others, args.lr / 2, betas=(0.9, 0.95), weight_decay=0.0),
    )
    state = {"seconds": 0.0, "step": 0, "best": math.inf}
    last = args.output / "last.pt"
    if last.exists():
        saved = torch.load(last)
        model.load_state_dict(saved["model"])
        for optimizer, held in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        state = saved["state"]
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(data['train']) / 1e6:.1f} M tokens"
    )
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    limit = args.minutes * 60
    now: Callable[[], float] = time.perf_counter
    if args.clock == "cpu":
        now = lambda: time.process_time() / args.threads  # noqa: E731
    since = 0.0
    while state["seconds"] < limit:
        begun = now()
        factor = learning_rate(state["seconds"] / limit)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        loss = step(model, data["train"], state["step"], optimizers)
        state["step"] += 1
        taken = now() - begun
        state["seconds"] += taken
        since += taken
        if state["step"] % 10 == 0:
            print(f"step {state['step']} {state['seconds']:.0f} s loss {loss:.3f} {taken:.2f} s a step", flush=True)
        if since > EVERY_S or state["seconds"] >= limit:
            since = 0.0
            begun = now()
            loss = held_out_loss(model, data["held_out"])
            state["seconds"] += now() - begun
            keep(args, model, optimizers, state, loss)


def learning_rate(part: float) -> float:
    """Of the full rate: up over 2 % of the time, then level, then down to a fiftieth over the last half."""
    return min(1.0, 0.05 + part / 0.02, max(0.02, (1 - part) / 0.5))


def step(model: LlamaForCausalLM, ids: np.ndarray, index: int, optimizers: tuple[torch.optim.Optimizer, ...]) -> float:
    """Sequences come in a shuffled order, another in each epoch: the step's number says which."""
    model.train()
    num = len(ids) // LENGTH - 1
    total = 0.0
    for part in range(ACCUMULATED):
        first = (index * ACCUMULATED + part) * MICRO
        order = np.random.default_rng(first // num).permutation(num)
        offset = int(np.random.default_rng(first // num + 99).integers(LENGTH))
        chosen = [order[(first + i) % num] * LENGTH + offset for i in range(MICRO)]
        batch = torch.from_numpy(np.stack([ids[at : at + LENGTH] for at in chosen]))
        loss = loss_of(model, batch) / ACCUMULATED
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return total


def loss_of(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(batch, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, ids: np.ndarray) -> float:
    model.eval()
    count = min(NUM_HELD_OUT, len(ids) // LENGTH) // MICRO * MICRO
    rows = torch.from_numpy(ids[: count * LENGTH].reshape(-1, MICRO, LENGTH))
    return sum(float(loss_of(model, batch)) for batch in rows) / len(rows)


def keep(args, model, optimizers, state, loss: float) -> None:  # type: ignore[no-untyped-def]
    print(
        f"held out: loss {loss:.4f}, perplexity {math.exp(loss):.2f} after {state['seconds'] / 60:.1f} min", flush=True
    )
    if loss < state["best"]:
        state["best"] = loss
        model.save_pretrained(args.output)
        sources = json.loads((args.output / "sources.json").read_text())
        named = "".join(f"- {name}: {count / 1e6:.1f} MB\n" for name, count in sources.items())
        tokens = state["step"] * MICRO * ACCUMULATED * LENGTH
        (args.output / "README.md").write_text(
            f"A llama of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in float32, made by "
            f"farthing's scripts/train_small.py in {state['seconds'] / 60:.0f} minutes: {tokens / 1e6:.1f} M tokens; "
            f"held-out loss {loss:.3f}.\n\nTrained on (set as WikiText is set; none of it is WikiText):\n{named}"
        )
    held = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "state": state}
    part = args.output / "last.pt.part"
    torch.save(held, part)
    part.replace(args.output / "last.pt")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("sources", type=Path, nargs="+", help="files and folders of text")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--max-mb", type=float, default=12.0, help="of one source, at most")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--intermediate", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
