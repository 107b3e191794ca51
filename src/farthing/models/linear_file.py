"""linear.npz: a linear model on disk, of its columns only those that say something.

    columns [n] int32, ascending · idf [n] · weights [n, num_labels] · offsets [num_labels] · other_idf, of all others

All numbers are float32, so that what is read is bit for bit what was trained.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing.errors import CorruptModel, ModelNotFound
from farthing.models.linear import NUM_COLUMNS, Linear

__all__ = ["read_linear", "write_linear"]

_SHAPES = {"columns": 1, "idf": 1, "weights": 2, "offsets": 1, "other_idf": 0}  # number of dimensions
_MOST_BYTES = 1 << 31  # of one array


def write_linear(path: Path, linear: Linear) -> None:
    """The same bytes of the same model."""
    other_idf = linear.idf.max()  # of a column that no text had
    columns = np.flatnonzero((linear.idf != other_idf) | linear.weights.any(axis=1))
    np.savez(
        path,
        columns=columns.astype(np.int32),
        idf=linear.idf[columns],
        weights=linear.weights[columns],
        offsets=linear.offsets,
        other_idf=other_idf,
    )


def read_linear(path: Path, num_labels: int) -> Linear:
    """Raises ModelNotFound, and CorruptModel for other labels and what `write_linear` does not write. Nothing is
    unpickled."""
    arrays = _arrays(path)
    columns, idf, weights, offsets = (arrays[name] for name in ("columns", "idf", "weights", "offsets"))
    if len(offsets) != num_labels:
        raise CorruptModel(f"{path}: is of {len(offsets)} labels, {num_labels} are needed; write it anew")
    if (len(idf), *weights.shape) != (len(columns), len(columns), num_labels):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise CorruptModel(f"{path}: its arrays do not fit each other ({shapes}); write it anew")
    if len(columns) and not (columns[0] >= 0 and columns[-1] < NUM_COLUMNS and (np.diff(columns) > 0).all()):
        raise CorruptModel(f"{path}: its columns do not ascend from 0 to {NUM_COLUMNS - 1}; write it anew")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise CorruptModel(f"{path}: holds values that are not finite numbers; write it anew")
    all_idf = np.full(NUM_COLUMNS, arrays["other_idf"], np.float32)
    all_weights = np.zeros((NUM_COLUMNS, num_labels), np.float32)  # takes memory where it is written
    all_idf[columns], all_weights[columns] = idf, weights
    return Linear(all_idf, all_weights, offsets)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            if sizes.keys() != _SHAPES.keys() or max(sizes.values()) > _MOST_BYTES:
                raise CorruptModel(f"{path} is no linear model; it needs the arrays {', '.join(_SHAPES)} alone")
            file.seek(0)
            with np.load(file, allow_pickle=False) as found:
                arrays = {name: found[name] for name in _SHAPES}
    except OSError as error:
        raise ModelNotFound(f"{path}: cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CorruptModel(f"{path} is damaged, or no linear model ({error}); write it anew") from None
    for name, array in arrays.items():
        dtype = np.int32 if name == "columns" else np.float32
        if array.ndim != _SHAPES[name] or array.dtype != dtype:
            raise CorruptModel(f"{path}: {name} is {array.dtype} {array.shape}; {np.dtype(dtype)} is needed")
    return arrays
