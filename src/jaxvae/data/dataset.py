"""A set of examples in its splits, and its properties that are known before it is read."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxvae.data.rows import Range, read_if_small, select
from jaxvae.fingerprints import describe
from jaxvae.typing import Rows, Shape, Support

Progress = Callable[[str], None]
KnownBy = dict[str, dict[str, Any]]  # see `Dataset.known_by`

SPLITS = ("train", "validation", "test")


class Split(NamedTuple):
    """Some examples, as they are stored."""

    x: Rows  # [N, *event], uint8 or float32
    labels: np.ndarray | None  # [N], integers, floats or strings; None: the set has none


class Dataset(NamedTuple):
    """A set of examples in its splits; a split that it lacks is None."""

    train: Split
    validation: Split | None
    test: Split | None
    values: Support  # of the stored entries: 0..255, 0..16, 0 and 1, or the range of the floats

    @property
    def event_shape(self) -> Shape:
        return self.train.x.shape[1:]

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in splits.items() if split is not None}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples in each split that exists."""
        return {name: len(split.x) for name, split in self.splits.items()}

    def known_by(self) -> KnownBy:
        """The data's fingerprint, as JSON.

        It has the shape, the type and the SHA-256 of up to 256 evenly spaced examples of each split, and the values of
        all examples, on which the preprocessing depends.
        """
        some = {name: np.linspace(0, num - 1, min(num, 256)).astype(np.int64) for name, num in self.sizes.items()}
        described = describe({name: split.x[some[name]] for name, split in self.splits.items()})
        own = {name: described[name] | {"shape": list(split.x.shape)} for name, split in self.splits.items()}
        return own | {"values": {"in": str(self.values)}}

    @property
    def held_out(self) -> tuple[str, Split]:
        """The test split, else the validation split, else the training split, with its name."""
        return list(self.splits.items())[-1]


class Source(NamedTuple):
    """The properties of a set that are known before it is read, so that mistakes are found at once."""

    event_shape: Shape
    sizes: dict[str, int]  # the number of examples in each split that exists
    values: Support
    read: "Read"  # reads the set itself


class Read(Protocol):
    """Reads a set into memory, except for splits of more than `memory` bytes that can stay in their file.

    `progress` is called with a line before slow work.
    """

    def __call__(self, progress: Progress, memory: float) -> Dataset: ...


def opened(dataset: Dataset) -> Source:
    """The source of a set whose splits are open; reading it loads the small ones into memory."""

    def read(progress: Progress, memory: float) -> Dataset:
        splits: dict[str, Any] = {
            name: split._replace(x=read_if_small(split.x, memory)) for name, split in dataset.splits.items()
        }
        return dataset._replace(**splits)

    return Source(dataset.event_shape, dataset.sizes, dataset.values, read)


def split_by_index(x: Rows, labels: np.ndarray | None) -> tuple[Split, Split, Split]:
    """Puts example i into validation if i mod 7 = 5, into test if i mod 7 = 6, else into training.

    There must be at least seven. Seven is prime, because stored sets are periodic: the digits repeat 0, 1, …, 9, 0, 1.
    """
    group = np.arange(len(x)) % 7
    parts = (np.flatnonzero(mask) for mask in (group < 5, group == 5, group == 6))
    train, validation, test = (Split(select(x, p), None if labels is None else labels[p]) for p in parts)
    return train, validation, test


def values_of(dtype: np.dtype, found: Range) -> Support:
    """The values that stored entries can take, from the range found in the examples.

    uint8: 0 and 1 if no entry is larger, else 0..255, since an image file does not state its range. Floats: [0, 1] if
    all lie in it; counts without a largest, if they are whole and not negative; else the range itself. NaN marks an
    entry that was not observed.
    """
    if dtype == np.uint8:
        return Support(0.0, 1.0 if found.binary else 255.0, integer=True)
    missing = found.num_missing > 0
    if found.low >= 0 and found.high <= 1:
        inside = found.low > 0 and found.high < 1
        return Support(0.0, 1.0, integer=found.whole, open=inside, missing=missing)
    if found.low >= 0 and found.whole:
        return Support(0.0, math.inf, integer=True, missing=missing)
    return Support(found.low, found.high, missing=missing)
