"""Sets in the user's own NumPy files."""

import math
import pathlib

import numpy as np

from jaxvae.data.dataset import Dataset, Split, split_by_index, values_of
from jaxvae.data.rows import FileRows, Range
from jaxvae.numerics import reason, require
from jaxvae.typing import Rows

_MOST = 2**24  # up to there a float32 has all whole numbers


def open_numpy(path: pathlib.Path) -> Dataset:
    """`.npy`: one array, split by index, that stays in the file. `.npz`: `train` and `test` (and `validation`), or `x`.

    Labels, where there are any, are `train_labels`, `validation_labels`, `test_labels`, or `labels` beside `x`.
    """
    require(path.is_file(), f"there is no file {path}; write the path of a .npy or .npz file in data.name")
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except Exception as error:
        raise ValueError(
            f"{path} can't be read as a NumPy file ({reason(error)}); write it with numpy.save or numpy.savez, of "
            "numbers"
        ) from error
    name = "x" if "x" in arrays else "train"
    require(name in arrays, f"{path} has the arrays {sorted(arrays)}; it needs `x`, or `train` and `test`")
    names = [n for n in (name, "validation", "test") if n in arrays and (n == name or name == "train")]
    found = {n: _as_examples(path, n, arrays[n]) for n in names}
    values = values_of(found[name][0].dtype, Range.joined(*(r for _, r in found.values())))
    if name == "x":
        x, _ = found["x"]
        require(
            len(x) >= 7,
            f"{path}: there are {len(x)} examples; seven are needed to have one in each split, or write an .npz with "
            "`train` and `test`",
        )
        return Dataset(*split_by_index(x, _as_labels(path, "labels", arrays, "x")), values=values)
    splits = {n: Split(x, _as_labels(path, f"{n}_labels", arrays, n)) for n, (x, _) in found.items()}
    train = splits["train"]
    for name, split in splits.items():
        require(
            (split.x.shape[1:], split.x.dtype) == (train.x.shape[1:], train.x.dtype),
            f"{path}: the examples of `{name}` and of `train` differ in shape or type",
        )
    return Dataset(train, splits.get("validation"), splits.get("test"), values)


def _as_examples(path: pathlib.Path, name: str, x: np.ndarray) -> tuple[Rows, Range]:
    """The examples as they are kept, uint8 or float32, once all of them were looked at."""
    require(
        x.ndim in (2, 3, 4) and x.size > 0,
        f"{path}: `{name}` has the shape {x.shape}; write [examples, height, width], "
        "[examples, height, width, channels] or [examples, features]",
    )
    integer = x.dtype.kind in "biu"  # NumPy counts a time difference among its integers
    require(
        integer or np.issubdtype(x.dtype, np.floating),
        f"{path}: `{name}` has the type {x.dtype}; write uint8 or float32",
    )
    shape = x.shape[1:] + (1,) if x.ndim == 3 else x.shape[1:]
    found = Range.of(x)
    dtype = np.dtype(np.uint8 if integer and found.low >= 0 and found.high <= 255 else np.float32)
    if isinstance(x, np.memmap):
        kept: Rows = FileRows(path, x, shape, dtype)
    else:
        kept = x.reshape(-1, *shape).astype(dtype, copy=False)
    require(
        not integer or (found.low >= 0 and found.high <= _MOST),
        f"{path}: `{name}` has integers from {found.low:.0f} to {found.high:.0f}; write 0..255, counts up to {_MOST}, "
        "or floats",
    )
    values = found if integer else Range.of(kept)  # a float64 may be infinite as a float32
    require(values.num_missing < x.size, f"{path}: all of `{name}` is NaN; write what was observed")
    require(
        math.isfinite(values.low) and math.isfinite(values.high),
        f"{path}: `{name}` has values that are infinite; remove or replace them",
    )
    return kept, values


def _as_labels(path: pathlib.Path, name: str, arrays: dict[str, np.ndarray], of: str) -> np.ndarray | None:
    labels = arrays.get(name)
    if labels is None:
        return None
    require(
        labels.shape == arrays[of].shape[:1],
        f"{path}: `{name}` has the shape {labels.shape}; write one label for each of the {len(arrays[of])} examples",
    )
    return labels
