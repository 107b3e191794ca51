"""The draft model: guesses what it would say itself, from pages of its own, in the large model's ids."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from farthing import kernels
from farthing.engine import Engine, EngineConfig
from farthing.engine.draft_ids import DraftIds
from farthing.engine.speculative import Asked
from farthing.errors import InvalidRequest
from farthing.kernels.plan import KVSpec
from farthing.models import load_model
from farthing.models.tokenizer import load_tokenizer_json
from farthing.request import SamplingParams
from tests.engine.fake import EOS, VOCAB_SIZE, greedy, make_draft_model, naive
from tests.models.small import GOLDEN


def ids(*token_ids: int) -> np.ndarray:
    return np.array(token_ids, np.int32)


def expected(token_ids: np.ndarray, num: int) -> list[int]:
    """What the model says next, the end of an answer left out with all after it."""
    return naive(token_ids.tolist(), SamplingParams(temperature=0, max_tokens=num))


def test_it_guesses_what_it_would_say():
    draft = make_draft_model()
    prompts = [ids(1, 2, 3), ids(*range(20)), ids(7)]
    found = draft.propose([Asked(i, prompt, 5 + i) for i, prompt in enumerate(prompts)])
    assert [list(drafts) for drafts in found] == [expected(prompt, 5 + i) for i, prompt in enumerate(prompts)]
    assert EOS not in np.concatenate(found)


def test_what_was_refused_is_forgotten():
    """Whatever part of a guess was right, and whatever came instead, the next guess is the one of a fresh model."""
    random = np.random.default_rng(0)
    draft = make_draft_model()
    tokens = random.integers(0, VOCAB_SIZE - 1, 11).astype(np.int32)
    for _ in range(40):
        [drafts] = draft.propose([Asked(3, tokens, int(random.integers(1, 9)))])
        assert list(drafts) == expected(tokens, len(drafts))
        num_right = int(random.integers(0, len(drafts) + 1))
        others = random.integers(0, VOCAB_SIZE - 1, int(random.integers(1, 5)))
        tokens = np.concatenate([tokens, drafts[:num_right], others]).astype(np.int32)


def test_an_interrupted_guess_can_be_made_again(monkeypatch: pytest.MonkeyPatch):
    draft = make_draft_model()
    run, tokens = draft._run_program, ids(*range(12))
    for place in range(4):

        def interrupted(program, batch, left=[place]):  # noqa: B006
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return run(program, batch)

        monkeypatch.setattr(draft, "_run_program", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draft.propose([Asked(0, tokens, 5)])
        monkeypatch.setattr(draft, "_run_program", run)
        assert list(draft.propose([Asked(0, tokens, 5)])[0]) == expected(tokens, 5)
        tokens = np.append(tokens, np.int32(place + 20))


def test_long_prompts_are_computed_in_parts():
    draft = make_draft_model(most_tokens=8)
    prompt = ids(*range(30))
    parts = [draft.propose([Asked(0, prompt, 3)])[0] for _ in range(4)]
    assert [len(part) for part in parts[:3]] == [0, 0, 0]
    assert list(parts[3]) == expected(prompt, 3)


def test_without_pages_there_are_no_guesses_and_ends_give_them_back():
    draft = make_draft_model(num_pages=4)
    first, second = ids(*range(20)), ids(*range(9))
    assert len(draft.propose([Asked(0, first, 4)])[0])
    assert not len(draft.propose([Asked(1, second, 4)])[0])
    draft.forget(0)
    draft.forget(0)
    assert len(draft.propose([Asked(1, second, 4)])[0])
    draft.forget(1)
    assert sorted(draft._free) == [0, 1, 2, 3]


def test_at_the_end_of_its_context_it_stops():
    draft = make_draft_model(max_len=20)
    assert len(draft.propose([Asked(0, ids(*range(18)), 9)])[0]) <= 2
    assert not len(draft.propose([Asked(0, ids(*range(20)), 9)])[0])


def test_runs_shared_by_more_cost_each_less():
    draft = make_draft_model()
    assert draft.cost(1) == pytest.approx(0.1)
    assert draft.cost(4) < draft.cost(1)


def trimmed(tmp_path: Path, keep: int) -> Path:
    """The golden tokenizer without its last tokens."""
    folder = Path(shutil.copytree(GOLDEN / "llama", tmp_path / "trimmed"))
    document = json.loads((folder / "tokenizer.json").read_text())
    model = document["model"]
    vocab = {text: id for text, id in model["vocab"].items() if id < keep}
    model["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in vocab]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


def test_a_part_of_the_vocabulary(tmp_path: Path):
    """A token that is missing is read as its last piece; none is guessed that the model has not, nor an end."""
    large, small = load_tokenizer_json(GOLDEN / "llama"), load_tokenizer_json(trimmed(tmp_path, 280))
    found = DraftIds.of(large, small, 300, 280, "draft")
    assert found.to_draft[:280].tolist() == list(range(280))
    for id in range(280, 300):
        assert large.token_bytes(id).endswith(small.token_bytes(int(found.to_draft[id])))
    assert {int(found.to_model[id]) for id in large.eos_ids} == {-1}
    assert [id for id in found.to_model.tolist() if id >= 0] == [id for id in range(280) if id not in large.eos_ids]


def test_ids_beyond_the_embedding_are_missing():
    """A tokenizer with more ids than its model has rows: what the model cannot read is never given to it."""
    tokenizer = load_tokenizer_json(GOLDEN / "llama")
    found = DraftIds.of(tokenizer, tokenizer, 300, 280, "draft")
    assert found.to_draft.max() < 280
    assert found.to_draft[:280].tolist() == list(range(280))
    assert found.to_model.max() == 279


def test_without_kv_cache_a_draft_model_is_refused():
    with pytest.raises(InvalidRequest, match="off or prompt-lookup where is_kv_cached is off"):
        EngineConfig(speculation="draft:missing", is_kv_cached=False)


def test_it_has_the_threads_of_the_model():
    model = load_model(GOLDEN / "llama")
    kv = KVSpec(2, 2, 16, 6, 16)
    program = kernels.load(model.plan(), kv, num_threads=2)
    with pytest.raises(ValueError, match="num_threads must be those of the program beside"):
        kernels.load(model.plan(), kv, num_threads=1, beside=program)


def test_another_vocabulary_is_refused(tmp_path: Path):
    document = json.loads((GOLDEN / "llama" / "tokenizer.json").read_text())
    document["model"]["vocab"] = {f"x{text}" if id > 2 else text: id for text, id in document["model"]["vocab"].items()}
    document["model"]["merges"] = []
    folder = Path(shutil.copytree(GOLDEN / "llama", tmp_path / "other"))
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(InvalidRequest, match="has another vocabulary"):
        Engine(load_model(GOLDEN / "llama"), EngineConfig(speculation=f"draft:{folder}", num_pages=8))


def test_its_pages_come_out_of_the_same_bytes():
    model = load_model(GOLDEN / "llama")
    plain = Engine(model, EngineConfig(kv_bytes=200_000))
    drafting = Engine(model, EngineConfig(kv_bytes=200_000, speculation=f"draft:{GOLDEN / 'llama'}"))
    draft = drafting._joint_drafter
    assert draft is not None
    assert drafting.program.kv_bytes + draft.program.kv_bytes <= 200_000
    assert draft.kv.num_pages == drafting.cache.num_pages < plain.cache.num_pages


@pytest.mark.parametrize("wrong", ["draft:", "draft", "lookup"])
def test_speculation_of_no_kind(wrong: str):
    with pytest.raises(InvalidRequest, match="off, prompt-lookup, or draft:MODEL"):
        EngineConfig(speculation=wrong)


def test_a_model_that_drafts_for_itself(monkeypatch: pytest.MonkeyPatch):
    """Its own file as draft, as if it cost nothing: nearly all of what it guesses is right, and few steps are taken."""
    monkeypatch.setattr("farthing.engine.draft_model.DraftModel.cost", lambda *_: 0.0)
    model = load_model(GOLDEN / "llama")
    requests = [greedy(*range(50, 59), max_tokens=60, ignore_eos=True)]
    plain = Engine(model, EngineConfig(num_pages=64, product="f32"))
    drafting = Engine(model, EngineConfig(num_pages=64, product="f32", speculation=f"draft:{GOLDEN / 'llama'}"))
    assert [d.token_ids for d in drafting.generate(requests)] == [d.token_ids for d in plain.generate(requests)]
    stats = drafting.stats()
    assert stats.num_accepted_tokens > 0.8 * stats.num_draft_tokens > 0
    assert 0 < stats.draft_s < stats.busy_s
    assert stats.num_steps < plain.stats().num_steps / 2
