"""What is built or installed once, in the cache folder; a stamp beside it says what was made, and from what."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from farthing.models.hub import models_folder

__all__ = [
    "PROGRAMS",
    "SERVER",
    "Missing",
    "cache_folder",
    "environment",
    "installed",
    "llamacpp_programs",
    "llamacpp_version",
    "once",
    "run",
]

LLAMACPP = "llama-cpp-python==0.3.36"  # its sdist carries llama.cpp's source
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-quantize")
SERVER = "llama-server"  # benchmarks/reuse.py measures it
QUALITY = ("llama-imatrix", "llama-perplexity")  # benchmarks/ladder.py asks them
# The first makes the folders that the next two start from, in the same environment.
PACKAGES = {
    "transformers": ("torch==2.13.0", "transformers==5.24.0", "gguf==0.19.0"),
    "ctranslate2": ("ctranslate2==4.8.5",),
    "onnxruntime-genai": ("onnxruntime-genai==0.18.0", "onnxruntime==1.32.0", "onnx==1.23.2", "onnx_ir==1.1.0"),
    "openvino-genai": ("openvino-genai==2026.4.1.0", "numpy>=2"),
}
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
)


class Missing(Exception):
    """Why a peer cannot be measured here."""


def cache_folder() -> Path:
    """FARTHING_PEERS, else beside the folder of models."""
    given = os.environ.get("FARTHING_PEERS")
    return Path(given).expanduser().resolve() if given else models_folder().parent / "peers"


def run(command: Sequence[str | Path], log: Path) -> None:
    """Raises Missing with the last line that the command said, and where the rest of it is."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        try:
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT).returncode
        except OSError as error:
            raise Missing(f"{Path(command[0]).name} cannot be run: {error.strerror}") from None
    if status:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = said[-1].strip()[:300] if said else "it said nothing"
        raise Missing(f"{Path(command[0]).name} ended with status {status}: {last} (logs/{log.name})")


def once(stamp: Path, key: str, make: Callable[[], None]) -> None:
    """`make`, unless the stamp says that just this was made."""
    if stamp.is_file() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    print(f"making {stamp.name} in the peers' cache folder", file=sys.stderr)
    make()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)


def llamacpp_programs(cache: Path, given: Path | None, needed: Sequence[str] = PROGRAMS) -> Path:
    """The folder of llama.cpp's programs: the given one, or built from source for this very machine."""
    if given is not None:
        if lacking := [name for name in needed if not (given / name).is_file()]:
            raise Missing(f"the given folder has no {', '.join(lacking)}")
        return given
    build, stamp = cache / "llama.cpp", cache / "stamps" / "llama.cpp"
    if any(not (build / "bin" / name).is_file() for name in needed):  # of an older farthing, which built fewer
        stamp.unlink(missing_ok=True)
    once(stamp, " ".join([LLAMACPP, *CMAKE_OPTIONS, _cpu()]), lambda: _build(cache, build))
    return build / "bin"


def _build(cache: Path, build: Path) -> None:
    logs, sources = cache / "logs", cache / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.rmtree(build, ignore_errors=True)
    sources.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", LLAMACPP.split("==")[0], LLAMACPP]
    run([*pip, "--dest", sources], logs / "llama.cpp-download.log")
    [sdist] = sources.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(sources, filter="data")
    [source] = sources.glob("*/vendor/llama.cpp")
    ninja = _tool("ninja")
    configure = [_tool("cmake"), "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    run([*configure, *CMAKE_OPTIONS], logs / "llama.cpp-configure.log")
    run([_tool("cmake"), "--build", build, "--target", *PROGRAMS, SERVER, *QUALITY], logs / "llama.cpp-build.log")
    shutil.rmtree(sources)


def _tool(name: str) -> str:
    """A program of this Python's environment (`make setup` puts cmake and ninja there), else of the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise Missing(f"{name} was not found; pip install {name}")
    return found


def _cpu() -> str:
    """What a native build depends on: the processor's flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(("flags", "Features"))), "unknown")


def llamacpp_version(programs: Path) -> str:
    done = subprocess.run([programs / "llama-bench", "--version"], capture_output=True, text=True)
    found = re.search(r"version: (\S+)", done.stdout + done.stderr)
    return found.group(1) if found else "unknown"


def environment(cache: Path, peer: str, base: str | None = None) -> Path:
    """A folder with bin/python that has the peer's packages, over those of `base` where one is named."""
    folder = cache / "environments" / (base or peer)
    packages = " ".join(PACKAGES[peer])

    def make() -> None:
        log = cache / "logs" / f"{peer}-install.log"
        if not (folder / "bin" / "python").exists():
            run([sys.executable, "-m", "venv", folder], log)
        run([folder / "bin" / "python", "-m", "pip", "install", *PACKAGES[peer]], log)

    once(cache / "stamps" / f"{peer} environment", f"{sys.version} {packages}", make)
    return folder


def installed(peer: str) -> str:
    """The versions of a peer's packages, for the report."""
    return ", ".join(package.replace("==", " ") for package in PACKAGES[peer] if "==" in package)
