"""A scorer learns which topics need the large model, says why, and refuses what it cannot use."""

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.encode import encode_answers, encode_prompts
from farthing.router.metrics import apgr
from farthing.router.scorers import AFTER_ANSWER, BEFORE_CALL, MAX_ROWS, learn
from farthing.router.topics import learn_topics
from tests.router.rows import labelled

TRAIN, TEST = labelled(400, seed=1), labelled(400, seed=2)


@pytest.fixture(scope="module")
def learned():
    return learn(encode_prompts(TRAIN.prompts), TRAIN.quality, BEFORE_CALL)


def test_prompts_of_the_topic_with_the_gap_come_first(learned) -> None:
    quality = learned.scorer.quality(encode_prompts(TEST.prompts))
    gap = quality[:, 1] - quality[:, 0]
    is_court = np.array(["judge" in p or "statute" in p or "plea" in p or "tort" in p for p in TEST.prompts])
    assert gap[is_court].min() > np.median(gap[~is_court])
    assert apgr(gap, TEST.pair) > 0.68


def test_scores_of_left_out_rows_are_as_good_as_those_of_new_ones(learned) -> None:
    gap = learned.left_out[:, 1] - learned.left_out[:, 0]
    assert 0.68 < apgr(gap, TRAIN.pair) < 1.0


def test_parts_add_up_to_the_quality(learned) -> None:
    encoded = encode_prompts(TEST.prompts[:5])
    total = learned.scorer.means + sum(learned.scorer.parts(encoded).values())
    np.testing.assert_allclose(total, learned.scorer.quality(encoded), atol=1e-12)


def test_learning_the_gap_is_learning_both_qualities(learned) -> None:
    encoded = encode_prompts(TRAIN.prompts)
    gap = learn(encoded, TRAIN.quality[:, 1:] - TRAIN.quality[:, :1], BEFORE_CALL)
    assert gap.scorer.penalty == learned.scorer.penalty
    np.testing.assert_allclose(gap.left_out[:, 0], learned.left_out[:, 1] - learned.left_out[:, 0], atol=1e-9)


def test_one_prompt_has_the_score_it_has_among_many(learned) -> None:
    encoded = encode_prompts(TEST.prompts[:50])
    alone = [learned.scorer.quality(encode_prompts([prompt]))[0] for prompt in TEST.prompts[:50]]
    np.testing.assert_allclose(alone, learned.scorer.quality(encoded), atol=1e-9)


def test_an_answer_with_wrong_arithmetic_is_found_out() -> None:
    assert TRAIN.answers
    assert TEST.answers
    found = learn(encode_answers(TRAIN.prompts, TRAIN.answers), TRAIN.quality[:, :1], AFTER_ANSWER)
    p_right = found.scorer.quality(encode_answers(TEST.prompts, TEST.answers))[:, 0]
    right = TEST.quality[:, 0] == 1
    assert p_right[right].mean() - p_right[~right].mean() > 0.5


def test_hidden_states_are_a_block_of_their_own() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((300, 4))
    gap = (hidden[:, 0] > 0).astype(float)
    prompts = [f"prompt {i % 7}" for i in range(300)]  # nothing to be learned from these
    quality = np.stack([1 - gap, np.ones(300)], axis=1)
    scorer = learn(encode_prompts(prompts, hidden), quality, BEFORE_CALL).scorer
    new = rng.standard_normal((200, 4))
    found = scorer.quality(encode_prompts(prompts[:200], new))
    assert np.corrcoef(found[:, 1] - found[:, 0], new[:, 0] > 0)[0, 1] > 0.6
    with pytest.raises(InvalidRequest, match="trained with hidden"):
        scorer.quality(encode_prompts(["prompt 1"]))


def test_what_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="19 labelled rows; at least 20"):
        learn(encode_prompts(TRAIN.prompts[:19]), TRAIN.quality[:19], BEFORE_CALL)
    with pytest.raises(InvalidRequest, match="labels of shape"):
        learn(encode_prompts(TRAIN.prompts[:30]), TRAIN.quality[:29], BEFORE_CALL)
    with pytest.raises(InvalidRequest, match="hidden states of shape"):
        encode_prompts(["a", "b"], np.ones((3, 2)))
    with pytest.raises(InvalidRequest, match="2 answers to 1 prompts"):
        encode_answers(["a"], ["b", "c"])


def test_of_very_many_rows_a_random_part_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ROWS >= 1_500
    monkeypatch.setattr("farthing.router.scorers.MAX_ROWS", 100)
    found = learn(encode_prompts(TRAIN.prompts), TRAIN.quality, BEFORE_CALL)
    assert len(found.rows) == len(found.left_out) == 100
    assert len(set(found.rows.tolist())) == 100


def test_topics_are_found_without_labels() -> None:
    texts = encode_prompts(TRAIN.prompts).texts["words"]
    topics = learn_topics(texts, np.random.default_rng(0), num_topics=3)
    shares = topics.shares(encode_prompts(TEST.prompts).texts["words"])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-9)
    found = shares.argmax(axis=1)
    is_court = np.array([("judge" in p) or ("tort" in p) or ("statute" in p) for p in TEST.prompts])
    of_court = np.bincount(found[is_court], minlength=3)
    assert of_court.max() / of_court.sum() > 0.9
