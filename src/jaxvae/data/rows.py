"""Rows that stay in storage until they are indexed, and statistics of rows that are computed piece by piece."""

import abc
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvae.checks import reason, require
from jaxvae.typing import Rows, Shape

_Function = Callable[[np.ndarray], np.ndarray]  # maps some rows, each independently

# The size of a piece: large enough for few calls, small enough for little memory.
_PIECE_BYTES = 2**24


class StoredRows(abc.ABC):
    """Examples [N, *event] that are read when they are indexed; any number of threads may index them.

    Raises:
      OSError: on indexing, the examples can no longer be read.
    """

    def __init__(self, shape: Shape, dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray:
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        return self._read(index.reshape(-1)).reshape(*index.shape, *self.shape[1:])

    @abc.abstractmethod
    def _read(self, rows: np.ndarray) -> np.ndarray:
        """The rows [n], as [n, *event]."""


class FileRows(StoredRows):
    """The rows of a memory-mapped `.npy`; only the rows that are indexed are read."""

    def __init__(self, path: pathlib.Path, mapped: np.memmap, event_shape: Shape, dtype: np.dtype) -> None:
        super().__init__((len(mapped), *event_shape), dtype)
        self._path, self._array = path, np.asarray(mapped)
        self._file: Any = mapped.base
        self._file_bytes = mapped.offset + mapped.nbytes

    def _read(self, rows: np.ndarray) -> np.ndarray:
        # Reading a memory map past the end of a truncated file kills the process with SIGBUS, so check the size first.
        there = self._file.size()
        if there < self._file_bytes:
            had = f"it had {self._file_bytes:,} bytes, and now has {there:,}"
            raise OSError(f"{self._path} was truncated while it was in use ({had}); put the whole file back")
        # If the rows are not contiguous, `take` would first copy the whole array.
        read = self._array.take(rows, axis=0) if self._array.flags.c_contiguous else self._array[rows]
        with np.errstate(over="ignore"):  # values that overflow to infinity are refused
            return read.astype(self.dtype, copy=False)


class RecordRows(StoredRows):
    """The images of a TFDS data source, decoded as they are read."""

    def __init__(self, name: str, source: Any, image: str, shape: Shape) -> None:
        super().__init__((len(source), *shape), np.dtype(np.uint8))
        self._name, self._source, self._image = name, source, image

    def _read(self, rows: np.ndarray) -> np.ndarray:
        try:
            examples = self._source.__getitems__(rows.tolist())
            return stacked(self._name, examples, self._image, self.shape[1:])
        except Exception as error:
            raise OSError(f"the TFDS set {self._name!r} can no longer be read ({reason(error)})") from error


def stacked(name: str, examples: Sequence[Any], image: str, shape: Shape) -> np.ndarray:
    """The images [n, *shape] of some examples of a TFDS set.

    Raises:
      ValueError: one of them has another shape.
    """
    images = [example[image] for example in examples]
    other = next((i.shape for i in images if i.shape != shape), None)
    require(
        other is None,
        f"the TFDS set {name!r} has an image of shape {other}, but declares {shape}; prepare it again, with images of "
        "one shape",
    )
    return np.stack(images)


class SelectedRows(StoredRows):
    """A selection of other stored rows, in a given order."""

    def __init__(self, stored: StoredRows, rows: np.ndarray) -> None:
        super().__init__((len(rows), *stored.shape[1:]), stored.dtype)
        self._stored, self._rows = stored, rows

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self._stored[self._rows[rows]]


def select(x: Rows, rows: slice | np.ndarray) -> Rows:
    """A slice of x, or its rows [n]; rows that are not in memory are not read."""
    if not isinstance(x, StoredRows):
        return x[rows]
    return SelectedRows(x, np.arange(*rows.indices(len(x))) if isinstance(rows, slice) else rows)


def read_if_small(x: Rows, memory: float) -> Rows:
    """x in memory if it takes at most `memory` bytes there, else x itself."""
    return x[:] if x.nbytes <= memory else x


def pieces(x: Rows) -> Iterator[np.ndarray]:
    """All rows in order, in pieces of a bounded number of bytes.

    Raises:
      ValueError: there are no rows.
    """
    require(x.nbytes > 0, f"x has the shape {x.shape}; write one row or more")
    step = max(1, _PIECE_BYTES * len(x) // x.nbytes)
    return (np.asarray(x[start : start + step]) for start in range(0, len(x), step))


def mean(x: Rows, *, of: _Function | None = None) -> np.ndarray:
    """The mean over all rows of the observed entries: [*event] in float64; 0 where no entry was observed.

    With `of`, the mean of `of(rows)`.

    Raises:
      ValueError: there are no rows.
    """
    total, count = np.zeros(x.shape[1:]), np.zeros(x.shape[1:], np.int64)
    for piece in _mapped(x, of):
        observed = _observed(piece)
        total += piece.sum(axis=0, dtype=np.float64, where=observed)
        count += len(piece) if observed.size == 1 else observed.sum(axis=0)
    return total / np.maximum(count, 1)


def std(x: Rows, *, of: _Function | None = None) -> np.ndarray:
    """The standard deviation over all rows of the observed entries: [*event] in float64; 0 where none was observed.

    It takes one pass over the rows, and is exactly 0 where all are equal. `of` is as in `mean`.

    Raises:
      ValueError: there are no rows.
    """
    shape = x.shape[1:]
    first, seen = np.zeros(shape), np.zeros(shape, bool)
    count, centre, squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for piece in _mapped(x, of):
        observed = np.broadcast_to(_observed(piece), piece.shape)
        num = observed.sum(axis=0)
        here = np.take_along_axis(piece, observed.argmax(axis=0)[None], axis=0)[0]
        first, seen = np.where(seen | (num == 0), first, here), seen | (num > 0)
        # Deviations are from the first row, so that entries that are the same in all rows give 0 without rounding
        # error. The pieces are combined as in Chan, Golub and LeVeque (1983).
        away = np.where(observed, piece - first, 0.0)
        its_centre = away.sum(axis=0) / np.maximum(num, 1)
        squares += np.sum(np.square(away - its_centre), axis=0, where=observed)
        step, total = its_centre - centre, np.maximum(count + num, 1)
        squares += np.square(step) * count * num / total
        centre += step * num / total
        count += num
    return np.sqrt(squares / np.maximum(count, 1))


def _mapped(x: Rows, function: _Function | None) -> Iterator[np.ndarray]:
    return pieces(x) if function is None else map(function, pieces(x))


def _observed(x: np.ndarray) -> np.ndarray:
    return ~np.isnan(x) if np.issubdtype(x.dtype, np.floating) else np.ones((1,) * x.ndim, bool)


class Range(NamedTuple):
    """The range of the entries of some examples."""

    low: float
    high: float
    whole: bool  # all observed entries are whole numbers
    num_missing: int = 0  # how many are NaN

    @property
    def binary(self) -> bool:
        """Whether all entries are 0 or 1."""
        return self.whole and self.low >= 0 and self.high <= 1

    @classmethod
    def of(cls, x: Rows) -> "Range":
        return cls.joined(*(cls._of(piece) for piece in pieces(x)))

    @classmethod
    def _of(cls, x: np.ndarray) -> "Range":
        if not np.issubdtype(x.dtype, np.floating):
            return cls(float(x.min()), float(x.max()), True)
        missing = np.isnan(x)
        num_missing = int(np.count_nonzero(missing))
        if num_missing == x.size:
            return cls(math.inf, -math.inf, True, num_missing)
        whole = bool(np.all((x == np.round(x)) | missing))
        low, high = (float(f.reduce(x, axis=None)) for f in (np.fmin, np.fmax))
        return cls(low, high, whole, num_missing)

    @classmethod
    def joined(cls, *ranges: "Range") -> "Range":
        low, high, whole, num_missing = zip(*ranges, strict=True)
        return cls(min(low), max(high), all(whole), sum(num_missing))
