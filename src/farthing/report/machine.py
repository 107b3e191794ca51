"""Where a number was measured: the machine, the commit, and how much memory a stretch of work took at most."""

import ctypes
import gc
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import farthing
from farthing.kernels.cores import num_cores

__all__ = ["Machine", "commit", "free_memory", "peak_bytes", "reset_peak", "this_machine"]

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Machine:
    cpu: str
    num_cores: int  # that this process may use
    memory_bytes: int | None
    os: str
    python: str
    isa: str  # instruction set of the kernels in use

    def __str__(self) -> str:
        memory = f", {self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes else ""
        return f"{self.cpu}, {self.num_cores} cores ({self.isa}){memory}, {self.os}, Python {self.python}"


def this_machine(isa: str) -> Machine:
    return Machine(
        cpu=_cpu(),
        num_cores=num_cores(),
        memory_bytes=_memory_bytes(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        isa=isa,
    )


def commit() -> str:
    """The commit of the working tree this package runs from ("+changes" where it differs), else the version."""
    root = Path(farthing.__file__).parents[2]
    version = f"version {farthing.__version__}"
    if not (root / ".git").exists() or not (root / "csrc").exists():
        return version
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{head}+changes" if changes else head


def free_memory() -> None:
    """Give back what is no longer used, so that one row's weights do not count in the next row's peak.

    glibc keeps freed arrays for later unless it is told; other C libraries have no such call and need none.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def reset_peak() -> bool:
    """Set this process's high-water mark of resident memory back to what it holds now; False where that cannot be."""
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Most resident memory since `reset_peak` (mapped files that were touched included); None where unknown."""
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int | None:
    try:
        lines = (PROC / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or f"{platform.machine()} ({sys.platform})"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
