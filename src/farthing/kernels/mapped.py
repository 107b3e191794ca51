"""Memory of mapped files that has been read and is not needed again."""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["forget_mapped"]


def forget_mapped(array: npt.NDArray[Any]) -> None:
    """Gives back the memory of a converted tensor's source where it is a view of a mapped file.

    The converted copy is what runs; without this the file's pages would count as resident beside it. The view stays
    good: read again, it comes from the file again.
    """
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if not isinstance(base, mmap.mmap) or not hasattr(base, "madvise"):
        return
    start = array.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)
