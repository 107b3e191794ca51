"""Says what to install where torch or transformers is missing."""

from importlib.util import find_spec

from farthing.errors import InvalidRequest

__all__ = ["need_torch"]


def need_torch() -> None:
    """Raises InvalidRequest."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise InvalidRequest("training needs torch and transformers: pip install 'farthing[distill]'")
