"""A model's folder that appears whole or not at all, and its tensors' file."""

import glob
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from farthing.errors import InvalidRequest
from farthing.kernels.plan import QTensor
from farthing.models.gguf_write import TensorInfo
from farthing.models.output_file import ModelSink, new_file
from farthing.models.safetensors_write import safetensors_layout

__all__ = ["check_new_folder", "new_folder", "write_tensors"]

_MATRICES = ("score.weight", "embed_tokens.weight", "lm_head.weight")  # of two dimensions even with a single row


def check_new_folder(out: Path) -> None:
    """Raises InvalidRequest where a folder cannot get this name."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InvalidRequest(f"{out} exists; give another name, or remove it first (a folder is not replaced)")
    if not out.parent.is_dir():
        raise InvalidRequest(f"{out}: the folder {out.parent} does not exist; create it first")


@contextmanager
def new_folder(out: Path, *, is_replaced: bool = False) -> Iterator[Path]:
    """A folder that has its name when the block has ended well; is_replaced: perhaps in the place of one that is there.
    Raises InvalidRequest where it cannot get it."""
    _remove_left_over(out)
    if not is_replaced:
        check_new_folder(out)
    part = out.with_name(f".{out.name[:100]}.{os.getpid()}.part")
    try:
        part.mkdir()
    except OSError as error:
        raise InvalidRequest(f"{out}: cannot be written ({error.strerror})") from None
    try:
        yield part
        if is_replaced and out.exists():
            old = part.with_suffix(".old")
            out.replace(old)  # no system call puts a folder in the place of another that is not empty
            try:
                part.replace(out)
            except BaseException:
                with suppress(OSError):  # where an interrupt came just behind, the new one has the name
                    old.replace(out)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            part.replace(out)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(part)
        raise


def _remove_left_over(out: Path) -> None:
    """What a process that was killed has left of this folder; one that it had moved out of the way comes back."""
    name = f".{out.name[:100]}."
    for path in out.parent.glob(f"{glob.escape(name)}*"):
        pid = path.name.removeprefix(name).removesuffix(path.suffix)
        if not pid.isdigit() or path.suffix not in (".part", ".old"):
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            if path.suffix == ".old" and not out.exists():
                path.replace(out)
            else:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue


def write_tensors(path: Path, tensors: Mapping[str, QTensor]) -> None:
    """A .safetensors file of tensors by the names they are to have in it."""
    infos = [
        TensorInfo(name, (t.rows, t.cols) if t.rows > 1 or name.endswith(_MATRICES) else (t.cols,), t.format, (name,))
        for name, t in tensors.items()
    ]
    layout = safetensors_layout(infos)
    with new_file(path, layout.num_bytes) as file:
        sink = ModelSink(file, layout)
        for name, tensor in tensors.items():
            sink.put(name, tensor)
        sink.check()
