"""Models that change while they are served: what a path stands for at this moment.

    slot/current            one line: the name of a version, beside it or in versions/
    slot/versions/0001-a/   a model's folder (or 0001-a.gguf, a file)

A symbolic link does the same. Whoever writes `current` puts the new one beside it and renames it over the old.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from farthing.errors import CorruptModel, ModelNotFound

__all__ = ["CURRENT", "NoVersion", "Version", "look", "version_of"]

CURRENT = "current"
_VERSIONS = "versions"
_MOST_BYTES = 4096  # of the file that names a version


class NoVersion(ModelNotFound):
    """A slot in which nothing was put yet: it has versions/ and no `current`."""


@dataclass(frozen=True)
class Version:
    """What a path stood for when it was looked at. Two looks with the same `key` saw the same model."""

    path: Path  # without symbolic links
    device: int
    inode: int

    @property
    def key(self) -> tuple[str, int, int]:
        return str(self.path), self.device, self.inode

    @property
    def name(self) -> str:
        return self.path.name


def version_of(folder: Path) -> Path | None:
    """Where the version lies that the folder's `current` names; None of a folder without such a file.

    Raises ModelNotFound where it is not there, CorruptModel where `current` names nothing inside the folder.
    """
    try:
        with (folder / CURRENT).open("rb") as file:
            raw = file.read(_MOST_BYTES)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        raise ModelNotFound(f"{folder / CURRENT}: cannot be read ({error.strerror})") from None
    name = raw.decode("utf-8", "replace").strip()
    parts = Path(name).parts
    if not name or "\n" in name or "\0" in name or Path(name).is_absolute() or ".." in parts:
        raise CorruptModel(
            f"{folder / CURRENT} holds {name[:60]!r}; allowed: one line, the name of a version in {folder}"
        )
    for path in (folder / name, folder / _VERSIONS / name):
        if os.path.exists(path):  # not Path.exists, which raises for a name that is too long
            return path
    raise ModelNotFound(f"{folder / CURRENT} names the version {name[:60]!r}, which is not in {folder}")


def look(path: Path) -> Version:
    """What stands behind a path now: symbolic links followed, a slot's version found. Raises as `version_of` does, and
    NoVersion for an empty slot."""
    try:
        version = version_of(path) if path.is_dir() else None
        if version is None and (path / _VERSIONS).is_dir() and not (path / "config.json").exists():
            raise NoVersion(f"{path} has no version yet: {CURRENT} is missing")
        real = Path(os.path.realpath(path if version is None else version, strict=True))
        found = real.stat()
    except OSError as error:
        raise ModelNotFound(f"{path}: cannot be read ({error.strerror})") from None
    return Version(real, found.st_dev, found.st_ino)
