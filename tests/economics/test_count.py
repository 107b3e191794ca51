"""Counting: exact and offline where the ranks are ours, an estimate that says so elsewhere, never a guess at a name."""

import gzip
import hashlib
import socket
from pathlib import Path

import pytest
import tiktoken_ext.openai_public as openai_public
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.economics import count as count_module
from farthing.economics.count import ENCODINGS, count_for_model, count_tokens, tokens_of
from farthing.errors import InvalidRequest, UnknownModel
from scripts.vendor_ranks import SHA256


@pytest.mark.parametrize(
    ("encoding", "ids"), [("o200k_base", [373, 9880, 45794]), ("cl100k_base", [359, 32898, 24694])]
)
def test_known_ids(encoding: str, ids: list[int]) -> None:
    assert [id for id, _ in tokens_of("unbelievable", encoding)] == ids
    assert [piece for _, piece in tokens_of("unbelievable", encoding)] == (
        [b"un", b"bel", b"ievable"] if encoding == "o200k_base" else [b"un", b"belie", b"vable"]
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ranks_and_pattern_are_tiktokens_own(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Path(count_module.__file__).parent / "data" / f"{encoding}.tiktoken.gz"
    found = hashlib.sha256(gzip.decompress(packed.read_bytes())).hexdigest()
    asked: list[str] = []
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda _, expected_hash: asked.append(expected_hash) or {})
    assert getattr(openai_public, encoding)()["pat_str"] == ENCODINGS[encoding]
    assert asked == [found] == [SHA256[encoding]]


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("counting opened a socket")

    count_module._encoding.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert count_for_model("unbelievable", "gpt-4o").tokens == 3


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text(text: str) -> None:
    for encoding in ENCODINGS:
        pieces = tokens_of(text, encoding)
        assert b"".join(piece for _, piece in pieces).decode() == text
        assert len(pieces) == count_tokens(text, encoding)


def test_special_tokens_are_text() -> None:
    assert count_tokens("<|endoftext|>", "o200k_base") == 7
    assert all(id < 199_998 for id, _ in tokens_of("<|endoftext|><|endofprompt|>", "o200k_base"))


def test_lone_surrogates_count_as_the_replacement_character() -> None:
    assert tokens_of("a\ud800b", "o200k_base") == tokens_of("a�b", "o200k_base")
    assert tokens_of("\ud83d\ude00", "o200k_base") == tokens_of("😀", "o200k_base")


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("GPT-4o-mini", "o200k_base"),
        ("gpt-4.1-nano-2025-04-14", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-5-nano", "o200k_base"),
        ("gpt-5.2-pro", "o200k_base"),
        ("gpt-5.6-luna", "o200k_base"),
        ("gpt-oss-20b", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("cl100k_base", "cl100k_base"),
    ],
)
def test_openai_models_are_exact(model: str, encoding: str) -> None:
    found = count_for_model("Take care of the pence", model)
    assert (found.method, found.encoding) == ("exact", encoding)
    assert found.low == found.tokens == found.high == count_tokens("Take care of the pence", encoding)
    assert found.characters == 22


@pytest.mark.parametrize(
    ("model", "factor", "band"),
    [
        ("claude-3-5-sonnet", 1.18, 0.2),
        ("claude-sonnet-4-20250514", 1.18, 0.2),
        ("claude-sonnet-4-5", 1.18, 0.2),
        ("claude-opus-4-6", 1.18, 0.2),
        ("claude-opus-4-7", 1.53, 0.2),
        ("claude-opus-5", 1.53, 0.2),
        ("claude-sonnet-5-5", 1.53, 0.2),
        ("gemini-3.1-pro-preview", 1.08, 0.25),
        ("gpt-6-luna", 1.0, 0.2),
        ("mistral-large-latest", 1.08, 0.3),
    ],
)
def test_private_tokenizers_are_estimates_with_a_band(model: str, factor: float, band: float) -> None:
    text = "Take care of the pence and the pounds will take care of themselves. " * 20
    base = count_tokens(text, "o200k_base")
    found = count_for_model(text, model)
    assert found.method == "estimate"
    assert found.tokens == round(base * factor)
    assert found.low == int(base * factor * (1 - band))
    assert base * factor * (1 + band) <= found.high < base * factor * (1 + band) + 1
    assert f"+-{band:.0%}" in found.basis


@pytest.mark.parametrize(("typo", "meant"), [("gpt-4o-mnii", "gpt-4o-mini"), ("claude-opus-4-77", "claude-opus-4-7")])
def test_a_typo_names_the_nearest_models(typo: str, meant: str) -> None:
    with pytest.raises(UnknownModel, match=f"{typo}.*nearest.*{meant}"):
        count_for_model("x", typo)


def test_encodings_that_are_not_shipped_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="p50k_base, which is not shipped"):
        count_for_model("x", "text-davinci-003")
    with pytest.raises(InvalidRequest, match="o200k_base, cl100k_base"):
        count_tokens("x", "gpt2")


def test_the_empty_text() -> None:
    found = count_for_model("", "claude-opus-5-5")
    assert (found.tokens, found.low, found.high, found.characters, found.characters_per_token) == (0, 0, 0, 0, 0.0)
