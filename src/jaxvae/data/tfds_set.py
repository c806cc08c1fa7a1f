"""TFDS's image sets, read from their ArrayRecord files without TensorFlow."""

import pathlib
import re
from typing import Any

import numpy as np

from jaxvae.checks import reason, require
from jaxvae.data.dataset import SPLITS, Dataset, Progress, Source, Split, values_of
from jaxvae.data.rows import Range, RecordRows, stacked
from jaxvae.quiet import quiet_absl

# Examples that TFDS reads at once; reading them one by one is several times slower.
_CHUNK = 1000
_FIRST = 100  # examples that are looked at before a set is read
# What TFDS raises for a name, a version or a config that it does not know. UnicodeError (a ValueError) is from a file.
_OF_THE_NAME = (ValueError, AssertionError, ImportError)
_PREPARE = "tfds build {} --file_format=array_record"


def find_tfds(name: str, data_dir: str | None) -> Source:
    builder = _builder(name, data_dir)
    image, label = _features(name, builder)
    shape = builder.info.features[image].shape
    found = {k: split.num_examples for k, split in builder.info.splits.items()}
    sizes = {k: found[k] for k in SPLITS if found.get(k)}
    require("train" in sizes, f"the TFDS set {name!r} has no examples in a split `train`, only {found}; write another")
    sources = {k: _source(name, builder, k) for k in sizes}
    for k in sizes:
        _refuse_palettes(name, builder, k, image)
    first = stacked(name, _examples(name, sources["train"], range(_FIRST)), image, shape)

    def read(progress: Progress, memory: float) -> Dataset:
        splits, ranges = {}, []
        for k, source in sources.items():
            progress(f"reading {len(source):,} examples of {name} ({k})")
            stored = RecordRows(name, source, image, shape)
            splits[k], entries = _read(name, source, stored, image, label, in_memory=stored.nbytes <= memory)
            ranges.append(entries)
        values = values_of(np.dtype(np.uint8), Range.joined(*ranges))
        return Dataset(splits["train"], splits.get("validation"), splits.get("test"), values)

    return Source(shape, sizes, values_of(first.dtype, Range.of(first)), read)


def _source(name: str, builder: Any, split: str, **options: Any) -> Any:
    try:
        with quiet_absl():
            return builder.as_data_source(split=split, **options)
    except Exception as error:
        raise _unreadable(name, error) from error


def _refuse_palettes(name: str, builder: Any, split: str, image: str) -> None:
    """Refuses images that are PNG files with a palette, whose indices TFDS may take for pixels; it looks at some.

    Raises:
      ValueError: one of them has a palette.
    """
    import tensorflow_datasets as tfds

    encoded = _source(name, builder, split, decoders={image: tfds.decode.SkipDecoding()})
    spread = range(0, len(encoded), -(-len(encoded) // _FIRST))
    files = [example[image] for example in _examples(name, encoded, spread)]
    require(
        not any(file[:4] == b"\x89PNG" and file[25:26] == b"\x03" for file in files if isinstance(file, bytes)),
        f"images of {name!r} are PNG files with a palette, of which TFDS may read the indices instead of the colours; "
        "convert them to RGB, or to grey if it declares one channel, and prepare the set again",
    )


def _builder(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of a prepared set."""
    try:
        with quiet_absl():
            import tensorflow_datasets as tfds

            builder = tfds.builder(name, data_dir=data_dir)
            prepared = builder.is_prepared()
    except Exception as error:
        of_the_name = isinstance(error, _OF_THE_NAME) and not isinstance(error, UnicodeError)
        raise _no_set(name, data_dir, error) if of_the_name else _unreadable(name, error) from error
    # NAME/VERSION, or NAME/CONFIG/VERSION
    root = builder.data_path.parents[1 if builder.builder_config is None else 2]
    require(
        prepared,
        f"the TFDS set {name!r} is not prepared in {root}: name the "
        "folder where it is (--config.data.data_dir=DIR, or --data-dir=DIR for a trained run), or prepare it: "
        f"pip install '.[prepare]' && {_PREPARE.format(name)}",
    )
    return builder


def _features(name: str, builder: Any) -> tuple[str, str | None]:
    """The names of the image feature and of the label feature, if there is one."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image = next((k for k, f in features.items() if isinstance(f, tfds.features.Image)), None)
    label = next((k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)), None)
    require(image is not None, f"the TFDS set {name!r} has no image, only {sorted(features)}; write another")
    shape = features[image].shape
    require(
        None not in shape and features[image].np_dtype == np.uint8,
        f"the images of {name!r} are {features[image].np_dtype} of shape {shape}; the library needs uint8 images of "
        "one size",
    )
    return str(image), label


def _read(
    name: str, source: Any, stored: RecordRows, image: str, label: str | None, *, in_memory: bool
) -> tuple[Split, Range]:
    """A split, with its images in memory or in storage, and the range of their entries."""
    x = np.empty(stored.shape, np.uint8) if in_memory else None
    labels = None if label is None else np.zeros(len(source), np.int64)
    ranges = []
    for start in range(0, len(source), _CHUNK):
        examples = _examples(name, source, range(start, start + _CHUNK))
        stop, images = start + len(examples), stacked(name, examples, image, stored.shape[1:])
        ranges.append(Range.of(images))
        if x is not None:
            x[start:stop] = images
        if labels is not None:
            labels[start:stop] = [example[label] for example in examples]
    return Split(stored if x is None else x, labels), Range.joined(*ranges)


def _examples(name: str, source: Any, rows: range) -> Any:
    """The examples of these rows, as far as there are."""
    try:
        with quiet_absl():
            return source.__getitems__(rows[: len(range(rows.start, len(source), rows.step))])
    except Exception as error:
        raise _unreadable(name, error) from error


def _no_set(name: str, data_dir: str | None, error: Exception) -> ValueError:
    there = [] if data_dir is None else _prepared(name, pathlib.Path(data_dir))
    if any(name in (found, found.rpartition(":")[0]) for found in there):
        return _unreadable(name, error)
    if there:
        return ValueError(f"there is no data set {name!r} in {data_dir}, but there are {there}; write one of these")
    return ValueError(
        f"there is no data set {name!r} (data.name); write `digits`, a TFDS image set such as `mnist`, or a path that "
        f"ends in .npy or .npz ({type(error).__name__})"
    )


def _prepared(name: str, folder: pathlib.Path) -> list[str]:
    """The configs and versions of a set that are prepared in a folder, as TFDS calls them."""
    own = re.match(r"\w+", name)
    found = sorted((folder / own[0]).rglob("dataset_info.json")) if own else []
    parts = [path.parent.relative_to(folder).parts for path in found]
    return ["/".join(config) + f":{version}" for *config, version in parts]


def _unreadable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"the TFDS set {name!r} can't be read ({reason(error)}); prepare it again: {_PREPARE.format(name)}"
    )
