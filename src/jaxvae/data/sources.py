"""Sources of examples. Examples are kept as they are stored, images as uint8.

A set is read into memory. If it is too large for that and is a `.npy` or a TFDS set, it stays in its file.
"""

import dataclasses
import math
import os
import pathlib

import numpy as np

from jaxvae.checks import require, require_number
from jaxvae.data.dataset import Dataset, Progress, Source, Split, opened, split_by_index
from jaxvae.data.numpy_file import open_numpy
from jaxvae.data.preprocess import DynamicBinarization, Preprocess
from jaxvae.data.rows import Range, read_if_small, select
from jaxvae.data.tfds_set import find_tfds
from jaxvae.typing import Support


@dataclasses.dataclass(frozen=True)
class Data:
    """The set of examples, its location, and its preprocessing."""

    name: str = "digits"
    """`digits` (embedded in scikit-learn), the name of a TFDS image set, or the path of a .npy or .npz file."""
    data_dir: str | None = None
    """The folder of prepared TFDS sets; by default TFDS's own."""
    preprocess: Preprocess = DynamicBinarization()
    """`DynamicBinarization()`, `Dequantization()`, `Scaling()` or `Raw()`."""
    num_validation: int = 0
    """Examples to hold out from the end of the training split, if the set has no validation split."""
    high: int | None = None
    """The largest value that a stored integer can have; None: 16 for the digits, 1 for images of 0 and 1 only, else
    255."""

    def __post_init__(self) -> None:
        for name, value in (("name", self.name), ("data_dir", self.data_dir)):
            path = os.fspath(value) if isinstance(value, os.PathLike) else value
            missing = name == "data_dir" and path is None
            require(isinstance(path, str) or missing, f"Data.{name} is {value!r}; write a string")
            object.__setattr__(self, name, path if path is None else os.path.expanduser(path))
        require_number(self, "num_validation", low=0, integer=True)
        require_number(self, "high", low=1, high=255, integer=True, optional=True)

    def absolute(self) -> "Data":
        """The same data with absolute paths, independent of the working directory."""
        name = _absolute(self.name) if self.is_file else self.name
        data_dir = None if self.data_dir is None else _absolute(self.data_dir)
        return dataclasses.replace(self, name=name, data_dir=data_dir)

    def moved_to(self, folder: str) -> "Data":
        """The same data in another folder, which holds the prepared TFDS sets or the file."""
        if self.is_file:
            return dataclasses.replace(self, name=str(pathlib.Path(folder) / pathlib.Path(self.name).name))
        return dataclasses.replace(self, data_dir=folder)

    @property
    def is_file(self) -> bool:
        return self.name.endswith((".npy", ".npz"))


def _absolute(path: str) -> str:
    return path if "://" in path else str(pathlib.Path(path).absolute())


def find(data: Data) -> Source:
    """Finds a set and its properties; a file is scanned in full for them, a TFDS set is not.

    Raises:
      ValueError: the set or file does not exist, is not prepared, or has values that can't be learned from.
    """
    require(isinstance(data, Data), f"data is {data!r:.100}; write jaxvae.Data(name=...)")
    if data.name == "digits":
        source = opened(_load_digits())
    elif data.is_file:
        source = opened(open_numpy(pathlib.Path(data.name)))
    else:
        source = find_tfds(data.name, data.data_dir)
    source = _hold_out(source, data.num_validation)
    return source if data.high is None else _with_high(source, data.high)


def load(data: Data, *, memory: float = math.inf, progress: Progress = lambda line: None) -> Dataset:
    """Reads a set into memory, as it is stored.

    Args:
      data: the set.
      memory: the bytes that a split may take. A larger split of a `.npy` or a TFDS set stays in its file, and its rows
        are read when they are indexed.
      progress: called with a line before slow work.

    Raises:
      ValueError: see `find`.
    """
    return find(data).read(progress, memory)


def _with_high(source: Source, high: int) -> Source:
    """The source with `high` as the largest value, instead of the one that was found."""
    require(source.values.integer, f"data.high is {high}, but the data are floats with values in {source.values}")

    def read(progress: Progress, memory: float) -> Dataset:
        dataset = source.read(progress, memory)
        largest = max(Range.of(split.x).high for split in dataset.splits.values())
        require(largest <= high, f"data.high is {high}, but the data has a value of {largest:g}; write at least that")
        return dataset._replace(values=source.values._replace(high=float(high)))

    return source._replace(values=source.values._replace(high=float(high)), read=read)


def _hold_out(source: Source, num: int) -> Source:
    """The source with the last `num` training examples as its validation split, if it has none."""
    if "validation" in source.sizes or num == 0:
        return source
    left = source.sizes["train"] - num
    require(left > 0, f"data.num_validation is {num}, but there are {left + num} training examples; hold out fewer")

    def read(progress: Progress, memory: float) -> Dataset:
        dataset = source.read(progress, memory)
        x, labels = dataset.train
        return dataset._replace(
            train=Split(select(x, slice(left)), None if labels is None else labels[:left]),
            validation=Split(
                read_if_small(select(x, slice(left, None)), memory), None if labels is None else labels[left:]
            ),
        )

    return source._replace(sizes=source.sizes | {"train": left, "validation": num}, read=read)


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)  # [1797, 8, 8, 1], 0..16
    return Dataset(*split_by_index(images, digits.target), values=Support(0.0, 16.0, integer=True))
