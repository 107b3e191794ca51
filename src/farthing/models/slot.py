"""A slot: a folder whose served version changes while a server runs. Who serves from it looks at `stamp` now and then.

SLOT/current          one line, relative to SLOT: versions/0003. Replaced by a rename, so a reader meets the old or the
                      new one whole. Missing until there is a version
SLOT/versions/0003/   a model folder, complete before `current` names it, and never changed after
"""

import os
from pathlib import Path, PurePosixPath

from farthing.errors import CorruptModel

__all__ = ["CURRENT", "VERSIONS", "is_slot", "resolve", "stamp"]

CURRENT, VERSIONS = "current", "versions"
MAX_LINE = 1000


def is_slot(path: Path) -> bool:
    return (path / CURRENT).is_file() or (path / VERSIONS).is_dir()


def resolve(path: Path) -> Path | None:
    """What is to be served now: of a slot the version that `current` names, None where there is none yet; of anything
    else the path itself. Raises CorruptModel for a `current` that names nothing inside of the slot."""
    if not is_slot(path):
        return path
    name = _named(path)
    if name is None:
        return None
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or not parts:
        raise CorruptModel(f"{path / CURRENT} says {name[:80]!r}; it must be a path below {path}, like versions/0001")
    return path / name


def stamp(path: Path) -> tuple[object, ...]:
    """Differs when something else is to be served: another version of a slot, another file or target of a link."""
    if is_slot(path):
        return ("slot", _named(path))
    try:
        found = os.stat(path)
    except OSError:
        return ("none",)
    return (os.path.realpath(path), found.st_ino, found.st_mtime_ns, found.st_size)


def _named(path: Path) -> str | None:
    try:
        with (path / CURRENT).open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_LINE).strip()
    except OSError:
        return None
