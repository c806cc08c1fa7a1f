"""Sources return stored values, preprocessing the likelihood's values; MNIST is 0..255, its binary twin 0 and 1."""

import io
import json
import shutil
import subprocess
import sys
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from absl.testing import parameterized
from conftest import write_tfds
from PIL import Image

import jaxvae as jv
from jaxvae.data import Data, load, tfds_set
from jaxvae.data.numpy_file import open_numpy
from jaxvae.experiment import workdir
from jaxvae.typing import Support

GREY = Support(0.0, 255.0, integer=True)
BINARY = Support(0.0, 1.0, integer=True)


class PreprocessTest(chex.TestCase):
    x = jnp.tile(jnp.array([0, 51, 128, 255], jnp.uint8), (5000, 1))

    @chex.variants(with_jit=True, without_jit=True)
    def test_dynamic_binarization_has_the_images_mean(self):
        out = self.variant(lambda k, x: jv.DynamicBinarization()(k, x, 255.0))(jax.random.key(0), self.x)
        assert set(np.unique(out)) == {0.0, 1.0}
        np.testing.assert_allclose(out.mean(0), [0, 0.2, 128 / 255, 1], atol=4 * 0.5 / np.sqrt(5000))
        assert out[:, 0].max() == 0
        assert out[:, 3].min() == 1
        again = jv.DynamicBinarization()(jax.random.key(1), self.x, 255.0)
        assert jnp.any(out != again)

    @chex.variants(with_jit=True, without_jit=True)
    def test_dequantization_fills_the_unit_interval(self):
        out = self.variant(lambda k, x: jv.Dequantization()(k, x, 255.0))(jax.random.key(0), self.x)
        np.testing.assert_array_equal(jnp.floor(out * 256), self.x)
        assert out.min() >= 0
        assert out.max() < 1
        white = jnp.full(2**21, 255, jnp.uint8)  # of which some would be rounded to 1
        assert jv.Dequantization()(jax.random.key(0), white, 255.0).max() < 1

    @parameterized.parameters(jv.DynamicBinarization(), jv.Dequantization(), jv.Scaling(), jv.Raw())
    def test_expectation_is_the_mean_over_keys(self, preprocess):
        x = jnp.array([[0, 51, 128, 255]], jnp.uint8)
        draws = jax.vmap(lambda k: preprocess(k, x, 255.0))(jax.random.split(jax.random.key(0), 5000))
        expected = preprocess.expectation(np.asarray(x), 255.0)
        away = np.abs(np.asarray(draws, float).mean(0) - expected)
        assert (away <= 4 * np.asarray(draws, float).std(0) / np.sqrt(5000) + 1e-6 * expected).all()

    def test_binary_images_stay_as_they_are(self):
        x = jnp.array([[0, 1, 1, 0]], jnp.uint8)
        for preprocess in (jv.DynamicBinarization(), jv.Scaling(), jv.Raw()):
            np.testing.assert_array_equal(preprocess(jax.random.key(0), x, 1.0), x)
            assert preprocess.support(BINARY) == BINARY

    def test_bound_to_the_stored_values(self):
        key, x = jax.random.key(0), jnp.array([[0, 4, 9, 16]], jnp.uint8)
        for preprocess in (jv.DynamicBinarization(), jv.Dequantization(), jv.Scaling(), jv.Raw()):
            bound = preprocess.bind(Support(0.0, 16.0, integer=True))
            np.testing.assert_array_equal(bound(key, x), preprocess(key, x, 16.0))
        with pytest.raises(ValueError, match="Scaling needs uint8 images or floats"):
            jv.Scaling().bind(Support(0.0, 500.0, integer=True))

    def test_supports(self):
        assert jv.DynamicBinarization().support(GREY) == BINARY
        assert jv.Scaling().support(GREY) == Support(0.0, 1.0)
        assert jv.Dequantization().support(GREY) == Support(0.0, 1.0, open=True)
        assert jv.Raw().support(GREY) == GREY
        assert not jv.Bernoulli().support.contains(GREY)
        assert not jv.Bernoulli().support.contains(Support(0.0, 1.0))
        assert jv.Gaussian().support.contains(Support(-3.0, 7.0))
        for preprocess in (jv.DynamicBinarization(), jv.Scaling()):
            with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
                preprocess.support(Support(-1.0, 300.0))
        with pytest.raises(ValueError, match="needs integers"):
            jv.Dequantization().support(Support(0.0, 1.0))

    def test_discrete_nats(self):
        assert jv.Dequantization().log_bins(GREY) == pytest.approx(np.log(256))
        assert jv.Scaling().log_bins(GREY) is None


def test_digits_are_split_for_ever():
    dataset = load(Data(name="digits"))
    assert [len(s.x) for s in dataset[:3]] == [1285, 256, 256]
    assert dataset.event_shape == (8, 8, 1)
    assert dataset.values == Support(0.0, 16.0, integer=True)
    assert [int(s.x.sum()) for s in dataset[:3]] == [402232, 80200, 79286]
    for split in dataset[:3]:  # every split has every class, about equally often
        assert scipy.stats.chisquare(np.bincount(split.labels, minlength=10)).pvalue > 0.05


def test_tfds_grey_and_binary(small_tfds):
    grey = load(Data(name="mnist", data_dir=str(small_tfds), num_validation=10))
    assert [len(s.x) for s in grey[:3]] == [90, 10, 20]
    assert grey.values == GREY
    assert grey.train.x.dtype == np.uint8
    np.testing.assert_array_equal(grey.train.labels, np.arange(90) % 10)
    expected = np.random.default_rng(0).integers(0, 256, (120, 28, 28, 1), dtype=np.uint8)
    np.testing.assert_array_equal(grey.train.x, expected[:90])
    np.testing.assert_array_equal(grey.validation.x, expected[90:100])
    binary = load(Data(name="binarized_mnist", data_dir=str(small_tfds)))
    assert [len(s.x) for s in binary[:3]] == [30, 15, 15]
    assert binary.values == BINARY
    assert binary.train.labels is None


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "deleted"])
@pytest.mark.parametrize("file", ["mnist-train*", "mnist-test*", "dataset_info.json"])
def test_damaged_tfds(small_tfds, tmp_path, file, how):
    shutil.copytree(small_tfds, tmp_path / "tfds")
    (path,) = (tmp_path / "tfds").rglob(f"mnist/**/{file}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 128
    path.write_bytes({"flipped": content, "cut": content[: len(content) // 2]}.get(how, b""))
    if how == "deleted":
        path.unlink()
    says = "is not prepared in" if (file, how) == ("dataset_info.json", "deleted") else r"can't be read \("
    with pytest.raises(ValueError, match=f"^the TFDS set 'mnist' {says}.*tfds build mnist"):
        load(Data(name="mnist", data_dir=str(tmp_path / "tfds")))


def files(images, *, mode):
    """PNG files of images [N, H, W, 3]."""
    written = []
    for image in images:
        png = io.BytesIO()
        Image.fromarray(image).convert(mode).save(png, "PNG")
        written.append(png.getvalue())
    return written


@pytest.mark.parametrize("memory", [np.inf, 1.0])
def test_tfds_images_that_are_not_what_they_seem(tmp_path, memory):
    """Read as they are, a palette's indices would be taken for its colours, and a turned image for a scrambled one."""
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 4, 3), dtype=np.uint8)
    write_tfds(tmp_path, "indexed", "1.0.0", {"train": (files(images, mode="P"), None)}, shape=(6, 4, 3))
    turned = [*files(images, mode="RGB")[:8], *files(images.transpose(0, 2, 1, 3), mode="RGB")[8:]]
    write_tfds(tmp_path, "turned", "1.0.0", {"train": (turned, None)}, shape=(6, 4, 3))
    write_tfds(tmp_path, "colours", "1.0.0", {"train": (files(images, mode="RGB"), None)}, shape=(6, 4, 3))
    for name, said in (
        ("indexed", "images of 'indexed' are PNG files with a palette, .*; convert them to RGB"),
        ("turned", r"'turned' has an image of shape \(4, 6, 3\), but declares \(6, 4, 3\)"),
    ):
        with pytest.raises(ValueError, match=said):
            load(Data(name=name, data_dir=str(tmp_path)), memory=memory)
    np.testing.assert_array_equal(load(Data(name="colours", data_dir=tmp_path), memory=memory).train.x[:], images)


def test_turned_images_that_come_late(tmp_path, monkeypatch):
    """Behind those that are looked at first; all are, before a set is used."""
    monkeypatch.setattr(tfds_set, "_FIRST", 3)
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 4, 3), dtype=np.uint8)
    turned = [*files(images, mode="RGB")[:8], *files(images.transpose(0, 2, 1, 3), mode="RGB")[8:]]
    write_tfds(tmp_path, "turned", "1.0.0", {"train": (turned, None)}, shape=(6, 4, 3))
    for memory in (np.inf, 1.0):
        with pytest.raises(ValueError, match="prepare it again, with images of one shape"):
            load(Data(name="turned", data_dir=str(tmp_path)), memory=memory)


def test_an_empty_split_is_none(tmp_path):
    images = np.zeros((9, 4, 4, 1), np.uint8)
    parts = {"train": (images, None), "validation": (images[:0], None), "test": (images[:2], None)}
    write_tfds(tmp_path, "some", "1.0.0", parts)
    assert load(Data(name="some", data_dir=str(tmp_path))).sizes == {"train": 9, "test": 2}
    write_tfds(tmp_path, "none", "1.0.0", {"train": (images[:0], None), "test": (images, None)})
    with pytest.raises(ValueError, match=r"'none' has no examples in a split `train`, only {'train': 0, 'te"):
        load(Data(name="none", data_dir=str(tmp_path)))


def test_a_version_that_is_not_there(small_tfds):
    with pytest.raises(ValueError, match=r"no data set 'mnist:9.9.9' in .*, but there are \['mnist:3.0.1'\]"):
        load(Data(name="mnist:9.9.9", data_dir=str(small_tfds)))


def test_names_of_files(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((14, 3)))
    assert jv.data.read_examples(str(tmp_path / "x.npy"))[0].shape == (14, 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tmp_path / "x.npy", "~/x.npy"):
        data = Data(name=name).absolute()
        assert data.name == str(tmp_path / "x.npy")
        assert load(data).sizes["train"] == 10
    assert Data(data_dir="~/sets").absolute().data_dir == str(tmp_path / "sets")
    assert Data(data_dir="gs://sets").absolute().data_dir == "gs://sets"
    for wrong in ({"name": None}, {"name": b"x.npy"}, {"data_dir": 5}):
        with pytest.raises(ValueError, match="; write a string"):
            Data(**wrong)


def test_values_are_part_of_what_data_are_known_by(tmp_path):
    """One entry that no fingerprint sees changes the range, and so the preprocessing."""
    x = np.tile(np.array([0, 1], np.uint8), (7000, 2))
    known = []
    for largest in (1, 200):
        x[7, 0] = largest  # row 5 of training
        np.save(tmp_path / "x.npy", x)
        known.append(load(Data(name=str(tmp_path / "x.npy"))).known_by())
    (tmp_path / "data.json").write_text(json.dumps(known[0]))
    workdir.check_data(tmp_path, known[0])
    with pytest.raises(ValueError, match=r"values are in {0, 1} there and in the integers \[0, 255\] here; put"):
        workdir.check_data(tmp_path, known[1])
    del known[0]["values"]
    (tmp_path / "data.json").write_text(json.dumps(known[0]))
    workdir.check_data(tmp_path, known[1])  # a run of an earlier version


def test_reading_tfds_needs_no_tensorflow(small_tfds):
    code = f"""
import sys
from jaxvae.data import Data, load
from jaxvae.data.numpy_file import open_numpy
load(Data(name="mnist", data_dir={str(small_tfds)!r}))
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_real_mnist(real_tfds):
    mnist = load(Data(name="mnist", data_dir=real_tfds))
    assert [len(mnist.train.x), len(mnist.test.x)] == [60_000, 10_000]
    assert mnist.validation is None
    assert mnist.values == GREY
    np.testing.assert_allclose(mnist.train.x.mean() / 255, 0.1307, atol=1e-4)  # the published mean
    np.testing.assert_array_equal(
        np.bincount(mnist.test.labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )


@pytest.mark.long
def test_real_binarized_mnist(real_tfds):
    binarized = load(Data(name="binarized_mnist", data_dir=real_tfds))
    assert [len(s.x) for s in binarized[:3]] == [50_000, 10_000, 10_000]
    assert binarized.values == BINARY
    np.testing.assert_allclose(binarized.train.x.mean(), 0.1307, atol=2e-3)  # drawn from the grey images


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.float64])
def test_npy(tmp_path, dtype):
    x = np.random.default_rng(0).integers(0, 2, (70, 5, 4)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    dataset = load(Data(name=str(tmp_path / "x.npy")))
    assert [len(s.x) for s in dataset[:3]] == [50, 10, 10]
    assert dataset.event_shape == (5, 4, 1)
    assert dataset.values == BINARY
    np.testing.assert_array_equal(dataset.test.x[..., 0], x[6::7])


def test_npz(tmp_path):
    train, test = np.full((6, 3), 7, np.uint8), np.full((4, 3), 200, np.uint8)
    np.savez(tmp_path / "x.npz", train=train, test=test, train_labels=np.arange(6))
    dataset = load(Data(name=str(tmp_path / "x.npz"), num_validation=2))
    assert [len(s.x) for s in dataset[:3]] == [4, 2, 4]
    assert dataset.values == GREY
    np.testing.assert_array_equal(dataset.validation.labels, [4, 5])
    np.savez(tmp_path / "y.npz", x=np.random.default_rng(0).normal(size=(14, 3)), labels=np.arange(14))
    dataset = load(Data(name=str(tmp_path / "y.npz")))
    assert [len(s.x) for s in dataset[:3]] == [10, 2, 2]
    assert dataset.values.low < 0
    np.testing.assert_array_equal(dataset.test.labels, [6, 13])
    np.savez(tmp_path / "z.npz", x=np.zeros((14, 3), np.uint8), labels=np.array(["ä".encode()] * 14))
    assert load(Data(name=str(tmp_path / "z.npz"))).train.labels[0] == "ä"


@pytest.mark.parametrize(
    "names",
    [
        ("x", "test"),
        ("train", "test", "val"),
        ("train", "test", "labels"),
        ("test",),
        ("x", "train"),
        ("train", "test_labels"),
    ],
)
def test_an_array_that_would_not_be_used_is_refused(names, tmp_path):
    np.savez(tmp_path / "x.npz", **{name: np.zeros((20, 3)) for name in names})
    with pytest.raises(ValueError, match=r"x\.npz has the arrays \[.*\]; write `x`, with `labels`"):
        load(Data(name=str(tmp_path / "x.npz")))


def test_a_float64_that_differs_in_digits_which_a_float32_lacks(tmp_path):
    """Seconds since 1970 over half an hour. Over a day, exact, or different only by rounding, they are accepted."""
    noise = np.random.default_rng(0).normal(size=(70, 3))
    noise[3, 1] = np.nan
    centre = np.array([1e4, 1e9, 0.1])

    def event_shape_of(x):
        np.save(tmp_path / "x.npy", x)
        return open_numpy(tmp_path / "x.npy").event_shape

    half_an_hour, a_day = (centre + noise * np.array([1.0, seconds, 1e-16]) for seconds in (1e3, 1e4))
    assert len(set(a_day[:, 2])) > 5
    with pytest.raises(
        ValueError, match=r"entry 1 is 1e\+09 ± [\d.e+]+ in `x`, and float32 rounds off 1[78] of it in `x`; sub"
    ):
        event_shape_of(half_an_hour)  # 64 / √12
    assert event_shape_of(a_day) == (3,)
    kept = half_an_hour.astype(np.float32)
    for same in (kept, kept.astype(np.float64), np.nan_to_num(np.round(half_an_hour / 1e3))):
        assert event_shape_of(same) == (3,)
    light = 1.0 - 1e-9 * noise[:, :, None] ** 2  # a background
    with pytest.raises(ValueError, match=r"entry \(0, 0, 0\) is 1 ±"):
        event_shape_of(light)
    light[:, 2] = np.linspace(0.0, 1.0, 70)[:, None]
    assert event_shape_of(light) == (3, 1, 1)


def test_test_examples_that_float32_rounds_are_refused_too(tmp_path):
    """Their rounding is compared with the standard deviations in training: theirs may be small by chance."""
    train = np.random.default_rng(0).normal(1e6, 1e3, (70, 2))
    near, far = 1e6 + np.array([[0.01, 5.0], [0.02, 3.0]]), np.full((2, 2), 1e9 + 20.3)
    for test, ok in ((near, True), (far, False)):
        np.savez(tmp_path / "x.npz", train=train, test=test)
        if ok:
            assert open_numpy(tmp_path / "x.npz").sizes["test"] == 2
        else:
            with pytest.raises(ValueError, match="in `train`, and float32 rounds off 20 of it in `test`"):
                open_numpy(tmp_path / "x.npz")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_what_no_float32_holds_is_one_line(name, tmp_path):
    save = np.save if name.endswith("npy") else np.savez
    save(tmp_path / name, **{"arr" if name.endswith("npy") else "x": np.full((20, 3), 1e300)})
    with pytest.raises(ValueError, match="has values that are infinite"):
        load(Data(name=str(tmp_path / name)))


@pytest.mark.parametrize("largest", [(300, 40), (40, 300)])
def test_counts_of_which_one_split_has_no_large_ones(largest, tmp_path):
    train, test = (np.minimum(np.arange(100).reshape(20, 5) * 9, high).astype(np.int16) for high in largest)
    np.savez(tmp_path / "x.npz", train=train, test=test)
    dataset = load(Data(name=str(tmp_path / "x.npz"), num_validation=2))
    assert dataset.values == Support(0.0, float("inf"), integer=True)
    np.testing.assert_array_equal(dataset.test.x, test)
    assert {split.x.dtype for split in (dataset.train, dataset.validation, dataset.test)} == {np.dtype(np.float32)}
    np.savez(tmp_path / "y.npz", train=train, test=test / 2)
    with pytest.raises(ValueError, match="the examples of `test` and of `train` differ in shape or type"):
        load(Data(name=str(tmp_path / "y.npz")))


def test_a_transposed_array_is_read_by_its_rows(tmp_path):
    """`numpy.save` writes it in Fortran order, and reading rows makes no copy of the whole."""
    x = np.random.default_rng(0).random((64, 20_000), np.float32).T
    np.save(tmp_path / "x.npy", x)
    rows = open_numpy(tmp_path / "x.npy").train.x
    tracemalloc.start()
    read = rows[np.array([3, 1, 9_000])]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read.shape == (3, 64)
    assert most < x.nbytes / 50
    np.savez(tmp_path / "y.npz", x=x)
    np.testing.assert_array_equal(rows[:], open_numpy(tmp_path / "y.npz").train.x)


def test_no_array_runs_code(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="can't be read as a NumPy file"):
        load(Data(name=str(tmp_path / "x.npy")))


def test_moments_are_those_of_all_pieces(monkeypatch):
    """For bytes too, and far from 0, where a mean of squares would lose all digits."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(jv.data.rows, "_PIECE_BYTES", 100)
    for x in (rng.integers(0, 256, (70, 6), np.uint8), np.float32(1e6 + rng.integers(0, 4, (70, 6)))):
        np.testing.assert_allclose(jv.data.mean(x), x.mean(axis=0, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(jv.data.std(x), x.std(axis=0, dtype=np.float64), rtol=1e-9)
        logs = np.log1p(x, dtype=np.float64)
        np.testing.assert_allclose(jv.data.mean(x, of=lambda x: np.log1p(x, dtype=np.float64)), logs.mean(axis=0))
        np.testing.assert_allclose(jv.data.std(x, of=lambda x: np.log1p(x, dtype=np.float64)), logs.std(axis=0))
    holes = np.where(rng.random((70, 6)) < 0.8, np.nan, rng.normal(size=(70, 6)))
    holes[:, 2] = np.nan
    holes[30:, 3] = np.nan
    np.testing.assert_allclose(jv.data.std(holes)[[0, 1, 3, 4, 5]], np.nanstd(holes[:, [0, 1, 3, 4, 5]], axis=0))
    assert jv.data.std(holes)[2] == 0
    same = np.full((10_001, 3), [0.1, 1e7 + 0.3, 0.1000001])  # their sums round
    np.testing.assert_array_equal(jv.data.std(same), np.zeros(3))
    for moment in (jv.data.mean, jv.data.std):
        assert moment(jnp.asarray(same)).dtype == np.float64
        with pytest.raises(ValueError, match=r"x has the shape \(0, 3\); write one row or more"):
            moment(same[:0])


def test_counts_and_missing_entries(tmp_path):
    """Whole numbers beyond an image's are counts. NaN is an unobserved entry, after every preprocessing too."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(400.0, (70, 6))
    np.save(tmp_path / "counts.npy", counts)
    dataset = load(Data(name=str(tmp_path / "counts.npy"), preprocess=jv.Raw()))
    assert dataset.values == Support(0.0, np.inf, integer=True)
    np.testing.assert_array_equal(dataset.test.x[:], counts[6::7])
    holes = np.where(rng.random((70, 6)) < 0.3, np.nan, rng.integers(0, 2, (70, 6)))
    np.save(tmp_path / "holes.npy", holes)
    dataset = load(Data(name=str(tmp_path / "holes.npy")))
    assert dataset.values == Support(0.0, 1.0, integer=True, missing=True)
    train = np.asarray(dataset.train.x[:])
    np.testing.assert_allclose(jv.data.mean(dataset.train.x), np.nanmean(train, axis=0))
    np.testing.assert_allclose(jv.data.std(dataset.train.x), np.nanstd(train, axis=0, dtype=np.float64))
    np.save(tmp_path / "grey.npy", np.where(rng.random((70, 6)) < 0.3, np.nan, rng.integers(0, 256, (70, 6))))
    counts = load(Data(name=str(tmp_path / "grey.npy"))).values
    with pytest.raises(ValueError, match=r"or write data.high=255, if these are grey levels with"):
        jv.DynamicBinarization().support(counts)
    assert load(Data(name=str(tmp_path / "grey.npy"), high=255)).values == Support(0.0, 255.0, True, missing=True)
    np.save(tmp_path / "inside.npy", rng.uniform(0.1, 0.9, (70, 6)))
    assert jv.Beta().support.contains(load(Data(name=str(tmp_path / "inside.npy"))).values)
    for preprocess in (jv.DynamicBinarization(), jv.Scaling(), jv.Raw()):
        x = preprocess(jax.random.key(0), jnp.asarray(train), 1.0)
        np.testing.assert_array_equal(x, train)
        assert preprocess.support(dataset.values).missing
