"""A model file being written: its size is known before its content, parts come in any order, it appears when whole."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from farthing.errors import InvalidRequest
from farthing.kernels.plan import QTensor

__all__ = ["Layout", "ModelSink", "check_free", "new_file"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Layout:
    """Where everything lies in a file that is to be written: its head, and the first byte of each tensor after it."""

    head: bytes
    places: Mapping[str, int]
    num_bytes: int  # of the whole file


@contextmanager
def new_file(output: Path, num_bytes: int, *, is_overwrite: bool = False) -> Iterator[BinaryIO]:
    """A file of num_bytes zeros to be filled, which has its name only after the block has ended well.

    Its room is taken at once, so that a full disk is known before the work. Where anything fails (an interrupt too)
    nothing is left behind. Raises InvalidRequest where it cannot be written or exists (unless is_overwrite).
    """
    check_free(output, is_overwrite=is_overwrite)
    part = output.with_name(f".{output.name[:100]}.{os.getpid()}.part")
    try:
        with _opened(part, output) as file:  # in here: an interrupt may come as soon as it is there
            _take_room(file, num_bytes)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            wanted = f"{num_bytes / 1e6:,.1f} MB are needed there"
            raise InvalidRequest(f"{output}: cannot be written ({error.strerror}); {wanted}") from None
        raise


def _opened(part: Path, output: Path) -> BinaryIO:
    try:
        return part.open("xb")
    except OSError as error:
        raise InvalidRequest(f"{output}: cannot be written ({error.strerror})") from None


def check_free(output: Path, *, is_overwrite: bool = False) -> None:
    """Raises InvalidRequest where a file cannot get this name."""
    if output.is_dir() or (output.exists() and not is_overwrite):
        raise InvalidRequest(f"{output} exists; give another name, or --force to replace a file")
    if not output.parent.is_dir():
        raise InvalidRequest(f"{output}: the folder {output.parent} does not exist; create it first")


def _take_room(file: BinaryIO, num_bytes: int) -> None:
    if num_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
    else:
        file.truncate(num_bytes)


class ModelSink:
    """Puts tensors at their places in a file that `new_file` made for `layout`."""

    def __init__(self, file: BinaryIO, layout: Layout, norm_offset: float = 0.0) -> None:
        """norm_offset: taken off each norm (see Checkpoint)."""
        self._file, self._norm_offset = file, np.float32(norm_offset)
        self._places = dict(layout.places)
        file.seek(0)
        file.write(layout.head)

    def put(self, name: str, tensor: QTensor) -> None:
        """Each name once; the tensor has the format and shape that the layout was made for."""
        self._file.seek(self._places.pop(name))
        data = tensor.data
        if self._norm_offset and name.endswith("norm"):
            data = (data.view(np.float32) - self._norm_offset).view(np.uint8)
        self._file.write(data.data)

    def check(self) -> None:
        """All have been put."""
        assert not self._places, sorted(self._places)
