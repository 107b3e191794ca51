"""Makes tests/golden/tokenizer: token ids that the reference tokenizers give, and chats that transformers renders.

    python scripts/make_tokenizer_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf \\
        --llama-tokenize /path/to/llama-tokenize --wiki wiki.test.raw          (needs the extra [golden])

References: llama.cpp's llama-tokenize; transformers, given the model's true way of cutting words (what transformers
itself makes of this GGUF leaves out that digits stand alone, and so cuts a space before a digit in another way);
SentencePiece. Where two of them differ on a string, the ids of both are stored and the test says which one is meant.

Other families are tested on small vocabularies trained here, since their own are megabytes: one byte-level vocabulary
under each pre-tokenizer, one SentencePiece model.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
from hard_strings import HARD_STRINGS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "tokenizer"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def text_of(string: str | bytes) -> str:
    """What a reference that takes only sound text is given."""
    if isinstance(string, bytes):
        return string.decode("utf-8", "replace")
    return string.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def pack(ids: list[int]) -> dict[str, Any]:
    """Short lists as they are, long ones as a count and the SHA-256 of little-endian int32."""
    digest = hashlib.sha256(np.asarray(ids, "<i4").tobytes()).hexdigest()
    return {"ids": ids} if len(ids) <= 200 else {"count": len(ids), "sha256": digest}


def llama_cpp(binary: Path, model: Path, text: str, parse_special: bool = False) -> list[int]:
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(text.encode())
        file.flush()
        command = [str(binary), "-m", str(model), "-f", file.name, "--ids", "--no-bos", "--no-escape", "--log-disable"]
        out = subprocess.run(
            command if parse_special else [*command, "--no-parse-special"], check=True, capture_output=True
        )
    return [int(id) for id in json.loads(out.stdout.splitlines()[-1])] if text else []


def compare(name: str, references: dict[str, list[int]]) -> dict[str, Any]:
    """The ids all references agree on, or every reference's own."""
    first = next(iter(references.values()))
    if all(ids == first for ids in references.values()):
        return pack(first)
    print(f"  {name}: {' and '.join(references)} differ")
    return {"differ": {who: pack(ids) for who, ids in references.items()}}


def plain(tokenizer: Any, text: str) -> list[int]:
    """Ids of text whose control tokens are not meant."""
    backend = tokenizer.backend_tokenizer if hasattr(tokenizer, "backend_tokenizer") else tokenizer
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids


def smollm2(arguments: argparse.Namespace) -> None:
    model = arguments.model
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    as_read = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    strings = {}
    for name, string in HARD_STRINGS.items():
        text = text_of(string)
        ids = {"llama.cpp": llama_cpp(arguments.llama_tokenize, model, text), "transformers": plain(tokenizer, text)}
        strings[name] = compare(name, ids)
        if plain(as_read, text) != ids["transformers"]:
            print(f"  {name}: transformers' own reading of the GGUF differs")
    wiki = arguments.wiki.read_bytes().decode()
    ids = {"llama.cpp": llama_cpp(arguments.llama_tokenize, model, wiki), "transformers": plain(tokenizer, wiki)}
    document = {"wiki": compare("wiki.test.raw", ids), "strings": strings, "chats": smollm2_chats(model)}
    write("smollm2", document)


def smollm2_chats(model: Path) -> list[dict[str, Any]]:
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    user, answer = {"role": "user", "content": "Was ist 12 + 30?  "}, {"role": "assistant", "content": "42\n\n(ok) 😀"}
    system = {"role": "system", "content": " You are terse.\n"}
    chats = [[user], [system, user], [user, answer, user], [system, user, answer, user, answer, user]]
    chats += [[answer], [system], [{"role": "user", "content": ""}]]
    rows = []
    for messages in chats:
        for generation in (True, False):
            given = {"add_generation_prompt": generation, "tokenize": False}
            rendered = tokenizer.apply_chat_template(messages, **given)
            ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            rows.append({"messages": messages, "add_generation_prompt": generation, "rendered": rendered, "ids": ids})
    return rows


def tiny(arguments: argparse.Namespace) -> None:
    """One small byte-level vocabulary under each pre-tokenizer: llama.cpp from a GGUF, `tokenizers` from its parts."""
    corpus = [text_of(string)[:2000] for string in HARD_STRINGS.values()] + [__doc__ or ""]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    limits = {"vocab_size": 700, "max_token_length": 12}
    trainer = trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, **limits)
    trained.train_from_iterator(corpus, trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(merge) for merge in model["merges"]]
    document: dict[str, Any] = {"tokens": tokens, "merges": merges, "types": [3] * 3 + [1] * (len(tokens) - 3)}
    gpt2 = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ways = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True), *gpt2],
        "gpt-2": gpt2,
        "llama-bpe": words(LLAMA3),
        "qwen2": words(QWEN2),
        "default": None,  # llama.cpp's own
    }
    with tempfile.TemporaryDirectory() as folder:
        for pre, steps in ways.items():
            path = Path(folder) / f"{pre}.gguf"
            write_gguf(path, "gpt2", pre, document)
            other = reference_json(model, pre, steps) if steps else None
            rows = {}
            for name, string in HARD_STRINGS.items():
                text = text_of(string)
                ids = {"llama.cpp": llama_cpp(arguments.llama_tokenize, path, text)}
                if other is not None:
                    ids["transformers"] = plain(other, text)
                rows[name] = compare(f"{pre}: {name}", ids)
            document[f"pre {pre}"] = rows
    write("tiny_bpe", document)
    hugging_face_folder(reference_json(model, "qwen2", ways["qwen2"]))


def hugging_face_folder(tokenizer: Tokenizer) -> None:
    """tiny_qwen2: a folder as transformers reads it, its ids and its chats. The template and the configuration beside
    tokenizer.json are written by hand."""
    tokenizer.add_special_tokens([AddedToken("<|tool|>", special=True, normalized=False, lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    folder = GOLDEN / "tiny_qwen2"
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    reader = AutoTokenizer.from_pretrained(folder)
    document = {"chats": [], "strings": {name: pack(plain(reader, text_of(s))) for name, s in HARD_STRINGS.items()}}
    reader.backend_tokenizer.encode_special_tokens = False
    for chat in json.loads((folder / "chats.json").read_text()):
        rendered = reader.apply_chat_template(chat["messages"], tokenize=False, **chat["options"])
        ids = reader(rendered, add_special_tokens=False)["input_ids"]
        document["chats"].append(chat | {"rendered": rendered, "ids": ids})
    write("tiny_qwen2", document)


def words(pattern: str) -> list[Any]:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def reference_json(model: dict[str, Any], pre: str, steps: list[Any]) -> Tokenizer:
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=model["vocab"], merges=merges, ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if pre == "llama-bpe":
        bos = ("<|im_start|>", 1)
        tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[bos])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer).backend_tokenizer


def write_gguf(path: Path, kind: str, pre: str, document: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(document["tokens"])
    writer.add_token_types(document["types"])
    if "merges" in document:
        writer.add_token_merges(document["merges"])
    if "scores" in document:
        writer.add_token_scores(document["scores"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def spm(arguments: argparse.Namespace) -> None:
    """A SentencePiece BPE model: itself as the reference (as Llama 2 sets it up), and llama.cpp."""
    corpus = [line for string in HARD_STRINGS.values() for line in text_of(string)[:1000].replace("\0", "").split("\n")]
    with tempfile.TemporaryDirectory() as folder:
        options = {"vocab_size": 700, "model_type": "bpe", "byte_fallback": True, "character_coverage": 0.98}
        options |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=f"{folder}/m", minloglevel=2, **options
        )
        reference = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
        size = reference.vocab_size()
        kinds = [2 if reference.is_unknown(i) else 3 if reference.is_control(i) else 6 if reference.is_byte(i) else 1
                 for i in range(size)]  # fmt: skip
        tokens = [reference.id_to_piece(i) for i in range(size)]
        scores = [reference.get_score(i) for i in range(size)]
        document: dict[str, Any] = {"tokens": tokens, "types": kinds, "scores": scores}
        path = Path(folder) / "m.gguf"
        write_gguf(path, "llama", "default", document)
        rows = {}
        for name, string in HARD_STRINGS.items():
            text = text_of(string)
            ids = {"sentencepiece": reference.encode(text)}
            ids["llama.cpp"] = llama_cpp(arguments.llama_tokenize, path, text)
            rows[name] = compare(f"spm: {name}", ids)
    write("tiny_spm", document | {"strings": rows})


def write(name: str, document: dict[str, Any]) -> None:
    (GOLDEN / f"{name}.json").write_text(json.dumps(document, ensure_ascii=True, separators=(",", ":")) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--llama-tokenize", type=Path, required=True)
    parser.add_argument("--wiki", type=Path, required=True)
    arguments = parser.parse_args()
    (GOLDEN / "tiny_qwen2").mkdir(parents=True, exist_ok=True)
    for part in (smollm2, tiny, spm):
        print(part.__name__)
        part(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
