"""Sources: where examples come from. A set is read whole and kept as it is stored, images as uint8."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxvae.data.preprocess import DynamicBinarization, Preprocess
from jaxvae.numerics import require, require_number
from jaxvae.quiet import quiet_absl
from jaxvae.typing import Shape, Support

Progress = Callable[[str], None]


class Split(NamedTuple):
    """Some examples, as they are stored."""

    x: np.ndarray  # [N, *event], uint8 or float32
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
    read: Callable[[Progress], Dataset]  # the set itself; its argument is told what takes more than a moment


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
        source = _in_memory(_load_digits())
    elif data._is_file:
        source = _in_memory(_load_numpy(pathlib.Path(data.name)))
    else:
        source = _find_tfds(data.name, data.data_dir)
    source = _hold_out(source, data.num_validation)
    return source if data.high is None else _with_high(source, data.high)


def load(data: Data, *, progress: Progress = lambda line: None) -> Dataset:
    """Reads a whole set into memory, as it is stored.

    Args:
      data: which one.
      progress: is called with a line before work that takes more than a moment.

    Raises:
      ValueError: see `find`.
    """
    return find(data).read(progress)


def _in_memory(dataset: Dataset) -> Source:
    return Source(dataset.event_shape, dataset.sizes, dataset.values, lambda progress: dataset)


def _with_high(source: Source, high: int) -> Source:
    """The source with another largest value than the one that was found."""
    require(source.values.integer, f"data.high is {high}, and the data are floats with values in {source.values}")

    def read(progress: Progress) -> Dataset:
        dataset = source.read(progress)
        largest = max(split.x.max() for split in dataset[:3] if split is not None)
        require(largest <= high, f"data.high is {high}, and the data has a value of {largest}")
        return dataset._replace(values=source.values._replace(high=float(high)))

    return source._replace(values=source.values._replace(high=float(high)), read=read)


def _hold_out(source: Source, num: int) -> Source:
    """The source with the last `num` training examples for validation, if it has no split for that."""
    if "validation" in source.sizes or num == 0:
        return source
    left = source.sizes["train"] - num
    require(left > 0, f"data.num_validation is {num}, and there are {left + num} training examples; hold out fewer")

    def read(progress: Progress) -> Dataset:
        dataset = source.read(progress)
        x, labels = dataset.train
        return dataset._replace(
            train=Split(x[:left], None if labels is None else labels[:left]),
            validation=Split(x[left:], None if labels is None else labels[left:]),
        )

    return source._replace(sizes=source.sizes | {"train": left, "validation": num}, read=read)


def _split_by_index(x: np.ndarray, labels: np.ndarray | None) -> tuple[Split, Split, Split]:
    """Example i goes to validation if i mod 7 = 5, to test if i mod 7 = 6, else to training.

    A prime, because sets are stored with periods: the digits come as 0, 1, ..., 9, 0, 1, ...
    """
    require(len(x) >= 7, f"there are {len(x)} examples; seven are needed to have one in each split")
    group = np.arange(len(x)) % 7
    masks = (group < 5, group == 5, group == 6)
    train, validation, test = (Split(x[m], None if labels is None else labels[m]) for m in masks)
    return train, validation, test


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)  # [1797, 8, 8, 1], 0..16
    return Dataset(*_split_by_index(images, digits.target), values=Support(0.0, 16.0, integer=True))


def _load_numpy(path: pathlib.Path) -> Dataset:
    """`.npy`: one array, split by index. `.npz`: `train` and `test` (and `validation`), or one array, `x`.

    Labels, where there are any, are `train_labels`, `validation_labels`, `test_labels`, or `labels` beside `x`.
    """
    require(path.is_file(), f"there is no file {path}; write the path of a .npy or .npz file in data.name")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except Exception as error:
        raise ValueError(f"{path} can't be read as a NumPy file: {str(error).splitlines()[0]}") from error
    splits: tuple[Split, Split | None, Split | None]
    if "x" in arrays:
        splits = _split_by_index(_as_examples(path, "x", arrays["x"]), _as_labels(path, "labels", arrays, "x"))
    else:
        names = ("train", "validation", "test")
        require("train" in arrays, f"{path} has the arrays {sorted(arrays)}; it needs `x`, or `train` and `test`")
        found = {
            n: Split(_as_examples(path, n, arrays[n]), _as_labels(path, f"{n}_labels", arrays, n))
            for n in names
            if n in arrays
        }
        splits = (found["train"], found.get("validation"), found.get("test"))
    train = splits[0]
    for name, split in zip(("validation", "test"), splits[1:], strict=True):
        require(
            split is None or (split.x.shape[1:], split.x.dtype) == (train.x.shape[1:], train.x.dtype),
            f"{path}: the examples of `{name}` and of `train` differ in shape or type",
        )
    return Dataset(*splits, values=_values(*(s.x for s in splits if s is not None)))


def _as_examples(path: pathlib.Path, name: str, x: np.ndarray) -> np.ndarray:
    require(
        x.ndim in (2, 3, 4) and x.size > 0,
        f"{path}: `{name}` has the shape {x.shape}; write [examples, height, width], "
        "[examples, height, width, channels] or [examples, features]",
    )
    if x.ndim == 3:
        x = x[..., None]
    if x.dtype == bool:
        return x.astype(np.uint8)
    if np.issubdtype(x.dtype, np.integer):
        require(
            x.min() >= 0 and x.max() <= 255,
            f"{path}: `{name}` has integers from {x.min()} to {x.max()}; write 0..255, or floats",
        )
        return x.astype(np.uint8)
    require(np.issubdtype(x.dtype, np.floating), f"{path}: `{name}` has the type {x.dtype}; write uint8 or float32")
    x = x.astype(np.float32)
    bad = np.count_nonzero(~np.isfinite(x))
    require(bad == 0, f"{path}: `{name}` has {bad} values that are NaN or infinite; remove or replace them")
    return x


def _as_labels(path: pathlib.Path, name: str, arrays: dict[str, np.ndarray], of: str) -> np.ndarray | None:
    labels = arrays.get(name)
    if labels is None:
        return None
    require(
        labels.shape == arrays[of].shape[:1],
        f"{path}: `{name}` has the shape {labels.shape}; write one label for each of the {len(arrays[of])} examples",
    )
    return labels


def _values(*arrays: np.ndarray) -> Support:
    """Integers are 0 and 1 where no split has more, else 0..255: an image format has no other way of saying so."""
    low, high = (
        float(f(a)) for f, a in zip((min, max), ([a.min() for a in arrays], [a.max() for a in arrays]), strict=True)
    )
    if arrays[0].dtype == np.uint8:
        return Support(0.0, 1.0 if high <= 1 else 255.0, integer=True)
    binary = all(np.isin(a, (0.0, 1.0)).all() for a in arrays)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return Support(low, high, integer=binary)


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
        first = np.stack([example[image] for example in _examples(sources["train"], 100)])
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"the TFDS set {name!r} can't be read ({reason[0]}): prepare it again, {how}") from error

    def read(progress: Progress) -> Dataset:
        splits = {}
        for k, source in sources.items():
            progress(f"reading {len(source):,} examples of {name} ({k})")
            x, labels = np.empty((len(source), *shape), np.uint8), np.zeros(len(source), np.int64)
            for i, example in enumerate(_examples(source, len(source))):
                x[i] = example[image]
                labels[i] = 0 if label is None else example[label]
            splits[k] = Split(x, None if label is None else labels)
        values = _values(*(split.x for split in splits.values()))
        return Dataset(splits["train"], splits.get("validation"), splits.get("test"), values)

    return Source(shape, sizes, _values(first), read)


def _examples(source: Any, num: int, chunk: int = 1000) -> Any:
    """The first `num` examples, in whole chunks: one by one, TFDS is several times slower."""
    num = min(num, len(source))
    for start in range(0, num, chunk):
        with quiet_absl():
            examples = source.__getitems__(range(start, min(start + chunk, num)))
        yield from examples
