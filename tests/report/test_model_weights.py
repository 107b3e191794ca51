"""What of a model a token costs."""

from farthing.models import load_model
from farthing.report.model_weights import ModelWeights
from tests.models.small import GOLDEN


def test_of_a_dense_model_with_a_tied_head_all_is_active() -> None:
    parts = ModelWeights.of(load_model(GOLDEN / "qwen2"))
    assert parts.num_active_parameters == parts.num_parameters
    assert parts.bytes_per_token == parts.num_bytes
    assert parts.num_experts is None
    assert "active" not in parts.line()


def test_of_an_embedding_that_is_not_the_head_one_row_is_read() -> None:
    model = load_model(GOLDEN / "llama")
    embed = model.tensors["embed"]
    parts = ModelWeights.of(model)
    assert parts.num_bytes - parts.bytes_per_token == embed.data.nbytes // embed.rows * (embed.rows - 1)


def test_of_experts_those_that_a_token_takes() -> None:
    """Two layers of 7 experts of three 32 x 32 matrices, of which 3 are taken."""
    parts = ModelWeights.of(load_model(GOLDEN / "olmoe"))
    assert parts.num_parameters - parts.num_active_parameters == 2 * 4 * 3 * 32 * 32
    assert parts.num_bytes - parts.bytes_per_token == 4 * 2 * 4 * 3 * 32 * 32
    assert (parts.num_experts, parts.num_experts_per_token) == (7, 3)
    assert "34.9 k of them active" in parts.line()
    assert "(3 of 7 experts)" in parts.line()
