"""From a file to a model: `load_model(path_or_name) -> Model`, whose `plan()` is what kernels run.

To add an architecture, add one file with an `ARCHITECTURE` (see llama.py); it is found by the names it declares.
"""

from farthing.models.checkpoint import Model, load_model
from farthing.models.config import ModelConfig

__all__ = ["Model", "ModelConfig", "load_model"]
