"""Strict JAX for every test, and a small TFDS set that the tests prepare themselves."""

import atexit
import gc
import io
import json
import os
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects that live long: Python looked through all of them again and again. Nor are the programs'
# source lines looked at.
gc.set_threshold(50_000, 20, 100)
jax.config.update("jax_traceback_in_locations_limit", 0)

# Compiling is most of the tests' time: LLVM's optimizations, code generated in many parts for few cores, and JAX 0.10's
# new compiler of fused operations, which has an older and quicker alternative (no longer in 0.12, and XLA ends the
# process at an unknown flag). This process turns them off, unless XLA_FLAGS is set. XLA's own optimizations stay, and
# the commands that tests start keep all of them.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    FAST += " --xla_cpu_use_fusion_emitters=false"
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = FAST
    jax.devices()  # reads the flags, once
    del os.environ["XLA_FLAGS"]

# One cache for all workers and for the processes that tests start; the user's own cache is left alone.
CACHE, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
if CACHE.upper() not in os.environ:
    os.environ |= {CACHE.upper(): tempfile.mkdtemp(prefix="jaxvae-tests-"), SECONDS.upper(): "0"}
    atexit.register(shutil.rmtree, os.environ[CACHE.upper()], ignore_errors=True)
jax.config.update(CACHE, os.environ[CACHE.upper()])
jax.config.update(SECONDS, float(os.environ.get(SECONDS.upper(), 0)))

ROOT = pathlib.Path(__file__).parents[1]
FULL = os.environ.get("JAXVAE_FAULTS") == "full"  # hundreds of cases where CI has a few


def pytest_configure(config):
    # xdist would begin with the files of many tests, and one worker would end with the files of few and slow ones.
    config.option.loadscopereorder = False


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def no_pictures(monkeypatch):
    """Draws no figures: drawing takes longer than the training of small runs."""
    from jaxvae.experiment import outcome

    monkeypatch.setattr(outcome, "picture", lambda *args: None)


@pytest.fixture
def no_compiling(monkeypatch):
    """Fails if anything is compiled."""
    import jax._src.compiler as compiler

    def fail(*args, **kwargs):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(compiler, "compile_or_get_cached", fail)


@pytest.fixture(scope="session")
def real_tfds():
    """The folder with the prepared MNIST sets, for the tests on real data."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder:
        pytest.skip("TFDS_DATA_DIR is not set; it names the folder with TFDS's mnist and binarized_mnist")
    return folder


def write_tfds(folder, name, version, splits, *, shape=None):
    """Writes `splits` {name: (images, labels or None)} as the ArrayRecord files that `tfds build` makes.

    An image may be the bytes of a file; then `shape` is what the set declares.
    TFDS itself needs TensorFlow to write them, but not to read them, which is what is tested.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = pathlib.Path(folder) / name / version
    folder.mkdir(parents=True)
    infos = []
    for split, (images, labels) in splits.items():
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for i, image in enumerate(images):
            writer.write(_example(image, None if labels is None else int(labels[i])))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        infos.append({"name": split, "shardLengths": [str(len(images))], "filepathTemplate": template})
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    shape = {"dimensions": [str(n) for n in shape or images.shape[1:]]}
    prefix = "tensorflow_datasets.core.features."
    features = {
        "image": {"pythonClassName": f"{prefix}image_feature.Image", "image": {"dtype": "uint8", "shape": shape}}
    }
    if labels is not None:
        features["label"] = {
            "pythonClassName": f"{prefix}class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "10"},
        }
    tree = {"pythonClassName": f"{prefix}features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(tree))


def _example(image, label):
    """A serialized tf.train.Example: {image: bytes of a PNG, label: int}."""
    from PIL import Image

    if not isinstance(image, bytes):
        png = io.BytesIO()
        Image.fromarray(image.squeeze(-1)).save(png, "PNG")
        image = png.getvalue()
    features = _field(1, _field(1, b"image") + _field(2, _field(1, _field(1, image))))
    if label is not None:
        features += _field(1, _field(1, b"label") + _field(2, _field(3, _field(1, bytes([label])))))
    return _field(1, features)


def _field(number, payload):
    size, length = b"", len(payload)
    while length >= 128:
        size, length = size + bytes([length % 128 + 128]), length // 128
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload


@pytest.fixture(scope="session")
def small_tfds(tmp_path_factory):
    """A data_dir with a `mnist` of 120 images in 0..255 and a `binarized_mnist` of 60 images of 0 and 1."""
    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (120, 28, 28, 1), dtype=np.uint8)
    labels = np.arange(120) % 10
    write_tfds(folder, "mnist", "3.0.1", {"train": (grey[:100], labels[:100]), "test": (grey[100:], labels[100:])})
    binary = rng.integers(0, 2, (60, 28, 28, 1), dtype=np.uint8)
    parts = {"train": (binary[:30], None), "validation": (binary[30:45], None), "test": (binary[45:], None)}
    write_tfds(folder, "binarized_mnist", "1.0.0", parts)
    return folder
