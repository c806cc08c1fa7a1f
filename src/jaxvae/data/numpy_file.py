"""Sets in the user's own NumPy files."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxvae.checks import reason, require
from jaxvae.data.dataset import SPLITS, Dataset, Split, split_by_index, values_of
from jaxvae.data.rows import FileRows, Range, mean, std
from jaxvae.typing import Rows

_WHOLE = "biu"  # `dtype.kind` of booleans and integers
_TAKEN = ({"x", "labels"}, {*SPLITS, *(f"{split}_labels" for split in SPLITS)})
_MOST_ROUNDED = 0.015  # rounding error in standard deviations: it adds 0.02 % to the variance
_MOST = 2**24  # float32 represents all whole numbers up to this one


def open_numpy(path: pathlib.Path) -> Dataset:
    """Opens a `.npy` (one array, split by index; it stays in the file) or a `.npz` (`x`, or `train` and other splits).

    The other splits are `validation` and `test`. Labels are optional: `train_labels`, `validation_labels` and
    `test_labels`, or `labels` beside `x`.
    """
    require(
        path.is_file(),
        f"there is no file {path}; write the path of a .npy or .npz file in data.name, or, if a "
        "trained run's data were moved, their new folder: --data-dir=DIR",
    )
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        found = loaded if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
        names = sorted(found)
        labelled = {name.removesuffix("_labels") for name in names} - {"labels"}
        used = any(taken.issuperset(names) for taken in _TAKEN) and labelled.issubset(names)
        arrays = dict(found) if used else {}
    except Exception as error:
        raise _unreadable(path, error) from error
    name = "x" if "x" in arrays else "train"
    require(
        name in arrays,
        f"{path} has the arrays {names}; write `x`, with `labels` if there are any, or `train`, `validation` and "
        "`test`, with `train_labels` and so on, and nothing else",
    )
    examples = [n for n in (name, "validation", "test") if n in arrays]
    ranges = {n: _looked_at(path, n, arrays[n]) for n in examples}
    _require_float32_has_it(path, examples, arrays)
    joined = Range.joined(*ranges.values())
    whole = all(arrays[n].dtype.kind in _WHOLE for n in examples)
    # One dtype for all splits: a split of counts may have no large ones by chance.
    dtype = np.dtype(np.uint8 if whole and joined.high <= 255 else np.float32)
    kept = {n: _as_kept(path, arrays[n], dtype) for n in examples}
    values = values_of(dtype, joined)
    if name == "x":
        x = kept["x"]
        require(
            len(x) >= 7,
            f"{path} has {len(x)} examples; write at least seven, so that each split has one, or an .npz with "
            "`train` and `test`",
        )
        return Dataset(*split_by_index(x, _as_labels(path, "labels", arrays, "x")), values=values)
    splits = {n: Split(x, _as_labels(path, f"{n}_labels", arrays, n)) for n, x in kept.items()}
    train = splits["train"]
    for name, split in splits.items():
        require(
            split.x.shape[1:] == train.x.shape[1:]
            and (arrays[name].dtype.kind in _WHOLE) == (arrays["train"].dtype.kind in _WHOLE),
            f"{path}: the examples of `{name}` and of `train` differ in shape or type: {arrays[name].shape[1:]} of "
            f"{arrays[name].dtype} and {arrays['train'].shape[1:]} of {arrays['train'].dtype}",
        )
    return Dataset(train, splits.get("validation"), splits.get("test"), values)


def read_examples(path: str | os.PathLike[str]) -> tuple[Rows, Range]:
    """The one array of a `.npy` file in its stored order, kept as by `open_numpy`, and the range of its values.

    Raises:
      ValueError: the file does not exist or does not hold examples.
    """
    path = pathlib.Path(path)
    require(path.is_file(), f"there is no file {path}")
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise _unreadable(path, error) from error
    require(isinstance(x, np.ndarray), f"{path} is an .npz; write one array, by numpy.save")
    found = _looked_at(path, "x", x)
    return _as_kept(path, x, np.dtype(np.uint8 if x.dtype.kind in _WHOLE and found.high <= 255 else np.float32)), found


def _unreadable(path: pathlib.Path, error: Exception) -> ValueError:
    said = "it is not one, or holds objects" if "pickle" in str(error) else reason(error)
    return ValueError(f"{path} can't be read as a NumPy file ({said}); write numbers, with numpy.save or numpy.savez")


def _looked_at(path: pathlib.Path, name: str, x: np.ndarray) -> Range:
    """Checks that an array holds examples, and returns the range of all its values."""
    require(
        x.ndim in (2, 3, 4) and x.size > 0,
        f"{path}: `{name}` has the shape {x.shape}; write [examples, height, width], "
        "[examples, height, width, channels] or [examples, features]",
    )
    integer = x.dtype.kind in _WHOLE  # np.issubdtype counts timedelta64 among the integers
    require(
        integer or np.issubdtype(x.dtype, np.floating),
        f"{path}: `{name}` has the type {x.dtype}; write uint8 or float32",
    )
    # A finite float64 may be infinite in float32.
    found = Range.of(x) if integer else Range.of(_as_kept(path, x, np.dtype(np.float32)))
    require(
        not integer or (found.low >= 0 and found.high <= _MOST),
        f"{path}: `{name}` has integers from {found.low:.0f} to {found.high:.0f}; write 0..255, counts up to {_MOST}, "
        "or floats",
    )
    require(found.num_missing < x.size, f"{path}: all of `{name}` is NaN; write the observed values")
    require(
        math.isfinite(found.low) and math.isfinite(found.high),
        f"{path}: `{name}` has values that are infinite, at least in float32 (over 3.4e38); remove or replace them, or "
        "rescale",
    )
    return found


def _require_float32_has_it(path: pathlib.Path, names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses examples whose variation is lost by rounding to float32.

    Each feature is compared with its standard deviation in training, the first of `names`. The pixels of an image share
    a unit, so they are compared with the largest standard deviation of a pixel.
    """
    moments, trained_on = None, arrays[names[0]]
    for name in names:
        x = arrays[name]
        if x.dtype.kind != "f" or x.dtype.itemsize <= 4 or x.shape[1:] != trained_on.shape[1:]:
            continue
        rows = _as_kept(path, x, x.dtype)
        rounded = np.sqrt(mean(rows, of=lambda piece: np.square(piece - piece.astype(np.float32))))
        if not rounded.any():
            continue
        if moments is None:
            train = _as_kept(path, trained_on, x.dtype)
            moments = mean(train), std(train)
        centre, spread = moments
        lost = rounded > _MOST_ROUNDED * (spread if x.ndim == 2 else spread.max())
        # An entry that varies only in the last digits of a float64 counts as constant.
        lost &= spread > 1e-12 * np.abs(centre)
        if lost.any():
            entry = tuple(map(int, np.argwhere(lost)[0]))
            where = entry[0] if len(entry) == 1 else entry
            raise ValueError(
                f"{path}: entry {where} is {centre[entry]:.6g} ± {spread[entry]:.2g} in `{names[0]}`, and float32 "
                f"rounds off {rounded[entry]:.2g} of it in `{name}`; subtract the examples' common offset, or save it "
                "as float32 to accept the loss"
            )


def _as_kept(path: pathlib.Path, x: np.ndarray, dtype: np.dtype) -> Rows:
    shape = x.shape[1:] + (1,) if x.ndim == 3 else x.shape[1:]
    if isinstance(x, np.memmap):
        return FileRows(path, x, shape, dtype)
    with np.errstate(over="ignore"):  # values that overflow to infinity are refused
        kept: np.ndarray = x.reshape(-1, *shape).astype(dtype, copy=False)
    return kept


def _as_labels(path: pathlib.Path, name: str, arrays: dict[str, np.ndarray], of: str) -> np.ndarray | None:
    labels = arrays.get(name)
    if labels is None:
        return None
    require(
        labels.shape == arrays[of].shape[:1],
        f"{path}: `{name}` has the shape {labels.shape}; write one label for each of the {len(arrays[of])} examples",
    )
    return np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
