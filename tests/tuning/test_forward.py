"""The pass over many windows says what the engine's reference says, and shows every weight its input."""

import numpy as np
import numpy.typing as npt
import pytest

from farthing.errors import UnsupportedModel
from farthing.kernels.gates import route
from farthing.kernels.plan import Moe
from farthing.models import load_model
from farthing.tuning.calibrate import observe_head, observe_layer
from farthing.tuning.forward import Forward
from tests.models.small import GOLDEN, SMALL, SPARSE, as_float32, logits_of, program_of

F32 = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)
NUM_WINDOWS, LENGTH = 5, 12


def windows(vocab_size: int) -> list[list[int]]:
    return [[int(i) for i in row] for row in RNG.integers(0, vocab_size, (NUM_WINDOWS, LENGTH))]


class Inputs:
    """A tap that keeps the rows that each weight met, and the names of those of which it saw all at once."""

    def __init__(self) -> None:
        self.parts: dict[str, list[F32]] = {}
        self.starts: dict[str, list[npt.NDArray[np.bool_]]] = {}  # of each row, whether it begins a window
        self.are_all: set[str] = set()

    def see(self, rows: F32, num_windows: int = 0) -> object:
        assert num_windows * LENGTH in (0, len(rows))
        return rows.copy(), (np.arange(len(rows)) % LENGTH == 0) & (num_windows > 0)

    def take(self, weights: tuple[str, ...], seen: object, is_all: bool) -> None:
        assert isinstance(seen, tuple)
        for weight in weights:
            self.parts.setdefault(weight, []).append(seen[0])
            self.starts.setdefault(weight, []).append(seen[1])
            self.are_all |= {weight} if is_all else set()


@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_logits_are_the_references(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.tuning.forward.CHUNK_TOKENS", 2 * LENGTH)  # several chunks, the last one shorter
    model = load_model(GOLDEN / name)
    texts, plan = windows(model.config.vocab_size), model.plan()
    forward = Forward(plan, texts)
    forward.embed(plan.tensors)
    for index in range(forward.num_layers):
        forward.layer(index, plan.tensors)
    assert forward.num_layers == model.config.num_layers
    ours = np.concatenate(list(forward.logits(plan.tensors))).reshape(NUM_WINDOWS, LENGTH, -1)
    program = program_of(model, "reference", num_tokens=LENGTH)
    for i, text in enumerate(texts):
        np.testing.assert_allclose(ours[i], logits_of(program, text), atol=1e-4)
    some = np.array([0, 7, 59])
    picked = np.concatenate(list(forward.logits(plan.tensors, some)))
    np.testing.assert_allclose(picked, ours.reshape(-1, ours.shape[2])[some], atol=1e-5)


@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_statistics_reproduce_what_the_weights_do(name: str) -> None:
    """tr(W G W^T) is the mean squared output, which is summed here from the inputs that a tap sees; but of what sees
    whole windows (not experts, not the head) the first token of each counts 16 times."""
    model = load_model(GOLDEN / name)
    plan = model.plan()
    energies: dict[str, float] = {}
    rows: dict[str, int] = {}
    inputs = Inputs()

    def consume(names: tuple[str, ...], statistics: object) -> None:
        for weight in names:
            w = as_float32(plan.tensors[weight]).astype(np.float64)
            energies[weight] = float(((w @ statistics.gram) * w).sum())  # type: ignore[attr-defined]
            rows[weight] = statistics.num_tokens  # type: ignore[attr-defined]

    texts = windows(model.config.vocab_size)
    plain, observed = Forward(plan, texts), Forward(plan, texts)
    for forward in (plain, observed):
        forward.embed(plan.tensors)
    for index in range(plain.num_layers):
        plain.layer(index, plan.tensors, inputs)
        observe_layer(observed, index, plan.tensors, consume)
    plain.head_inputs(plan.tensors, inputs)
    observe_head(observed, plan.tensors, consume)

    np.testing.assert_array_equal(plain.stream, observed.stream)
    plan_head = "embed" if model.config.is_tied_head else "head"
    matrices = {n for n, t in model.tensors.items() if t.rows > 1 or n.endswith("shared_router")}
    head = {"embed"} if model.config.is_tied_head else {"embed", "head"}
    unseen = {n for n in matrices - energies.keys() if ".experts." in n}  # no token chose them
    assert energies.keys() == matrices - unseen - (set() if model.config.is_tied_head else {"embed"}), head
    for weight, parts in inputs.parts.items():
        x = np.concatenate(parts).astype(np.float64)
        w = as_float32(plan.tensors[weight]).astype(np.float64)
        starts = np.concatenate(inputs.starts[weight])
        assert starts.sum() == (0 if ".experts." in weight or weight == plan_head else NUM_WINDOWS)
        assert rows[weight] == len(x)
        counts = np.where(starts, 16, 1)
        assert energies[weight] == pytest.approx(counts @ ((x @ w.T) ** 2).sum(1) / counts.sum(), rel=1e-4)


@pytest.mark.parametrize("name", SPARSE)
def test_experts_see_the_rows_that_chose_them(name: str) -> None:
    model = load_model(GOLDEN / name)
    plan = model.plan()
    inputs = Inputs()
    forward = Forward(plan, windows(model.config.vocab_size))
    forward.embed(plan.tensors)
    moe = next(op for op in plan.ops if isinstance(op, Moe))
    layer = int(moe.gates[0].split(".")[1])
    for index in range(layer + 1):
        inputs.parts.clear()
        forward.layer(index, plan.tensors, inputs)
    assert inputs.are_all == {name for name in inputs.parts if ".experts." in name}
    router = f"layers.{layer}.router"
    experts, _ = route(np.concatenate(inputs.parts[router]) @ as_float32(plan.tensors[router]).T, moe.rule)
    for expert, (gate, up, down) in enumerate(zip(moe.gates, moe.ups, moe.downs, strict=True)):
        expected = int((experts == expert).sum())
        assert [sum(map(len, inputs.parts.get(n, []))) for n in (gate, up, down)] == [expected] * 3


def test_other_weights_may_be_given() -> None:
    """A layer run with zeros for what it adds leaves the stream as it was."""
    model = load_model(GOLDEN / "llama")
    plan = model.plan()
    forward = Forward(plan, windows(model.config.vocab_size))
    forward.embed(plan.tensors)
    before = forward.stream.copy()
    t = dict(plan.tensors)
    for name in ("layers.0.o", "layers.0.down"):
        t[name] = type(t[name])("f32", t[name].rows, t[name].cols, np.zeros(4 * t[name].rows * t[name].cols, np.uint8))
    forward.layer(0, t)
    np.testing.assert_array_equal(forward.stream, before)
    forward.layer(1, t)
    assert not np.array_equal(forward.stream, before)


def test_an_unknown_operation_is_refused() -> None:
    model = load_model(GOLDEN / "llama")
    plan = model.plan()
    forward = Forward(plan, windows(300))
    forward._stages[1] = (object(), *forward._stages[1])  # type: ignore[assignment,arg-type]
    with pytest.raises(UnsupportedModel, match="calibration does not know the operation object"):
        forward.layer(0, plan.tensors)
