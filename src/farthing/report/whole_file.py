"""A file that appears whole or not at all: written beside its place, then put there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from farthing.errors import InvalidRequest

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path, option: str) -> Iterator[TextIO]:
    """Opened at once, so that a place that cannot be written is told before the work; InvalidRequest names `option`.

    What is no ordinary file (a pipe, /dev/stdout) is written as it comes.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8", newline="") as out:
                yield out
            return
        target = path.resolve()
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    except OSError as error:
        raise InvalidRequest(f"{option} {path}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)  # it may be in its place already
        raise


def _mode(target: Path) -> int:
    """What the file had, or what a new one would get (mkstemp alone gives 0600)."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
