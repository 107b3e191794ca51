"""A trimmed tokenizer cuts the task's texts as the whole one does, and can still spell everything else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from farthing.errors import InvalidRequest
from farthing.models.vocabulary_trim import task_token_ids, trim_tokenizer
from tests.distill.tiny import SPECIALS, TEXTS, tokenizer_json

WHOLE = tokenizer_json(size=420)
BACKEND = Tokenizer.from_str(json.dumps(WHOLE))
WORDS = sorted({word for text in TEXTS for word in text.split()})
ANY_TEXT = st.one_of(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), st.text(max_size=20))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer.encode(text).tokens)


def trimmed_to(texts: list[str], document: Any = WHOLE, size: int | None = None) -> tuple[tuple[int, ...], Tokenizer]:
    whole = Tokenizer.from_str(json.dumps(document))
    kept = task_token_ids(document, {id for text in texts for id in whole.encode(text).ids}, size)
    return kept, Tokenizer.from_str(json.dumps(trim_tokenizer(document, kept)))


@settings(max_examples=25, deadline=None)
@given(st.lists(ANY_TEXT, max_size=4), st.text(max_size=20))
def test_task_texts_are_cut_as_before_and_others_lose_no_letter(texts: list[str], other: str) -> None:
    kept, small = trimmed_to(texts)
    for text in texts:
        assert pieces(small, text) == pieces(BACKEND, text)
        assert [kept[id] for id in small.encode(text).ids] == BACKEND.encode(text).ids
    assert small.decode(small.encode(other).ids) == BACKEND.decode(BACKEND.encode(other).ids)
    assert len(kept) == small.get_vocab_size()


def test_the_vocabulary_is_the_bytes_and_the_tasks_tokens() -> None:
    kept, small = trimmed_to([TEXTS[0]])
    assert small.get_vocab_size() < 340 < BACKEND.get_vocab_size()
    assert [small.token_to_id(special) for special in SPECIALS] == [0, 1, 2]
    assert small.encode("where").ids[-1] == 2  # the post-processor's own ids are renumbered too
    assert list(kept) == sorted(kept)


def test_a_wished_size_is_filled_with_the_most_frequent() -> None:
    least = len(trimmed_to([TEXTS[0]])[0])
    kept, small = trimmed_to([TEXTS[0]], size=least + 20)
    assert len(kept) == least + 20 == small.get_vocab_size()
    assert pieces(small, TEXTS[0]) == pieces(BACKEND, TEXTS[0])
    with pytest.raises(InvalidRequest, match=f"the task needs {least} tokens"):
        trimmed_to([TEXTS[0]], size=least - 1)


def test_merges_written_as_pairs_or_as_one_text_are_the_same() -> None:
    merges = WHOLE["model"]["merges"]
    assert isinstance(merges[0], list)
    as_text = {**WHOLE, "model": {**WHOLE["model"], "merges": [" ".join(pair) for pair in merges]}}
    assert trimmed_to([*TEXTS[:2]], as_text)[0] == trimmed_to([*TEXTS[:2]])[0]


def test_unigram_keeps_the_best_cut() -> None:
    vocab = [["<unk>", 0.0], ["a", -3.0], ["b", -3.0], ["ab", -4.0], ["abab", -5.0], ["ba", -4.5], ["中", -9.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    document = {**WHOLE, "added_tokens": [], "post_processor": None, "pre_tokenizer": None, "model": model}
    document["decoder"] = None
    whole = Tokenizer.from_str(json.dumps(document))
    kept, small = trimmed_to(["ababab", "ba"], document)
    assert pieces(small, "ababab") == pieces(whole, "ababab")
    assert 6 not in kept
    assert small.encode("中").ids == [0]


def test_an_id_that_the_tokenizer_has_not_is_told() -> None:
    with pytest.raises(InvalidRequest, match="token id 99999"):
        task_token_ids(WHOLE, [99_999])
