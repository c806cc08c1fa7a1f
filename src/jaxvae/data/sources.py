"""Sources: where examples come from. They are kept as they are stored, images as uint8.

A set is read whole, or, where it is too large for that and a `.npy` or a TFDS set, stays in its file.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxvae.data.preprocess import DynamicBinarization, Preprocess
from jaxvae.data.rows import FileRows, Range, RecordRows, read_if_small, select
from jaxvae.numerics import require, require_number
from jaxvae.quiet import quiet_absl
from jaxvae.typing import Rows, Shape, Support

Progress = Callable[[str], None]

# Examples that TFDS reads at once: one by one, it is several times slower.
_CHUNK = 1000


class Split(NamedTuple):
    """Some examples, as they are stored."""

    x: Rows  # [N, *event], uint8 or float32
    labels: np.ndarray | None  # [N] integers, where the set has them


class Dataset(NamedTuple):
    """A set of examples in its splits; a split that it lacks is None."""

    train: Split
    validation: Split | None
    test: Split | None
    values: Support  # what the stored entries can be: 0..255, 0..16, 0 and 1, or the range of the floats

    @property
    def event_shape(self) -> Shape:
        return self.train.x.shape[1:]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples in each split that there is."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(split.x) for name, split in splits.items() if split is not None}


class Source(NamedTuple):
    """What is known of a set before it is read, so that a mistake is found at once."""

    event_shape: Shape
    sizes: dict[str, int]  # the number of examples in each split that there is
    values: Support
    read: "Read"  # the set itself


class Read(Protocol):
    """Reads a set into memory, but for the splits of more than `memory` bytes that can stay in their file."""

    def __call__(self, progress: Progress, memory: float) -> Dataset: ...


@dataclasses.dataclass(frozen=True)
class Data:
    """Which examples, from where, and how they are preprocessed."""

    name: str = "digits"
    """`digits` (embedded in scikit-learn), the name of a TFDS image set, or the path of a .npy or .npz file."""
    data_dir: str | None = None
    """The folder of prepared TFDS sets; by default TFDS's own."""
    preprocess: Preprocess = DynamicBinarization()
    """`DynamicBinarization()`, `Dequantization()`, `Scaling()` or `Raw()`."""
    num_validation: int = 0
    """Examples to hold out from the end of the training split, where the set has no validation split of its own."""

    high: int | None = None
    """The largest value that a stored integer can have; None: 16 for the digits, 1 for images that hold nothing else
    than 0 and 1, otherwise 255."""

    def __post_init__(self) -> None:
        require_number(self, "num_validation", low=0, integer=True)
        if self.high is not None:
            require_number(self, "high", low=1, high=255, integer=True)

    def absolute(self) -> "Data":
        """The same, wherever it is read from: paths are made absolute."""
        name = str(pathlib.Path(self.name).absolute()) if self._is_file else self.name
        data_dir = None if self.data_dir is None else str(pathlib.Path(self.data_dir).absolute())
        return dataclasses.replace(self, name=name, data_dir=data_dir)

    @property
    def _is_file(self) -> bool:
        return self.name.endswith((".npy", ".npz"))


def find(data: Data) -> Source:
    """Finds a set, and what can be said of it without reading all of it.

    Raises:
      ValueError: there is no such set or file, it is not prepared, or its values are not what can be learned from.
    """
    if data.name == "digits":
        source = _from(_load_digits())
    elif data._is_file:
        source = _from(_open_numpy(pathlib.Path(data.name)))
    else:
        source = _find_tfds(data.name, data.data_dir)
    source = _hold_out(source, data.num_validation)
    return source if data.high is None else _with_high(source, data.high)


def load(data: Data, *, memory: float = math.inf, progress: Progress = lambda line: None) -> Dataset:
    """Reads a set into memory, as it is stored.

    Args:
      data: which one.
      memory: the bytes that a split may take. A larger one of a `.npy` or a TFDS set stays in its file, and its rows
        are read when they are indexed.
      progress: is called with a line before work that takes more than a moment.

    Raises:
      ValueError: see `find`.
    """
    return find(data).read(progress, memory)


def _from(dataset: Dataset) -> Source:
    def read(progress: Progress, memory: float) -> Dataset:
        splits: dict[str, Any] = {
            name: split._replace(x=read_if_small(split.x, memory))
            for name, split in dataset._asdict().items()
            if isinstance(split, Split)
        }
        return dataset._replace(**splits)

    return Source(dataset.event_shape, dataset.sizes, dataset.values, read)


def _with_high(source: Source, high: int) -> Source:
    """The source with another largest value than the one that was found."""
    require(source.values.integer, f"data.high is {high}, and the data are floats with values in {source.values}")

    def read(progress: Progress, memory: float) -> Dataset:
        dataset = source.read(progress, memory)
        largest = max(Range.of(split.x).high for split in dataset[:3] if split is not None)
        require(largest <= high, f"data.high is {high}, and the data has a value of {largest:g}")
        return dataset._replace(values=source.values._replace(high=float(high)))

    return source._replace(values=source.values._replace(high=float(high)), read=read)


def _hold_out(source: Source, num: int) -> Source:
    """The source with the last `num` training examples for validation, if it has no split for that."""
    if "validation" in source.sizes or num == 0:
        return source
    left = source.sizes["train"] - num
    require(left > 0, f"data.num_validation is {num}, and there are {left + num} training examples; hold out fewer")

    def read(progress: Progress, memory: float) -> Dataset:
        dataset = source.read(progress, memory)
        x, labels = dataset.train
        first, last = np.split(np.arange(left + num), [left])
        return dataset._replace(
            train=Split(select(x, first), None if labels is None else labels[:left]),
            validation=Split(read_if_small(select(x, last), memory), None if labels is None else labels[left:]),
        )

    return source._replace(sizes=source.sizes | {"train": left, "validation": num}, read=read)


def _split_by_index(x: Rows, labels: np.ndarray | None) -> tuple[Split, Split, Split]:
    """Example i goes to validation if i mod 7 = 5, to test if i mod 7 = 6, else to training.

    A prime, because sets are stored with periods: the digits come as 0, 1, ..., 9, 0, 1, ...
    """
    require(len(x) >= 7, f"there are {len(x)} examples; seven are needed to have one in each split")
    group = np.arange(len(x)) % 7
    parts = (np.flatnonzero(mask) for mask in (group < 5, group == 5, group == 6))
    train, validation, test = (Split(select(x, p), None if labels is None else labels[p]) for p in parts)
    return train, validation, test


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)  # [1797, 8, 8, 1], 0..16
    return Dataset(*_split_by_index(images, digits.target), values=Support(0.0, 16.0, integer=True))


def _open_numpy(path: pathlib.Path) -> Dataset:
    """`.npy`: one array, split by index, that stays in the file. `.npz`: `train` and `test` (and `validation`), or `x`.

    Labels, where there are any, are `train_labels`, `validation_labels`, `test_labels`, or `labels` beside `x`.
    """
    require(path.is_file(), f"there is no file {path}; write the path of a .npy or .npz file in data.name")
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except Exception as error:
        raise ValueError(f"{path} can't be read as a NumPy file: {str(error).splitlines()[0]}") from error
    name = "x" if "x" in arrays else "train"
    require(name in arrays, f"{path} has the arrays {sorted(arrays)}; it needs `x`, or `train` and `test`")
    names = [n for n in (name, "validation", "test") if n in arrays and (n == name or name == "train")]
    found = {n: _as_examples(path, n, arrays[n]) for n in names}
    values = _values(found[name][0].dtype, Range.joined(*(r for _, r in found.values())))
    if name == "x":
        x, _ = found["x"]
        return Dataset(*_split_by_index(x, _as_labels(path, "labels", arrays, "x")), values=values)
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
    integer = x.dtype == bool or np.issubdtype(x.dtype, np.integer)
    require(
        integer or np.issubdtype(x.dtype, np.floating),
        f"{path}: `{name}` has the type {x.dtype}; write uint8 or float32",
    )
    shape = x.shape[1:] + (1,) if x.ndim == 3 else x.shape[1:]
    dtype = np.dtype(np.uint8 if integer else np.float32)
    if isinstance(x, np.memmap):
        kept: Rows = FileRows(path, x, shape, dtype)
    else:
        kept = x.reshape(-1, *shape).astype(dtype, copy=False)
    values = Range.of(x if integer else kept)
    require(
        not integer or (values.low >= 0 and values.high <= 255),
        f"{path}: `{name}` has integers from {values.low:.0f} to {values.high:.0f}; write 0..255, or floats",
    )
    require(
        values.num_bad == 0,
        f"{path}: `{name}` has {values.num_bad} values that are NaN or infinite; remove or replace them",
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


def _values(dtype: np.dtype, found: Range) -> Support:
    """Integers are 0 and 1 where no split has more, else 0..255: an image format has no other way of saying so."""
    if dtype == np.uint8:
        return Support(0.0, 1.0 if found.binary else 255.0, integer=True)
    within = found.low >= 0 and found.high <= 1
    low, high = (0.0, 1.0) if within else (found.low, found.high)
    return Support(low, high, integer=found.binary)


def _find_tfds(name: str, data_dir: str | None) -> Source:
    try:
        with quiet_absl():
            import tensorflow_datasets as tfds

            builder = tfds.builder(name, data_dir=data_dir)
            prepared = builder.is_prepared()
    except Exception as error:
        raise ValueError(
            f"there is no set {name!r} (data.name): write `digits`, a TFDS image set such as `mnist`, or a path that "
            f"ends in .npy or .npz ({type(error).__name__})"
        ) from error
    how = f"tfds build {name} --file_format=array_record"
    require(
        prepared,
        f"the TFDS set {name!r} is not prepared in {builder.data_path.parent.parent}: name the "
        "folder where it is (--config.data.data_dir=DIR, or --data-dir=DIR), or prepare it: "
        f"pip install 'jaxvae[prepare]' && {how}",
    )
    features = builder.info.features
    image = next((k for k, f in features.items() if isinstance(f, tfds.features.Image)), None)
    label = next((k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)), None)
    require(image is not None, f"the TFDS set {name!r} has no image among its features {sorted(features)}")
    shape = features[image].shape
    require(
        None not in shape and features[image].np_dtype == np.uint8,
        f"the images of {name!r} are {features[image].np_dtype} of shape {shape}; the library needs uint8 of one size",
    )
    sizes = {k: builder.info.splits[k].num_examples for k in Dataset._fields if k in builder.info.splits}
    require("train" in sizes, f"the TFDS set {name!r} has no split `train`, but {sorted(builder.info.splits)}")
    try:
        sources = {k: builder.as_data_source(split=k) for k in sizes}
        first = np.stack([example[image] for example in _examples(sources["train"], 0, 100)])
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"the TFDS set {name!r} can't be read ({reason[0]}): prepare it again, {how}") from error

    def read(progress: Progress, memory: float) -> Dataset:
        splits, ranges = {}, []
        for k, source in sources.items():
            progress(f"reading {len(source):,} examples of {name} ({k})")
            stored = RecordRows(name, source, str(image), shape)
            x = np.empty(stored.shape, np.uint8) if stored.nbytes <= memory else None
            labels = np.zeros(len(source), np.int64)
            for start in range(0, len(source), _CHUNK):
                examples = _examples(source, start, start + _CHUNK)
                stop, images = start + len(examples), np.stack([example[image] for example in examples])
                ranges.append(Range.of(images))
                if x is not None:
                    x[start:stop] = images
                if label is not None:
                    labels[start:stop] = [example[label] for example in examples]
            splits[k] = Split(stored if x is None else x, None if label is None else labels)
        values = _values(np.dtype(np.uint8), Range.joined(*ranges))
        return Dataset(splits["train"], splits.get("validation"), splits.get("test"), values)

    return Source(shape, sizes, _values(first.dtype, Range.of(first)), read)


def _examples(source: Any, start: int, stop: int) -> Any:
    """The examples from `start` to before `stop`, or to the end."""
    with quiet_absl():
        return source.__getitems__(range(start, min(stop, len(source))))
