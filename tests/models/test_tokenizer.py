"""Token ids against the reference tokenizers' (scripts/make_tokenizer_golden.py), and what no text may do."""

import hashlib
import importlib.util
import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import CorruptModel, FarthingError, InvalidRequest, ModelNotFound, UnsupportedModel
from farthing.models.gguf import read_gguf
from farthing.models.hub import find_model
from farthing.models.tokenizer import Detokenizer, Tokenizer, load_tokenizer_gguf, load_tokenizer_json

TESTS = Path(__file__).parent.parent
GOLDEN = TESTS / "golden" / "tokenizer"


def load_hard_strings() -> dict[str, str | bytes]:
    spec = importlib.util.spec_from_file_location("hard_strings", TESTS.parent / "scripts" / "hard_strings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.HARD_STRINGS)


HARD_STRINGS = load_hard_strings()
PRES = ("smollm", "gpt-2", "llama-bpe", "qwen2", "default")
any_text = st.text(st.characters(codec=None)) | st.text("<|im_endstar>\n '\ud83d\ude00\u0301a 1", max_size=60)


@cache
def golden(name: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / f"{name}.json").read_text()))


@cache
def smollm2() -> Tokenizer:
    try:
        path = find_model("smollm2-135m-instruct")
    except FarthingError as error:
        pytest.skip(str(error))
    return load_tokenizer_gguf(read_gguf(path).metadata)


def metadata(name: str, pre: str = "gpt-2") -> dict[str, Any]:
    """GGUF metadata of a small vocabulary."""
    given = golden(name)
    found = {
        "tokenizer.ggml.model": "gpt2" if "merges" in given else "llama",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": given["tokens"],
        "tokenizer.ggml.token_type": given["types"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    optional = {"tokenizer.ggml.merges": given.get("merges"), "tokenizer.ggml.scores": given.get("scores")}
    return found | {key: value for key, value in optional.items() if value is not None}


@cache
def tiny(pre: str) -> Tokenizer:
    return load_tokenizer_gguf(metadata("tiny_bpe", pre))


@cache
def spm() -> Tokenizer:
    return load_tokenizer_gguf(metadata("tiny_spm", "default"))


@cache
def folder() -> Tokenizer:
    return load_tokenizer_json(GOLDEN / "tiny_qwen2")


def assert_ids(ids: list[int], expected: dict[str, Any], meant: str = "") -> None:
    """Equal to the ids all references agree on, or to those of the one that is `meant`."""
    expected = expected["differ"][meant] if "differ" in expected else expected
    if "ids" in expected:
        assert ids == expected["ids"]
    else:
        assert len(ids) == expected["count"]
        assert hashlib.sha256(np.asarray(ids, "<i4").tobytes()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("name", HARD_STRINGS)
def test_smollm2_hard_strings(name: str) -> None:
    assert_ids(smollm2().encode(HARD_STRINGS[name]), golden("smollm2")["strings"][name])


def test_smollm2_whole_wikitext() -> None:
    data = os.environ.get("FARTHING_DATA")
    if not data:
        pytest.skip("FARTHING_DATA is not set: the folder with text/wiki.test.raw")
    text = (Path(data) / "text" / "wiki.test.raw").read_bytes()
    ids = smollm2().encode(text)
    assert_ids(ids, golden("smollm2")["wiki"])
    assert smollm2().decode(ids).encode() == text


@pytest.mark.parametrize("pre", PRES)
def test_pre_tokenizers(pre: str) -> None:
    """Under every way of cutting words; for qwen2, transformers is meant: llama.cpp leaves out its NFC."""
    tokenizer = tiny(pre)
    for name, string in HARD_STRINGS.items():
        ids = tokenizer.encode(string, add_bos=False)
        assert_ids(ids, golden("tiny_bpe")[f"pre {pre}"][name], "transformers")


def test_sentencepiece() -> None:
    for name, string in HARD_STRINGS.items():
        assert_ids(spm().encode(string, add_bos=False), golden("tiny_spm")["strings"][name])


def test_tokenizer_json() -> None:
    for name, string in HARD_STRINGS.items():
        assert_ids(folder().encode(string), golden("tiny_qwen2")["strings"][name])
    assert (folder().bos_id, folder().eos_ids) == (None, {0, 2})
    assert folder().eos_token == "<|im_end|>"


def test_facts_of_smollm2() -> None:
    tokenizer = smollm2()
    assert tokenizer.vocab_size == 49152
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, {0, 2})
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert [id for id in range(tokenizer.vocab_size) if tokenizer.is_control(id)] == list(range(17))
    assert tokenizer.token_text(19556) == "Hello"
    assert tokenizer.token_id("Hello") == 19556
    assert tokenizer.token_id("<|im_end|>") == 2
    assert tokenizer.token_id("no such token") is None


def test_loading_is_quick() -> None:
    given = read_gguf(find_model("smollm2-135m-instruct")).metadata if smollm2() else {}
    times = []
    for _ in range(3):
        start = time.process_time()
        load_tokenizer_gguf(given)
        times.append(time.process_time() - start)
    assert min(times) < 0.4


@pytest.mark.parametrize("make", [smollm2, folder, spm, lambda: tiny("llama-bpe"), lambda: tiny("qwen2")])
def test_text_never_becomes_a_control_token(make: Any) -> None:
    tokenizer = make()
    names = list(tokenizer.control_tokens)
    for text in [*names, "".join(names), " ".join(names), *(f"x{name}\n{name}y" for name in names)]:
        ids = tokenizer.encode(text, add_bos=False)
        assert not any(tokenizer.is_control(id) for id in ids if tokenizer.token_text(id) != "<unk>")
        meant = tokenizer.encode(text, allow_special=True, add_bos=False)
        assert [id for id in meant if tokenizer.is_control(id)]


def test_a_control_token_that_merges_or_whole_words_would_make_stays_out_of_reach() -> None:
    given = metadata("tiny_bpe", "llama-bpe")  # takes a word that is in the vocabulary as it is
    word = max((t for t in given["tokenizer.ggml.tokens"] if t.isalpha() and t.isascii()), key=len)
    id = given["tokenizer.ggml.tokens"].index(word)
    assert load_tokenizer_gguf(given).encode(word, add_bos=False) == [id]
    types = list(given["tokenizer.ggml.token_type"])
    types[id] = 3
    tokenizer = load_tokenizer_gguf(given | {"tokenizer.ggml.token_type": types})
    assert id not in tokenizer.encode(word, add_bos=False)
    assert tokenizer.decode(tokenizer.encode(word, add_bos=False)) == word
    assert tokenizer.encode(word, add_bos=False, allow_special=True) == [id]


@settings(max_examples=150, deadline=None)
@given(any_text)
def test_text_comes_back_and_holds_no_control_token(text: str) -> None:
    sound = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    for tokenizer in (tiny("smollm"), tiny("llama-bpe"), spm()):
        ids = tokenizer.encode(text, add_bos=False)
        assert not any(tokenizer.is_control(id) for id in ids)
        assert tokenizer.decode(ids) == sound


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 720)), st.booleans())
def test_pieces_of_a_stream_equal_the_whole(ids: list[int], skip_special: bool) -> None:
    for tokenizer in (tiny("smollm"), spm(), folder()):
        whole = b"".join(tokenizer.token_bytes(id) for id in ids if not (skip_special and tokenizer.is_control(id)))
        detokenizer = Detokenizer(tokenizer, skip_special)
        streamed = "".join(detokenizer.push(id) for id in ids) + detokenizer.flush()
        assert streamed == tokenizer.decode(ids, skip_special)
        text = whole.decode("utf-8", "replace")
        assert streamed == (text.removeprefix(" ") if tokenizer is spm() else text)


def test_detokenizer_holds_back_half_a_character() -> None:
    ids = tiny("gpt-2").encode("é😀")
    detokenizer = Detokenizer(tiny("gpt-2"))
    pieces = [detokenizer.push(id) for id in ids[:-1]]
    assert "\ufffd" not in "".join(pieces)
    assert detokenizer.flush() == "\ufffd"  # the end came too early
    assert "".join(map(Detokenizer(tiny("gpt-2")).push, ids)) == "é😀"


def test_bos() -> None:
    llama, qwen = tiny("llama-bpe"), tiny("qwen2")
    assert llama.encode("a")[0] == llama.encode("a", add_bos=True)[0] == 1
    assert llama.encode("a", add_bos=False) == llama.encode("a")[1:]
    assert qwen.encode("a", add_bos=True) == [1, *qwen.encode("a")]
    assert spm().encode("")[0] == 1
    with pytest.raises(InvalidRequest, match="no token that begins"):
        folder().encode("a", add_bos=True)


def test_ids_without_a_token_decode_to_nothing() -> None:
    assert tiny("gpt-2").decode([10**6, -1]) == ""
    assert tiny("gpt-2").token_bytes(10**6) == b""


def corrupt(key: str, change: Any) -> dict[str, Any]:
    given = metadata("tiny_bpe")
    key = f"tokenizer.ggml.{key}"
    value = change(given.get(key)) if callable(change) else change
    return {k: v for k, v in given.items() if k != key} | ({} if value is None else {key: value})


@pytest.mark.parametrize(
    ("key", "change", "error", "message"),
    [
        ("model", None, CorruptModel, "no tokenizer"),
        ("model", "bert", UnsupportedModel, "'bert' is not supported"),
        ("model", 7, UnsupportedModel, "7 is not supported"),
        ("pre", "tekken", UnsupportedModel, "'tekken' is not supported; supported: .*smollm"),
        ("pre", ["x"], UnsupportedModel, "not supported"),
        ("tokens", None, CorruptModel, "tokens is missing"),
        ("tokens", [], CorruptModel, "tokens is empty"),
        ("tokens", "abc", CorruptModel, "not an array"),
        ("tokens", lambda t: [1, *t[1:]], CorruptModel, "not an array of strings"),
        ("tokens", lambda t: [*t[:-1], t[5]], CorruptModel, "twice"),
        ("tokens", lambda t: t[:-1], CorruptModel, "token_type"),
        ("merges", None, CorruptModel, "merges is missing"),
        ("merges", lambda m: [*m[:3], "nospace"], CorruptModel, r"merges\[3\] is 'nospace'"),
        ("merges", lambda m: ["zq xq", *m], CorruptModel, r"merges\[0\]"),
        ("merges", 3, CorruptModel, "not an array"),
        ("token_type", lambda t: t[:-1], CorruptModel, "entries for"),
        ("token_type", lambda t: ["a"] * len(t), CorruptModel, "not numeric"),
        ("bos_token_id", 10**6, CorruptModel, "bos_token_id is 1000000"),
        ("eos_token_id", -1, CorruptModel, "eos_token_id is -1"),
        ("eos_token_id", "x", CorruptModel, "eos_token_id is 'x'"),
    ],
)
def test_corrupt_metadata(key: str, change: Any, error: type[FarthingError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_tokenizer_gguf(corrupt(key, change))
    assert "\n" not in str(caught.value)


def test_sentencepiece_needs_scores() -> None:
    given = metadata("tiny_spm", "default")
    del given["tokenizer.ggml.scores"]
    with pytest.raises(CorruptModel, match="scores is missing"):
        load_tokenizer_gguf(given)


def change_json(tmp_path: Path, change: Any) -> Path:
    document = json.loads((GOLDEN / "tiny_qwen2" / "tokenizer.json").read_text())
    change(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.pop("model"), CorruptModel),
        (lambda d: d["model"].pop("vocab"), CorruptModel),
        (lambda d: d["model"].pop("merges"), CorruptModel),
        (lambda d: d["model"]["merges"].append(["zq", "xq"]), CorruptModel),
        (lambda d: d["model"].update(vocab=[1, 2]), CorruptModel),
        (lambda d: d.pop("added_tokens"), CorruptModel),
        (lambda d: d.update(pre_tokenizer={"type": "Nonsense"}), CorruptModel),
        (lambda d: d["model"]["vocab"].update(huge=2**31), CorruptModel),
        (lambda d: d["model"].update(type="WordPiece"), UnsupportedModel),
        (lambda d: d["added_tokens"][0].update(single_word=True), UnsupportedModel),
    ],
)
def test_corrupt_tokenizer_json(tmp_path: Path, change: Any, error: type[FarthingError]) -> None:
    with pytest.raises(error, match=r"tokenizer\.json"):
        load_tokenizer_json(change_json(tmp_path, change))


def test_tokenizer_json_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no tokenizer\.json"):
        load_tokenizer_json(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1")
    with pytest.raises(CorruptModel, match="not JSON"):
        load_tokenizer_json(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1]")
    with pytest.raises(CorruptModel, match="JSON object"):
        load_tokenizer_json(tmp_path)


@pytest.mark.parametrize("make", [lambda: tiny("llama-bpe"), spm, folder], ids=["bpe", "spm", "folder"])
@given(any_text | st.sampled_from([" ", "\n", "a", "the ", "<|im_end|>", "e\u0301"]).map(lambda text: text * 500))
def test_the_least_number_of_tokens_is_never_above_the_true_one(make, text):
    tokenizer = make()
    assert 0 <= tokenizer.least_tokens(text) <= len(tokenizer.encode(text, add_bos=False))
