"""Finds the file of this package that knows an architecture: by name, without a registry."""

import importlib
import pkgutil
from functools import cache

from farthing import models
from farthing.errors import UnsupportedModel
from farthing.models.config import Architecture

__all__ = ["architecture_of_gguf", "architecture_of_hf", "architectures"]


@cache
def architectures() -> tuple[Architecture, ...]:
    """Every `ARCHITECTURE` that a file of this package declares."""
    names = sorted(module.name for module in pkgutil.iter_modules(models.__path__))
    modules = [importlib.import_module(f"{models.__name__}.{name}") for name in names]
    found = [getattr(module, "ARCHITECTURE", None) for module in modules]
    return tuple(a for a in found if isinstance(a, Architecture))


def architecture_of_hf(model_type: str) -> Architecture:
    """The architecture that answers to `model_type` of a config.json. Raises UnsupportedModel."""
    for architecture in architectures():
        if model_type in architecture.model_types:
            return architecture
    known = sorted(name for a in architectures() for name in a.model_types)
    raise UnsupportedModel(f"architecture {model_type!r} is not supported; supported: {', '.join(known)}")


def architecture_of_gguf(name: str, *, is_sparse: bool = False) -> Architecture:
    """The architecture that answers to `general.architecture` of a GGUF with or without experts.

    Raises UnsupportedModel.
    """
    for architecture in architectures():
        if name in architecture.gguf_names and architecture.is_sparse == is_sparse:
            return architecture
    known = sorted(f"{name}{' with experts' * a.is_sparse}" for a in architectures() for name in a.gguf_names)
    name += " with experts" * is_sparse
    raise UnsupportedModel(f"architecture {name!r} is not supported; supported: {', '.join(known)}")
