"""The whole run on small models: budgets are kept, formats are mixed by what they cost, what is written is measured."""

from pathlib import Path

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.kernels.formats import format_of, row_bytes
from farthing.kernels.plan import Plan
from farthing.models import load_model
from farthing.models.decoder import build_plan
from farthing.models.opening import open_checkpoint
from farthing.quant import requantize
from farthing.report.quality import Piece, divergence, kl_divergences
from farthing.report.score import Scorer
from farthing.tuning.choose import OWN_MIXTURE, Mixture, one_format
from farthing.tuning.divergence import compare
from farthing.tuning.forward import Forward
from farthing.tuning.job import QuantizeJob
from farthing.tuning.losses import expected_losses
from farthing.tuning.run import quantize_model
from farthing.tuning.sensitivity import measure_sensitivity, units_of
from tests.models.small import GOLDEN, write_as_gguf

TEXT = "".join(f"{i} green bottles hanging on the {['wall', 'fence', 'roof'][i % 3]}, and " for i in range(400))
QUICK = {"num_tokens": 1024}


@pytest.mark.parametrize("name", ["llama", "qwen2", "olmoe", "qwen2_moe"])
@pytest.mark.parametrize("options", [{"format": "q4"}, {"format": "q3", "method": "importance"}, {"bits": 5.0}])
def test_calibrated_folder(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    stages: list[str] = []
    result = quantize_model(
        GOLDEN / name,
        tmp_path / "out",
        QuantizeJob(**options, **QUICK),
        TEXT,
        tick=lambda stage, _, __: stages.append(stage),
    )
    written = open_checkpoint(tmp_path / "out")
    total_bytes = sum(t.data.nbytes for t in written.tensors.values())
    assert result.tensor_bytes == total_bytes
    assert result.bits_per_weight == 8 * total_bytes / sum(t.rows * t.cols for t in written.tensors.values())
    assert result.method == options.get("method", "gptq")
    assert result.divergence is not None
    assert 0 < result.divergence.kl_divergence < (2 if options.get("format") == "q3" else 0.5)
    assert result.num_calibration_tokens == 1024
    expected = ["quantizing (million weights)", "measuring the result"]
    if "bits" in options:
        assert result.bits_per_weight <= 5.0
        expected = ["calibrating", "measuring sensitivity", *expected]
    assert list(dict.fromkeys(stages)) == expected
    kinds = {t.format for n, t in written.tensors.items() if t.rows > 1 and not n.endswith(".router")}
    assert kinds <= {*OWN_MIXTURE, "f16"}  # a dense layer of 48 columns keeps its own


@pytest.mark.parametrize("out", ["out.gguf", "out.safetensors"])
def test_uncalibrated_mixture_of_a_gguf(tmp_path: Path, out: str) -> None:
    write_as_gguf("olmoe", tmp_path / "in.gguf")
    result = quantize_model(tmp_path / "in.gguf", tmp_path / out, QuantizeJob(bits=5.5))
    assert (result.method, result.divergence, result.num_calibration_tokens) == ("search", None, 0)
    assert 5.0 < result.bits_per_weight <= 5.5
    model = load_model(tmp_path / out)
    assert {t.format for n, t in model.tensors.items() if n.endswith(".router")} == {"f32"}
    assert sum(result.formats.values()) == result.num_weights == model.num_parameters


def test_rounding_is_what_quantize_does(tmp_path: Path) -> None:
    write_as_gguf("llama", tmp_path / "in.gguf")
    for format in ("q8_0", "q4_1", "bf16"):
        result = quantize_model(tmp_path / "in.gguf", tmp_path / f"{format}.gguf", QuantizeJob(format, method="rtn"))
        assert (result.num_kept, result.num_tensors) == (0, 22)
        source = open_checkpoint(tmp_path / "in.gguf").tensors
        for name, tensor in open_checkpoint(tmp_path / f"{format}.gguf").tensors.items():
            expected = requantize(source[name], format) if tensor.rows > 1 else source[name]
            np.testing.assert_array_equal(tensor.data, expected.data)
    again = quantize_model(tmp_path / "q4_1.gguf", tmp_path / "again.gguf", QuantizeJob("q4_1"), TEXT)
    assert again.divergence is not None
    assert again.divergence.kl_divergence == 0  # what has the format already stays as it is
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "q4_1.gguf").read_bytes()


def test_matrices_that_do_not_fit_keep_their_format(tmp_path: Path) -> None:
    write_as_gguf("mixtral", tmp_path / "in.gguf")  # an expert's 40 columns
    result = quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", QuantizeJob("q4_0"))
    assert result.num_kept == 10
    assert open_checkpoint(tmp_path / "out.gguf").tensors["layers.0.experts.0.down"].format == "f32"


def test_losses_may_be_used_again(tmp_path: Path) -> None:
    write_as_gguf("llama", tmp_path / "in.gguf")
    first = quantize_model(tmp_path / "in.gguf", tmp_path / "a.safetensors", QuantizeJob(bits=5), TEXT)
    stages: set[str] = set()
    again = quantize_model(
        tmp_path / "in.gguf",
        tmp_path / "b.safetensors",
        QuantizeJob(bits=5),
        TEXT,
        losses=first.losses,
        tick=lambda stage, _, __: stages.add(stage),
    )
    assert stages == {"quantizing (million weights)", "measuring the result"}
    assert again == first
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_budget_that_cannot_be(tmp_path: Path) -> None:
    write_as_gguf("mixtral", tmp_path / "in.gguf")
    with pytest.raises(InvalidRequest, match=r"--bits is 2; the smallest formats there take \d+\.\d+ bits"):
        quantize_model(tmp_path / "in.gguf", tmp_path / "out.safetensors", QuantizeJob(bits=2))
    with pytest.raises(InvalidRequest, match="no type for q4; allowed there"):
        quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", QuantizeJob("q4"))
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_budgets_are_kept_and_spent_where_it_counts() -> None:
    """One matrix whose error is made to weigh gets the most bits."""
    checkpoint = open_checkpoint(GOLDEN / "llama")
    tensors = dict(checkpoint.tensors)
    plan = build_plan(checkpoint.config, tensors)
    num_weights = sum(t.rows * t.cols for t in tensors.values())
    texts = [[int(i) for i in row] for row in np.random.default_rng(1).integers(0, 300, (2, 64))]
    mixture = Mixture.of(tensors, OWN_MIXTURE)
    assert mixture.num_weights == num_weights
    for windows in ((), texts):
        losses = expected_losses(plan, mixture.units, OWN_MIXTURE, windows)
        for budget in (2.75, 3.5, 4.5, 6.0):
            formats = mixture.choose(losses, budget)
            spent = sum(t.rows * row_bytes(formats[n], t.cols) for n, t in tensors.items())
            assert budget - 0.5 < 8 * spent / num_weights <= budget
            assert all(formats[n] == "f32" for n, t in tensors.items() if t.rows == 1)
        dear = {**losses, "layers.1.v": {f: 1e6 * loss for f, loss in losses["layers.1.v"].items()}}
        assert mixture.choose(dear, 4.5)["layers.1.v"] == "q8_0"


def test_sensitivity_is_the_divergence_with_one_matrix_replaced() -> None:
    model = load_model(GOLDEN / "qwen2")
    plan = model.plan()
    texts = [tuple(int(i) for i in row) for row in np.random.default_rng(1).integers(0, 300, (2, 48))]
    units = units_of(open_checkpoint(GOLDEN / "qwen2").tensors)
    found = measure_sensitivity(plan, units, texts)
    assert found.keys() == {u.name for u in units}
    assert "embed" in found
    for unit in (units[0], units[3], units[-1]):
        checkpoint = open_checkpoint(GOLDEN / "qwen2")
        tensors = dict(checkpoint.tensors)
        tensors |= {n: requantize(tensors[n], "q3") for n in unit.tensors}
        other = build_plan(checkpoint.config, tensors)
        expected = _divergence(plan, other, texts)
        assert found[unit.name] == pytest.approx(expected, rel=2e-3, abs=1e-7)


def _divergence(reference: Plan, other: Plan, texts: list[tuple[int, ...]]) -> float:
    """By the slow way: every position's logits of both."""
    logits = []
    for plan in (reference, other):
        forward = Forward(plan, texts)
        forward.embed(plan.tensors)
        for index in range(forward.num_layers):
            forward.layer(index, plan.tensors)
        logits.append(np.concatenate(list(forward.logits(plan.tensors))))
    return float(kl_divergences(*logits).mean())


def test_the_measure_is_the_reports(tmp_path: Path) -> None:
    """KL divergence a layer at a time is that of `report.quality` with the native engine."""
    quantize_model(GOLDEN / "llama", tmp_path / "out", QuantizeJob("q4_0", method="rtn"))
    ours, theirs = load_model(GOLDEN / "llama"), load_model(tmp_path / "out")
    texts = [tuple(int(i) for i in row) for row in np.random.default_rng(2).integers(0, 300, (3, 64))]
    found = compare(ours.plan(), theirs.plan(), texts)
    expected = divergence(Scorer(ours, 64), Scorer(theirs, 64), [Piece(text, 32) for text in texts])
    assert found.kl_divergence == pytest.approx(expected.kl_divergence, rel=1e-3)
    assert (found.top1_agreement, found.num_positions) == (expected.top1_agreement, expected.num_positions)


def test_one_format_leaves_routers_and_vectors() -> None:
    tensors = open_checkpoint(GOLDEN / "qwen2_moe").tensors
    formats = one_format(tensors, "q4_0")
    routers = [name for name in tensors if name.endswith(".router")]
    assert routers
    assert all(formats[name] == tensors[name].format for name in routers)
    assert {formats[n] for n, t in tensors.items() if t.rows == 1} == {"f32"}
    assert format_of(formats["embed"]).name == "q4_0"


@pytest.mark.parametrize("name", ["qwen2", "qwen2_moe"])
def test_rotated(tmp_path: Path, name: str) -> None:
    """The same answers but for rounding, a head of its own, and no norm weights left."""
    result = quantize_model(GOLDEN / name, tmp_path / "out", QuantizeJob("f32", is_rotated=True, seed=3), TEXT)
    assert result.divergence is not None
    assert result.divergence.kl_divergence < 1e-5
    tensors = load_model(tmp_path / "out").tensors
    assert "head" in tensors
    assert (tensors["final_norm"].data.view(np.float32) == 1).all()


def test_errors_name_the_tensor(tmp_path: Path) -> None:
    write_as_gguf("llama", tmp_path / "in.gguf")
    raw = bytearray((tmp_path / "in.gguf").read_bytes())
    tensor = open_checkpoint(tmp_path / "in.gguf").tensors["layers.1.up"]
    place = bytes(raw).index(tensor.data.tobytes())
    raw[place : place + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "bad.gguf").write_bytes(raw)
    with pytest.raises(InvalidRequest, match=r"tensor 'layers\.1\.up': some weights are not finite"):
        quantize_model(tmp_path / "bad.gguf", tmp_path / "out.gguf", QuantizeJob("q4_0"))
    assert not (tmp_path / "out.gguf").exists()
