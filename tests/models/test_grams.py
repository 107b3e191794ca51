"""Words, pairs and parts of words in buckets."""

import numpy as np

from farthing.models.grams import KINDS, MAX_CHARS, NUM_BUCKETS, bucket, grams, sparse, words


def test_words_are_lower_case_and_signs_and_numbers_count() -> None:
    assert words("The answer: 3x + 12 = ____?") == ["the", "answer", ":", "3", "x", "+", "12", "=", "____", "?"]


def test_buckets_do_not_depend_on_the_process() -> None:
    assert bucket("farthing") == 18000  # CRC-32 modulo 2^15, as files of routers rely on


def test_a_repeated_word_counts_once() -> None:
    once, twice = grams("red blue"), grams("red blue red blue")
    assert once["words"].tolist() == twice["words"].tolist()
    assert len(twice["pairs"]) == 2


def test_the_two_ends_of_a_long_text_are_read() -> None:
    long = "begin " + "x " * MAX_CHARS + "finish"
    assert {"begin", "finish"} < set(words(long))
    assert len(words(long)) < MAX_CHARS


def test_an_empty_text_has_no_buckets_and_costs_no_error() -> None:
    table = sparse([grams(""), grams("one"), grams("")], "words")
    assert np.diff(table.offsets).tolist() == [0, 1, 0]
    assert table.sums(np.ones(NUM_BUCKETS)).tolist() == [0, 1, 0]
    assert table.take(np.array([1])).indices.tolist() == [bucket("one")]


def test_sums_are_those_of_a_dense_product() -> None:
    texts = [grams(text) for text in ("a red rose", "the judge", "a red judge of roses")]
    weights = np.random.default_rng(0).standard_normal((NUM_BUCKETS, 3))
    for kind in KINDS:
        table = sparse(texts, kind)
        expected = [weights[text[kind]].sum(axis=0) for text in texts]
        np.testing.assert_allclose(table.sums(weights), expected, atol=1e-12)
        assert table.counts().sum() == len(table.indices)
