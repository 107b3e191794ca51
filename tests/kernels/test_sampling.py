"""Token choice: exact sets of survivors, the right frequencies, and native code equal to the reference."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels import Program, Sampled
from farthing.kernels.plan import Embed, Head, KVSpec, Plan, QTensor, View

F32 = npt.NDArray[np.float32]
EVERY = (*kernels.instruction_sets(), "reference")
DEFAULTS = {
    "temperature": (np.float32, 1.0),
    "top_k": (np.int32, 0),
    "top_p": (np.float32, 1.0),
    "min_p": (np.float32, 0.0),
    "penalty": (np.float32, 1.0),
    "seed": (np.uint64, 0),
    "step": (np.uint64, 0),
    "wants_logprob": (np.uint8, 0),
}


@pytest.fixture(scope="module", params=EVERY)
def program(request: pytest.FixtureRequest) -> Program:
    return a_program(request.param)


def a_program(isa: str) -> Program:
    """Any program: sampling needs its threads only."""
    x, eye = View("x", 0, 8), QTensor("f32", 8, 8, np.eye(8, dtype=np.float32).reshape(-1).view(np.uint8))
    return kernels.load(Plan({"x": 8}, (Embed(x, "eye"), Head(x, "eye")), 8, {"eye": eye}), KVSpec(1, 1, 8, 1), isa=isa)


def sample(
    program: Program, logits: F32, *, history: list[list[int]] | None = None, num_top: int = 0, **given: Any
) -> Sampled:
    """One row of parameters per row of logits; a single number goes for all."""
    n = len(logits)
    history = history or [[]] * n
    arrays = {name: np.broadcast_to(given.get(name, value), n).astype(kind) for name, (kind, value) in DEFAULTS.items()}
    return kernels.sample(
        program,
        np.ascontiguousarray(logits, np.float32),
        history=np.array([i for row in history for i in row], np.int32),
        history_starts=np.cumsum([0, *map(len, history)]).astype(np.int64),
        num_top=num_top,
        **arrays,
    )


def draws(program: Program, row: F32, n: int = 4000, **given: Any) -> npt.NDArray[np.int64]:
    """How often each token comes in n steps."""
    tokens = sample(program, np.tile(row, (n, 1)), step=np.arange(n), **given).token
    return np.bincount(tokens, minlength=len(row))


def softmax(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    e: npt.NDArray[np.float64] = np.exp(x.astype(np.float64) - x.max())
    return e / float(e.sum())


def chi_square(counts: npt.NDArray[np.int64], p: npt.NDArray[np.float64]) -> float:
    """In standard deviations above its mean; tokens expected less than five times are put together."""
    expected, is_rare = p * counts.sum(), p * counts.sum() < 5
    seen = np.append(counts[~is_rare], counts[is_rare].sum())
    wanted = np.append(expected[~is_rare], max(expected[is_rare].sum(), 1e-9))
    freedom = len(wanted) - 1
    return float((((seen - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom))


ROW = np.random.default_rng(1).normal(scale=2, size=70).astype(np.float32)


def test_greedy_takes_the_largest_ties_to_the_lowest_id(program: Program) -> None:
    logits = np.random.default_rng(2).normal(size=(20, 1000)).astype(np.float32)
    assert sample(program, logits, temperature=0.0).token.tolist() == logits.argmax(axis=1).tolist()
    logits[:, [17, 400, 999]] = 9
    assert set(sample(program, logits, temperature=0.0).token.tolist()) == {17}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(program: Program, temperature: float) -> None:
    counts = draws(program, ROW, temperature=temperature)
    assert chi_square(counts, softmax(ROW / temperature)) < 4


def test_uniform_numbers_are_uniform_and_depend_on_seed_and_step(program: Program) -> None:
    flat = np.zeros(1000, np.float32)
    first, again, other = (sample(program, np.tile(flat, (50, 1)), step=np.arange(50), seed=s).token for s in (7, 7, 8))
    assert first.tolist() == again.tolist() != other.tolist()
    # Kolmogorov-Smirnov against the uniform distribution: 1.63 / sqrt(n) is the 1 % line.
    drawn = np.sort(sample(program, np.tile(flat, (4000, 1)), step=np.arange(4000)).token / 1000)
    assert np.abs(drawn - np.arange(4000) / 4000).max() < 1.63 / np.sqrt(4000) + 1e-3


@pytest.mark.parametrize("k", [1, 2, 10, 69, 70, 500])
def test_top_k_keeps_exactly_k(program: Program, k: int) -> None:
    kept = np.argsort(-ROW, kind="stable")[:k]
    p = np.zeros(70)
    p[kept] = softmax(ROW[kept] / 3)
    counts = draws(program, ROW, temperature=3.0, top_k=k)
    assert set(np.flatnonzero(counts)) <= set(kept.tolist())
    assert k == 1 or chi_square(counts, p) < 4


def test_top_k_breaks_ties_by_id(program: Program) -> None:
    row = np.array([1, 5, 5, 5, 5, 0], np.float32)
    assert set(np.flatnonzero(draws(program, row, 500, top_k=2))) == {1, 2}


@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_token_that_crosses(program: Program, top_p: float) -> None:
    order = np.argsort(-ROW, kind="stable")
    p = softmax(ROW)[order]
    kept = order[: int(np.searchsorted(p.cumsum(), top_p)) + 1]
    counts = draws(program, ROW, top_p=top_p)
    assert set(np.flatnonzero(counts)) <= set(kept.tolist())
    expected = np.zeros(70)
    expected[kept] = softmax(ROW[kept])
    assert len(kept) == 1 or chi_square(counts, expected) < 4


def test_top_p_of_equal_tokens_keeps_whole_tokens_by_id(program: Program) -> None:
    flat = np.zeros(8, np.float32)
    assert np.flatnonzero(draws(program, flat, 800, top_p=0.5)).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(draws(program, flat, 800, top_p=0.51)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("min_p", [0.05, 0.3, 1.0])
def test_min_p_is_relative_to_the_likeliest(program: Program, min_p: float) -> None:
    weights = np.exp(ROW.astype(np.float64) - ROW.max())
    counts = draws(program, ROW, min_p=min_p)
    expected = np.where(weights >= min_p, weights, 0)
    assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(expected).tolist())
    assert min_p == 1.0 or chi_square(counts, expected / expected.sum()) < 4


def test_filters_apply_one_after_the_other(program: Program) -> None:
    row = np.log(np.array([0.04, 0.4, 0.3, 0.2, 0.06], np.float32))

    def survivors(**given: Any) -> set[int]:
        return set(np.flatnonzero(draws(program, row, 1500, **given)).tolist())

    assert survivors(top_p=0.69) == {1, 2}
    assert survivors(top_p=0.71) == {1, 2, 3}
    assert survivors(top_p=0.71, top_k=3) == {1, 2}  # the shares are of what top-k has left: 0.78 for two
    assert survivors(top_p=0.71, min_p=0.6) == {1, 2}


def test_penalty_divides_positive_and_multiplies_negative_once_per_token(program: Program) -> None:
    row = np.array([[4.0, 3.9, -1.0, -2.0]], np.float32)
    assert sample(program, row, temperature=0.0, penalty=1.2, history=[[0, 0, 0]]).token[0] == 1
    row = np.array([[-1.0, -1.1, -9.0]], np.float32)
    assert sample(program, row, temperature=0.0, penalty=1.2, history=[[0]]).token[0] == 1
    # Applied twice, 4.0 would fall to 2.78, below 3.0.
    row = np.array([[4.0, 3.0]], np.float32)
    assert sample(program, row, temperature=0.0, penalty=1.2, history=[[0, 0]]).token[0] == 0


def test_nan_and_infinity_do_not_crash(program: Program) -> None:
    nan, inf = np.nan, np.inf
    rows = np.array([[nan, -inf, 1, nan], [-inf] * 4, [nan] * 4, [0, inf, 0, inf], [nan, nan, nan, -5]], np.float32)
    for given in ({"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1}, {"top_k": 3, "top_p": 0.5}):
        assert sample(program, rows, **given).token.tolist() == [2, 0, 0, 1, 3]


def test_a_tiny_temperature_is_greedy(program: Program) -> None:
    assert set(np.flatnonzero(draws(program, ROW, 200, temperature=1e-38))) == {int(ROW.argmax())}


def test_logprobs_are_those_of_the_unchanged_logits(program: Program) -> None:
    logits = np.random.default_rng(3).normal(scale=3, size=(6, 300)).astype(np.float32)
    logits[:, 50] = logits[:, 60]
    wants = np.array([1, 0, 1, 1, 0, 1])
    found = sample(
        program, logits, temperature=2.0, top_k=5, penalty=1.5, history=[[1, 2]] * 6, num_top=7, wants_logprob=wants
    )
    for i in range(6):
        logprob = np.log(softmax(logits[i]))
        order = np.argsort(-logits[i], kind="stable")[:7]
        if wants[i]:
            assert found.logprob[i] == pytest.approx(logprob[found.token[i]], abs=2e-6)
            assert found.top_token[i].tolist() == order.tolist()
            np.testing.assert_allclose(found.top_logprob[i], logprob[order], atol=2e-6)
        else:
            assert found.logprob[i] == 0


def test_a_row_does_not_depend_on_its_neighbours(program: Program) -> None:
    logits = np.random.default_rng(4).normal(scale=2, size=(12, 3000)).astype(np.float32)
    each = np.arange(12)
    given: dict[str, Any] = {"top_p": 0.95, "top_k": each * 7, "temperature": each / 6, "seed": each}
    together = sample(program, logits, **given).token
    alone = [
        sample(program, logits[i : i + 1], **{k: v if np.ndim(v) == 0 else v[i] for k, v in given.items()}).token[0]
        for i in range(12)
    ]
    assert together.tolist() == alone


@pytest.mark.parametrize("isa", kernels.instruction_sets())
def test_native_draws_the_token_that_the_reference_draws(isa: str) -> None:
    """Float32 weights against float64: a boundary may move by 1e-7, so one draw in a thousand may differ."""
    rng = np.random.default_rng(5)
    n, native, reference = 400, a_program(isa), a_program("reference")
    num_equal = 0
    for vocab in (3, 64, 65, 1000, 5000):
        logits = (rng.normal(size=(n // 5, vocab)) * rng.uniform(0.1, 8, size=(n // 5, 1))).astype(np.float32)
        logits[::7] = np.round(logits[::7])  # ties
        m = len(logits)
        given: dict[str, Any] = {
            "temperature": rng.choice([0.0, 0.3, 1.0, 1.7], m),
            "top_k": rng.choice([0, 0, 1, 5, 40, 2000], m),
            "top_p": rng.choice([1.0, 0.95, 0.5, 0.0], m),
            "min_p": rng.choice([0.0, 0.0, 0.05, 0.5], m),
            "penalty": rng.choice([1.0, 1.3, 0.8], m),
            "seed": rng.integers(0, 1 << 63, m),
            "step": rng.integers(0, 1000, m),
            "history": [rng.integers(0, vocab, 20).tolist() for _ in range(m)],
        }
        num_equal += int((sample(native, logits, **given).token == sample(reference, logits, **given).token).sum())
    assert num_equal >= n - 1
