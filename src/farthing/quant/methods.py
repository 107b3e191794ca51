"""STUB until branch methods is merged."""
from dataclasses import dataclass
import numpy as np
import numpy.typing as npt
from farthing.kernels.plan import QTensor
from farthing.quant.convert import quantize
from farthing.kernels.formats import dequantize
F32 = npt.NDArray[np.float32]
@dataclass(frozen=True)
class Statistics:
    gram: F32
    num_tokens: int
METHODS = ("rtn", "search", "hqq", "importance", "gptq")
def quantize_matrix(values: F32, format: str, method: str, statistics: Statistics | None = None) -> QTensor:
    return quantize(values, format)
def relative_error(values: F32, quantized: QTensor, statistics: Statistics | None) -> float:
    e = values - dequantize(quantized.data, quantized.format, quantized.rows, quantized.cols)
    if statistics is None:
        return float((e*e).sum() / (values*values).sum())
    g = statistics.gram
    return float(((e @ g) * e).sum() / ((values @ g) * values).sum())
