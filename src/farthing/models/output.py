"""The file or folder that a model with other weights is written to: which tensors it holds, and how it is opened."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from farthing.errors import InvalidRequest, UnsupportedModel
from farthing.kernels.plan import QTensor
from farthing.models.gguf import DEFAULT_ALIGNMENT
from farthing.models.gguf_experts import part_names
from farthing.models.gguf_write import TensorInfo, gguf_layout, gguf_values, gguf_values_section
from farthing.models.new_folder import check_new_folder, new_folder
from farthing.models.opening import Checkpoint, read_json
from farthing.models.output_file import Layout, ModelSink, check_free, new_file
from farthing.models.safetensors_write import safetensors_layout

__all__ = ["OutputKind", "check_output", "extra_tensors", "open_output", "output_kind", "output_tensors"]

OutputKind = Literal["gguf", "safetensors", "folder"]

_EXPERT = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down)_exps\.weight)\.\d+")
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".h5")
_MOST_COPIED_BYTES = 256 << 20  # of one file beside the weights


def output_kind(source: Checkpoint, output: Path) -> OutputKind:
    """What `output` is to be, by its suffix; `folder_gguf.as_gguf` turns a folder into what becomes a file.

    Raises InvalidRequest where the source cannot become that.
    """
    if output.suffix in (".gguf", ".safetensors"):
        return "gguf" if output.suffix == ".gguf" else "safetensors"
    if source.gguf is not None:
        raise InvalidRequest(f"{output}: a GGUF becomes a .gguf or .safetensors file; give a name that ends so")
    return "folder"


def check_output(output: Path, kind: OutputKind, *, is_overwrite: bool = False) -> None:
    """Raises InvalidRequest where `output` cannot get its name; before the work, for that may take an hour."""
    if kind != "folder":
        check_free(output, is_overwrite=is_overwrite)
    else:
        check_new_folder(output)


def extra_tensors(source: Checkpoint) -> dict[str, QTensor]:
    """Tensors of the source's GGUF that farthing has no use for, by the file's names: copied as they are."""
    if source.gguf is None:
        return {}
    experts = source.config.experts
    known = {source.file_name(name) for name in source.tensors}
    num_experts = experts.num_experts if experts else 0
    theirs = source.gguf.tensors
    return {name: t for name, t in theirs.items() if not known.intersection(part_names(name, num_experts))}


def output_tensors(
    source: Checkpoint, tensors: Mapping[str, tuple[str, int, int]], kind: OutputKind
) -> list[TensorInfo]:
    """The file's tensors, for `tensors` of our names with format, rows and columns each; then the source's extra ones.

    In a GGUF a layer's experts are one tensor. Raises InvalidRequest where they differ in format.
    """
    infos: dict[str, TensorInfo] = {}
    for ours, (format, rows, cols) in tensors.items():
        name = source.file_name(ours)
        fused = _EXPERT.fullmatch(name) if kind == "gguf" else None
        if fused is None:
            infos[name] = TensorInfo(name, (rows, cols) if rows > 1 else (cols,), format, (ours,))
            continue
        before = infos.get(fused[1], TensorInfo(fused[1], (0, rows, cols), format, ()))
        if before.format != format:
            both = f"{before.format} and {format}"
            raise InvalidRequest(f"{fused[1]} holds a layer's experts in one format, not {both}; write a .safetensors")
        parts = (*before.parts, ours)
        infos[fused[1]] = TensorInfo(fused[1], (len(parts), rows, cols), format, parts)
    for name, tensor in extra_tensors(source).items():
        assert source.gguf is not None
        infos[name] = TensorInfo(name, source.gguf.shapes[name], tensor.format, (name,))
    return list(infos.values())


@contextmanager
def open_output(
    source: Checkpoint, output: Path, infos: list[TensorInfo], format: str, *, is_overwrite: bool = False
) -> Iterator[ModelSink]:
    """A sink for all parts of `infos`, but the extra tensors, which are put already. The file or folder appears when
    the block has ended well. `format`: that of most weights.

    Raises InvalidRequest (exists, cannot be written, a format that a GGUF has no type for), UnsupportedModel.
    """
    kind = output_kind(source, output)
    if kind == "folder":
        with new_folder(output) as folder:
            _copy_files(source, folder, infos)
            layout = safetensors_layout(infos)
            with new_file(folder / "model.safetensors", layout.num_bytes) as file:
                yield from _filled(source, ModelSink(file, layout, source.norm_offset))
        return
    layout = _file_layout(source, kind, infos, format)
    with new_file(output, layout.num_bytes, is_overwrite=is_overwrite) as file:
        yield from _filled(source, ModelSink(file, layout))


def _filled(source: Checkpoint, sink: ModelSink) -> Iterator[ModelSink]:
    for name, tensor in extra_tensors(source).items():
        sink.put(name, tensor)
    yield sink
    sink.check()


def _file_layout(source: Checkpoint, kind: OutputKind, infos: list[TensorInfo], format: str) -> Layout:
    assert source.gguf is not None
    metadata = source.gguf.metadata
    if metadata.get("split.count", 1) not in (0, 1):
        raise UnsupportedModel(f"{source.path}: one part of a model in several files; join them with llama-gguf-split")
    values = gguf_values(source.gguf.raw_values, format)
    if kind == "gguf":
        return gguf_layout(values, infos, metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    return safetensors_layout(infos, gguf_values_section(values))


def _copy_files(source: Checkpoint, folder: Path, infos: list[TensorInfo]) -> None:
    """All of the source's files but its weights."""
    for path in sorted(source.path.iterdir()):
        is_weights = path.name.endswith(_WEIGHTS) or path.name.startswith(".")
        if path.is_file() and not is_weights and path.stat().st_size <= _MOST_COPIED_BYTES:
            shutil.copyfile(path, folder / path.name)
    if source.config.is_tied_head and any(info.parts == ("head",) for info in infos):
        untied = read_json(source.path / "config.json") | {"tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(untied, indent=2) + "\n")
