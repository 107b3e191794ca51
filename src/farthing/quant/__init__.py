"""Weights in fewer bits: float32 rows to blocks of codes (`convert`), and the bytes of each format (`pack_*`)."""

from farthing.kernels.formats import dequantize
from farthing.kernels.plan import QTensor
from farthing.quant.convert import quantizable, quantize, requantize, target_format

__all__ = ["QTensor", "dequantize", "quantizable", "quantize", "requantize", "target_format"]
