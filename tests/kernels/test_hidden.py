"""The state that the head reads: its product with the head's weight is the logits, natively as in the reference."""

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels.formats import dequantize
from farthing.kernels.plan import Head
from farthing.models import Model, load_model
from tests.models.small import GOLDEN, SMALL, program_of, step


def head_of(model: Model) -> npt.NDArray[np.float32]:
    plan = model.plan("f32")
    head = plan.ops[-1]
    assert isinstance(head, Head)
    tensor = plan.tensors[head.weight]
    return dequantize(tensor.data, tensor.format, tensor.rows, tensor.cols)


@pytest.mark.parametrize("isa", [*kernels.instruction_sets(), "reference"])
@pytest.mark.parametrize("name", SMALL)
def test_logits_are_the_heads_product_with_it(name: str, isa: str) -> None:
    model = load_model(GOLDEN / name)
    program = program_of(model, isa, num_tokens=32)
    assert len(program.hidden()) == 0
    prompts = [[1, 2, 3], [7, 5], list(range(1, 20))]
    for all_rows in (True, False):
        logits = step(program, prompts, [0, 0, 0], all_rows=all_rows)
        hidden = program.hidden()
        assert hidden.shape == (len(logits), model.config.hidden_size)
        np.testing.assert_allclose(hidden @ head_of(model).T, logits, rtol=1e-4, atol=1e-4)
    slow = program_of(model, "reference", num_tokens=32)
    step(slow, prompts, [0, 0, 0], all_rows=False)
    np.testing.assert_allclose(program.hidden(), slow.hidden(), rtol=1e-3, atol=1e-3)
