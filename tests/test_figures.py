"""The figures: what is in them, and that it is what the reader takes it for."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

import jaxvae as jv
from jaxvae import plots
from jaxvae.data import Dataset, Split
from jaxvae.evaluation import PerExample
from jaxvae.experiment import figures, report, seeing

NETWORKS = {"encoder": jv.MLP(), "decoder": jv.MLP()}


def experiment(event, **choices):
    model = jv.VAE(latent_dim=2, event_shape=event, **choices, **NETWORKS)
    return jv.Experiment(model=model, data=jv.Data(preprocess=jv.Raw()))


@pytest.mark.parametrize("event", [(1000, 1, 1), (1, 1000, 1), (40, 30, 1)])
def test_long_examples_are_lines(event, tmp_path):
    """A series of single numbers has an image's rank; drawn as an image it would be a thousand pages high."""
    from PIL import Image

    x = np.random.default_rng(0).random((12, *event))
    plots.samples(x).savefig(tmp_path / "a.png")
    plots.reconstructions(x, x).savefig(tmp_path / "b.png")
    plots.strips(x.reshape(3, 4, *event), rows=["1", "2", "3"]).savefig(tmp_path / "c.png")
    for name in "abc":
        with Image.open(tmp_path / f"{name}.png") as image:
            assert 100 < min(image.size) <= max(image.size) < 3000
    experiment = jv.Experiment(
        model=jv.VAE(latent_dim=2, event_shape=event, encoder=jv.MLP(), decoder=jv.MLP(), likelihood=jv.Gaussian()),
        data=jv.Data(preprocess=jv.Raw()),
    )
    shown = seeing.to_eye(experiment, {}, 3.0 * x - 1.0, like=x)
    np.testing.assert_allclose(shown, (3.0 * x - 1.0 - x.min()) / np.ptp(x) if event[0] == 40 else 3.0 * x - 1.0)


def test_rows_of_lines_share_a_scale_that_can_be_read():
    drawn = plots.strips(np.array([[[0.0, 1.0]], [[-5.0, 9.0]]]), rows=["1", "2"]).axes
    (low, high), same = (axes.get_ylim() for axes in drawn)
    assert (low, high) == same and low <= -5.0 and high >= 9.0
    assert all(any(low < tick < high for tick in axes.get_yticks()) for axes in drawn)


def test_what_is_compared_stands_out():
    x = np.arange(8.0).reshape(1, 4, 2)
    axes = plots.strips(x, rows=["1"], columns=["a", "b", "c", "d"], first_apart=True).axes[0]
    assert [to_hex(line.get_color()) == "#000000" for line in axes.lines] == [True, False, False, False]
    assert axes.lines[0].get_zorder() > axes.lines[1].get_zorder()
    assert axes.get_xlabel() == "entry; black, a; from dark, b, to light, d"


def test_a_label_that_is_none_is_no_class():
    for labels in ([np.nan, 1.0, np.nan], [np.nan] * 3):
        plots.latent_space(np.ones((3, 2)), np.array(labels))
    np.testing.assert_array_equal(plots.classes_of(np.array([2.0, np.nan, 1.0, np.nan, 2.0])), [1.0, 2.0])
    np.testing.assert_array_equal(plots.classes_of(np.array(["b", "a"])), ["a", "b"])
    assert len(plots.classes_of(np.array(["NaT", "2020-01-01"], "datetime64[D]"))) == 1


@pytest.mark.parametrize(("labels", "scale"), [(np.arange(500) / 7.0, True), (np.arange(500).astype(str), False)])
def test_a_label_for_every_example(labels, scale):
    """One cloud of points, not one for each label. A quantity has a scale, and is not an attribute."""
    mean = np.random.default_rng(0).normal(size=(500, 2))
    drawn = plots.latent_space(mean, labels)
    assert len(drawn.axes) == 1 + scale
    assert len(drawn.axes[0].collections) == 2  # the other is for points without a label
    terms = PerExample(*[mean] * len(PerExample._fields))
    assert (figures.attributes(terms, labels) is None) == scale


def test_what_has_units_is_seen_and_compared_in_standard_ones():
    likelihood = jv.Incomplete(likelihood=jv.Standardized())
    model = jv.VAE(event_shape=(2,), latent_dim=2, likelihood=likelihood, **NETWORKS)
    experiment = jv.Experiment(model=model, data=jv.Data(preprocess=jv.Raw()))
    params = {"likelihood": {"units": {"mean": np.array([500.0, 1.0]), "std": np.array([100.0, 0.1])}}}
    x = np.array([[600.0, 1.0], [510.0, 1.2], [500.0, np.nan]], np.float32)
    shown = seeing.to_eye(experiment, params, x, like=x)
    np.testing.assert_allclose(shown, [[1.0, 0.0], [0.1, 2.0], [0.0, np.nan]], atol=1e-5)
    dataset = Dataset(Split(x, None), None, None, jv.typing.Support(0.0, 600.0, missing=True))
    images, _ = figures.neighbours(experiment, params, dataset, np.array([[520.0, 1.0]], np.float32))
    np.testing.assert_array_equal(images[0, 1:, 0], [600.0, 500.0, 510.0])


def test_neighbours_are_those_of_the_data_itself():
    """Raw values far from [0, 1] are stretched only to be drawn, not to be compared; several blocks are as one."""
    x = np.random.default_rng(0).normal(50, 5, (40, 3)).astype(np.float32)
    model = jv.VAE(event_shape=(3,), latent_dim=2, encoder=jv.MLP(), decoder=jv.MLP(), likelihood=jv.Gaussian())
    experiment = jv.Experiment(model=model, data=jv.Data(preprocess=jv.Raw()))
    dataset = Dataset(Split(x, None), None, None, jv.typing.Support(0.0, 100.0))
    samples = x[[3, 30]] + 0.01
    for entries in (2**26, 3 * 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(figures, "_ENTRIES", entries)
            images, columns = figures.neighbours(experiment, {}, dataset, samples)
        np.testing.assert_array_equal(images[:, 0], samples)
        np.testing.assert_array_equal(images[:, 1], x[[3, 30]])
        distances = np.linalg.norm(images[:, 1:] - samples[:, None], axis=-1)
        every = np.sort(np.linalg.norm(x[None] - samples[:, None], axis=-1), axis=1)[:, :6]
        np.testing.assert_allclose(distances, every, rtol=1e-4)
        assert len(columns) == 7


def test_few_points_of_a_curve_are_seen():
    """A single point makes no line."""
    records = [{"step": i, "split": "train", "elbo": -1.0 * i} for i in range(50)]
    one, many = (plots.learning_curves(r).axes[0].lines[0].get_marker() for r in (records[:1], records))
    assert (one, many) == ("o", "None")


def dots(line):
    """The values of a drawn line that are marked."""
    every = line.get_markevery()
    return [] if every is None else line.get_ydata()[every].tolist()


def test_a_value_between_missing_ones_is_seen():
    """A line has nothing to show there; nor has it for examples of one value."""
    nan = np.nan
    x = np.array([[1.0, nan, 2.0, 3.0, nan, 4.0], [nan, 5.0, nan, 6.0, 7.0, 8.0]])
    cells = [dots(line) for line in plots.samples(x).axes[0].lines]
    np.testing.assert_allclose(np.diff(cells[0] + cells[1]), [0.8 * 3 / 7, 0.8 * 1 / 7], rtol=1e-12)  # one scale
    both = plots.reconstructions(x, np.ones_like(x)).axes
    assert [dots(line) for axes in both for line in axes.lines] == [[1.0, 4.0], [], [5.0], []]
    strips = plots.strips(x[None], rows=["a"]).axes[0].lines
    assert [dots(line) for line in strips] == [[1.0, 4.0], [5.0]]
    assert [len(dots(line)) for line in plots.samples(np.array([[2.0], [3.0]])).axes[0].lines] == [1, 1]


def test_names_may_be_blank():
    figure = plots.strips(np.zeros((2, 3, 8, 8, 1)), rows=["", " "])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["", " "]


def test_a_legend_shows_lines_as_they_are():
    legend = plots.reconstructions(np.zeros((1, 5)), np.ones((1, 5))).axes[0].get_legend()
    assert [handle.get_marker() for handle in legend.legend_handles] == ["None", "None"]


def test_units_are_those_of_the_values():
    x, units = np.zeros((2, 5)), ", in standard units"
    drawn = [plots.reconstructions(x, x, units=units), plots.strips(x[None], rows=["a"], units=units)]
    assert [(f.axes[-1].get_xlabel(), f.get_supylabel()) for f in drawn] == [("entry", f"value{units}")] * 2
    assert plots.samples(x, units=units).axes[0].get_ylabel() == f"value{units}"
    plane = [plots.samples(x[:, :2], units=units), plots.reconstructions(x[:, :2], x[:, :2], units=units)]
    assert [f.axes[0].get_ylabel() for f in plane] == [f"entry 1{units}"] * 2


def test_each_example_has_a_cell_of_its_own():
    """Lines on one axis could not be told apart. The order is that of images: row by row, from the top."""
    x = np.random.default_rng(0).normal(size=(7, 5))
    axes = plots.samples(x).axes[0]
    lines = np.array([line.get_xydata() for line in axes.lines])  # [7, 5, 2]
    np.testing.assert_array_equal(np.floor(lines[:, 0]), [[i % 3, 2 - i // 3] for i in range(7)])
    assert (np.floor(lines) == np.floor(lines[:, :1])).all()
    assert [label.get_text() for label in plots.samples(1e6 + x[:, :3] * 0).axes[0].get_yticklabels()] == ["1e+06"]
    years = plots.samples(np.array([[1990.0, 2020.0, 2000.0]])).axes[0].get_yticklabels()
    assert [label.get_text() for label in years] == ["1990", "2020"]  # not 1.99e+03
    low, high = axes.get_yticks()
    labels = [float(label.get_text()) for label in axes.get_yticklabels()]
    drawn = np.interp(lines[..., 1] % 1.0, [low, high], labels)
    np.testing.assert_allclose(drawn, x, atol=0.01)


def test_two_entries_are_points_of_the_plane():
    x = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, 0.0]])
    np.testing.assert_array_equal(plots.samples(x).axes[0].collections[0].get_offsets(), x)
    axes = plots.reconstructions(x, x + 1.0).axes[0]
    np.testing.assert_array_equal([c.get_offsets() for c in axes.collections], [x, x + 1.0])
    np.testing.assert_array_equal([line.get_xydata() for line in axes.lines], np.stack([x, x + 1.0], axis=1))
    grid = np.random.default_rng(0).normal(size=(3, 4, 2))
    lines = [line.get_xydata() for line in plots.manifold(grid).axes[0].lines]
    rows, columns = list(grid), list(np.swapaxes(grid, 0, 1))
    assert len(lines) == 7 and all(any(np.array_equal(a, b) for b in lines) for a in rows + columns)
    images = plots.manifold(np.zeros((3, 4, 5, 6, 1))).axes[0].images[0].get_array()
    assert images.shape == (3 * 6 - 1, 4 * 7 - 1)


@pytest.mark.parametrize("name", ["#0 to #1, line", "airplane to automobile, line", "WWWWWWWWWWWWWWWW"])
def test_names_of_rows_are_whole(name):
    figure = plots.strips(np.zeros((6, 9, 28, 28, 1)), rows=[name] * 6)
    figure.draw_without_rendering()
    assert figure.axes[0].get_yticklabels()[0].get_window_extent().x0 >= 0.0


def test_each_of_many_runs_has_its_own_line():
    records = [{"step": i, "split": "train", "elbo": -1.0 * i} for i in range(9)]
    drawn = plots.curves_of_runs({str(i): records for i in range(20)}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == 20


def test_curves_of_training_are_marked_beside_those_of_validation():
    train = [{"step": 1, "split": "train", "elbo": -1.0}]
    drawn = plots.curves_of_runs({"a": [*train, {**train[0], "split": "validation"}], "b": train}).axes[0]
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["a", "b (training)"]
    same = plots.curves_of_runs({"a": train, "a (training)": [{**train[0], "split": "validation"}]}).axes[0]
    assert len(same.lines) == 2


def test_no_class_covers_another():
    """The points lie over each other in the order of the examples."""
    mean, labels = np.arange(12.0).reshape(6, 2), np.array([1, 0, 1, 0, 2, 0])
    axes = plots.latent_space(mean, labels).axes[0]
    points = next(c for c in axes.collections if len(c.get_offsets()) == 6)
    np.testing.assert_array_equal(points.get_offsets(), mean)
    legend = axes.get_legend()
    of_class = [handle.get_facecolor()[0] for handle in legend.legend_handles]
    np.testing.assert_array_equal(points.get_facecolors(), np.array(of_class)[labels])
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]


def test_grey_levels_have_one_scale():
    """That of the likelihood where it has ends, whatever else is drawn; else that of the examples."""
    x = np.array([[[[4.0], [8.0]]]])
    levels = experiment((1, 2, 1), likelihood=jv.Categorical(num_classes=17))
    np.testing.assert_allclose(seeing.to_eye(levels, {}, x, like=x), x / 16)
    reals = experiment((1, 2, 1), likelihood=jv.Gaussian())
    np.testing.assert_allclose(seeing.to_eye(reals, {}, x, like=x), x / 4 - 1)


def test_missing_entries_of_a_neighbour_count_as_random_ones():
    """The mean over all values that the entry could have of the squared distance, in an exact sum."""
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, [0.1, 1.0, 5.0], (60, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    reals = experiment((3,), likelihood=jv.Incomplete(likelihood=jv.Gaussian()))
    dataset = Dataset(Split(x, None), None, None, jv.typing.Support(-99.0, 99.0, missing=True))
    samples = rng.normal(3.0, [0.1, 1.0, 5.0], (8, 3)).astype(np.float32)
    images, _ = figures.neighbours(reals, {}, dataset, samples)
    columns = [column[~np.isnan(column)].astype(float) for column in x.T]

    def square(a, b, column):
        return np.mean((a - column) ** 2) if np.isnan(b) else (a - b) ** 2

    distances = [[sum(map(square, sample, row, columns)) for row in x] for sample in samples]
    for found, expected in zip(images[:, 1:], np.argsort(distances, axis=1)[:, :6], strict=True):
        np.testing.assert_array_equal(found, x[expected])


def test_names_of_runs_and_labels_are_told_apart():
    assert len(set(report._distinct(["a", "a", "a (1)"]))) == 3
    assert report._distinct(["a", "b"]) == ["a", "b"]
    legend = plots.latent_space(np.eye(2), np.array(["", "a"])).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["(empty)", "a"]


def test_numbers_that_seldom_repeat_are_no_classes():
    few = np.random.default_rng(0).normal(size=12)
    assert plots.is_quantity(few)
    assert len(plots.latent_space(np.ones((12, 2)), few).axes) == 2  # with a scale
    for classes in (few > 0, np.arange(12), np.arange(12.0), np.repeat([0.1, 0.2, np.nan], 4), few.astype(str)):
        assert not plots.is_quantity(classes)


def test_the_places_on_a_path_are_exact():
    terms = PerExample(*[np.random.default_rng(0).normal(size=(6, 2))] * len(PerExample._fields))
    assert figures.interpolations(terms, None).columns[:3] == ["0%", "12.5%", "25%"]
