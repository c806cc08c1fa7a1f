"""Pictures of a run. Each function takes arrays and a path, draws one figure, and keeps no state."""

import itertools
import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxvae.typing import Shape

Path = str | pathlib.Path
Record = Mapping[str, Any]

_LONGEST = 8  # times as long as wide: a picture of anything longer would be of no use, or of no end

# Colour-blind safe (Okabe and Ito, 2008); training and validation keep theirs in every panel.
_COLOURS = {"train": "#0072B2", "validation": "#D55E00"}
NO_LABEL = "#BBBBBB"
_WHEEL = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")


def learning_curves(records: Sequence[Record], path: Path) -> None:
    """ELBO, distortion and rate against the step, each in a panel of its own, from the lines of `metrics.jsonl`."""
    by_split = {split: [r for r in records if r["split"] == split] for split in _COLOURS}
    _curves(by_split, _COLOURS, path)


def curves_of_runs(runs: Mapping[str, Sequence[Record]], path: Path) -> None:
    """The same of several runs: of their validation split, or of training where there is none."""
    by_run = {}
    for name, records in runs.items():
        validation = [r for r in records if r["split"] == "validation"]
        by_run[name] = validation or [r for r in records if r["split"] == "train"]
    colours = dict(zip(runs, itertools.cycle(_WHEEL), strict=False))
    _curves(by_run, colours, path)


def _curves(lines: Mapping[str, Sequence[Record]], colours: Mapping[str, str], path: Path) -> None:
    records = [r for line in lines.values() for r in line]
    names = [n for n in ("elbo", "distortion", "rate") if any(r.get(n) is not None for r in records)]
    figure = Figure(figsize=(4 * max(1, len(names)), 3.2), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, max(1, len(names)))), names, strict=False):
        ends = []
        for label, line in lines.items():
            points = [(r["step"], r[name]) for r in line if r.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colours[label], label=_plain(label), linewidth=1.5)
                ends += [value for _, value in points[len(points) // 10 :]]
        if ends and max(ends) > min(ends):  # the first steps are out of scale
            margin = 0.05 * (max(ends) - min(ends))
            axes.set_ylim(min(ends) - margin, max(ends) + margin)
        title = {"elbo": "ELBO", "distortion": "distortion  −E log p(x|z)", "rate": "rate  KL(q(z|x) ‖ p(z))"}[name]
        axes.set(title=title, xlabel="step", ylabel="nats per example")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    _save(figure, path)


def samples(x: np.ndarray, path: Path) -> None:
    """A grid of examples [N, *event]: images as images, anything else as lines."""
    columns = math.ceil(math.sqrt(len(x)))
    if is_image(x.shape[1:]):
        figure = Figure(figsize=(6, 6 * math.ceil(len(x) / columns) / columns * x.shape[1] / x.shape[2]))
        axes = figure.add_axes((0, 0, 1, 1))
        _show(axes, _grid(x, columns))
    else:
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(x.reshape(len(x), -1).T, linewidth=0.8, alpha=0.6)
        axes.set(xlabel="entry", ylabel="value")
    _save(figure, path)


def reconstructions(x: np.ndarray, x_hat: np.ndarray, path: Path) -> None:
    """Inputs [N, *event] in the upper row of each pair, their reconstructions below."""
    if is_image(x.shape[1:]):
        columns = min(len(x), 10)
        rows = len(x) // columns
        height, width = x.shape[1:3]
        figure = Figure(figsize=(8, 0.4 + rows * 1.6 * height / width), layout="constrained")
        for axes, start in zip(np.ravel(figure.subplots(rows, 1)), range(0, rows * columns, columns), strict=True):
            pair = np.concatenate([x[start : start + columns], x_hat[start : start + columns]])
            _show(axes, _grid(pair, columns), frame=True)
            axes.set_yticks([height / 2, 1.5 * height + 1], ["input", "reconstruction"])
    else:
        rows = min(len(x), 6)
        figure = Figure(figsize=(7, 1.5 * rows), layout="constrained")
        for i, axes in enumerate(np.ravel(figure.subplots(rows, 1))):
            axes.plot(x[i].ravel(), label="input", color="black", linewidth=1)
            axes.plot(x_hat[i].ravel(), label="reconstruction", color=_COLOURS["validation"], linewidth=1)
        figure.axes[0].legend(frameon=False)
    _save(figure, path)


def strips(x: np.ndarray, path: Path, *, rows: Sequence[str], columns: Sequence[str] = ()) -> None:
    """Examples [R, C, *event] in labelled rows: a row is one way through the latent space, or one comparison."""
    num, length = x.shape[:2]
    if is_image(x.shape[2:]):
        height, width = x.shape[2:4]
        ratio = height / width
        left = 0.35 + 0.075 * max(map(len, rows))
        figure = Figure(figsize=(left + 0.6 * length, 0.35 + 0.6 * ratio * num), layout="constrained")
        axes = figure.subplots()
        _show(axes, _grid(x.reshape(num * length, *x.shape[2:]), length), frame=True)
        axes.set_yticks([height / 2 + i * (height + 1) for i in range(num)], [_plain(r) for r in rows])
        axes.xaxis.tick_top()
        axes.set_xticks([width / 2 + i * (width + 1) for i in range(len(columns))], columns, fontsize=8)
    else:
        figure = Figure(figsize=(8, 0.4 + 1.1 * num), layout="constrained")
        shades = colormaps["viridis"](np.linspace(0.0, 0.9, length))
        for i, axes in enumerate(np.ravel(figure.subplots(num, 1, squeeze=False))):
            for shade, line in zip(shades, x[i].reshape(length, -1), strict=True):
                axes.plot(line, color=shade, linewidth=1)
            axes.set_ylabel(_plain(rows[i]), rotation=0, ha="right", va="center")
            axes.set_yticks([])
            axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("entry" if not columns else f"entry; from dark, {columns[0]}, to light, {columns[-1]}")
    _save(figure, path)


def kl_per_dimension(kl: np.ndarray, path: Path) -> None:
    """The rate of each latent [D], the largest first: which of them the model uses."""
    order = np.argsort(kl)[::-1]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(len(kl)), kl[order], color=_COLOURS["train"], width=0.8)
    named = order if len(kl) <= 50 else order[:0]
    axes.set_xticks(np.arange(len(named)), [str(d) for d in named], fontsize=8 if len(kl) <= 30 else 6)
    axes.set(title="rate of each latent", xlabel="latent", ylabel="nats per example")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


class Panel(NamedTuple):
    """A quantity, and its value with the half-width of its interval for each of what is compared."""

    title: str
    unit: str
    values: Mapping[str, tuple[float, float]]


def comparison(x: np.ndarray, rows: Sequence[str], panels: Sequence[Panel], names: Sequence[str], path: Path) -> None:
    """Images [R, C, H, W, channels] in named rows, and below them a panel of points with intervals for each number.

    `names` are those of what is compared, in their order.
    """
    num, length, height, width = x.shape[:4]
    below, across = math.ceil(len(panels) / 4), 4
    top = 0.75 * num * height / width
    figure = Figure(figsize=(11, top + 2.4 * below + 0.4), layout="constrained")
    # Two, so that the long names of the rows do not push the panels aside.
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[top, 2.4 * below + 0.4])[:, 0]
    axes = upper.subplots()
    _show(axes, _grid(x.reshape(num * length, *x.shape[2:]), length), frame=True)
    axes.set_yticks([height / 2 + i * (height + 1) for i in range(num)], rows)
    colours = dict(zip(names, _WHEEL, strict=False))
    for i, panel in enumerate(panels):
        axes = lower.add_subplot(below, across, i + 1)
        shown = [name for name in names if name in panel.values]
        for at, name in enumerate(shown):
            mean, half = panel.values[name]
            axes.errorbar(at, mean, half, fmt="o", color=colours[name], capsize=4)
        axes.set_xlim(-0.6, len(shown) - 0.4)
        axes.set_xticks([])
        axes.set_title(textwrap.fill(panel.title, 30), fontsize=9)
        axes.set_ylabel(panel.unit, fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    marks = [Line2D([], [], marker="o", linestyle="", color=colours[name], label=name) for name in names]
    lower.legend(handles=marks, loc="outside lower center", ncols=len(names), frameon=False)
    _save(figure, path)


class Point(NamedTuple):
    """A model's place in the rate–distortion plane, in nats per example."""

    label: str
    rate: float
    distortion: float


def rate_distortion(
    points: Sequence[Point],
    path: Path,
    *,
    split: str,
    ordered_by: str | None = None,
    mean: tuple[tuple[float, float], ...] | None = None,
) -> None:
    """The rate–distortion plane with its lines of equal ELBO; Alemi et al. (2018), figure 1.

    `ordered_by` is what the points are in the order of, and then a line joins them. `mean` is that of the rate and that
    of the distortion, each with the half-width of its 95 % interval.
    """
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    places = np.array([(p.rate, p.distortion) for p in points])
    axes.plot(*places.T, "o-" if ordered_by else "o", color=_COLOURS["train"], linewidth=1.5, markersize=5)
    for place, label in _labels(points, places):
        text = f"{ordered_by} = {label}" if ordered_by else label
        axes.annotate(text, place, xytext=(5, 5), textcoords="offset points", fontsize=9 if ordered_by else 7)
    if mean is not None:
        (x, x_half), (y, y_half) = mean
        label = "mean over seeds, with its 95 % interval"
        axes.errorbar(x, y, y_half, x_half, fmt="s", color=_COLOURS["validation"], capsize=4, label=label)
        axes.legend(frameon=False)
    axes.margins(0.15)
    _lines_of_equal_elbo(axes)
    axes.set(
        title=f"rate and distortion, {split} split; in grey, lines of equal ELBO",
        xlabel="rate  KL(q(z|x) ‖ p(z)), nats per example",
        ylabel="distortion  −E log p(x|z), nats per example",
    )
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _labels(points: Sequence[Point], places: np.ndarray) -> list[tuple[tuple[float, float], str]]:
    """Where the labels go; points that follow each other on the same spot, as collapsed models do, share one."""
    spot = 0.04 * np.maximum(np.ptp(places, axis=0), 1e-30)
    shown: list[tuple[tuple[float, float], str]] = []
    for point in points:
        place = (point.rate, point.distortion)
        if shown and (abs(np.subtract(place, shown[-1][0])) < spot).all():
            first, label = shown[-1]
            shown[-1] = (first, f"{label}, {_plain(point.label)}")
        else:
            shown.append((place, _plain(point.label)))
    return shown


def _lines_of_equal_elbo(axes: Axes) -> None:
    """Where rate + distortion is constant, each with its ELBO where it enters the panel; the panel stays as it is."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(8).tick_values(left + bottom, right + top):
        x = np.array([max(left, total - top), min(right, total - bottom)])
        if x[0] < x[1]:
            axes.plot(x, total - x, color="0.85", linewidth=0.8, zorder=0)
            along: dict[str, Any] = {"rotation": -45, "rotation_mode": "anchor", "transform_rotates_text": True}
            start = x[0] + 0.01 * (right - left)
            axes.text(
                start,
                total - start,
                f"{-total:g}".replace("-", "−"),
                color="0.6",
                fontsize=7,
                clip_on=True,
                zorder=0,
                **along,
            )
    axes.set(xlim=(left, right), ylim=(bottom, top))


class Plane(NamedTuple):
    """A plane in the latent space, to look at codes in."""

    centre: np.ndarray  # [D]
    basis: np.ndarray  # [2, D], orthonormal rows; a row of zeros where there is no second direction
    names: tuple[str, str]  # of its axes

    def project(self, z: np.ndarray) -> np.ndarray:
        """[N, D] -> [N, 2]"""
        return (z - self.centre) @ self.basis.T

    def lift(self, point: np.ndarray) -> np.ndarray:
        """[..., 2] -> [..., D], in the plane."""
        return self.centre + point @ self.basis


def plane(codes: np.ndarray) -> Plane:
    """Up to two latents themselves; of more, the first two principal components of the codes [N, D]."""
    dim = codes.shape[1]
    if dim <= 2:
        return Plane(np.zeros(dim), np.eye(2, dim), ("z[0]", "z[1]" if dim == 2 else ""))
    centre = codes.mean(axis=0)
    _, singular, basis = np.linalg.svd(codes - centre, full_matrices=False)
    share = singular**2 / max(float(np.sum(singular**2)), 1e-30)
    found = min(2, len(share))  # one example has one component
    directions = np.zeros((2, dim))
    directions[:found] = basis[:found]
    names = [f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in range(found)]
    return Plane(centre, directions, (names[0], names[1] if found == 2 else ""))


def latent_space(mean: np.ndarray, labels: np.ndarray | None, path: Path) -> None:
    """The posterior means [N, D] of examples, coloured by their labels [N]: two latents directly, more by PCA."""
    seen = plane(mean)
    points, names = seen.project(mean), seen.names
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(8000 / len(points), 8, 30))
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, alpha=0.6, linewidths=0, color=_COLOURS["train"])
    else:
        classes = classes_of(labels)
        rest = points[labels != labels]  # NaN's
        axes.scatter(rest[:, 0], rest[:, 1], s=size, alpha=0.7, linewidths=0, color=NO_LABEL)
        colours = colormaps["tab10" if len(classes) <= 10 else "turbo"]
        for i, label in enumerate(classes):
            colour = colours(i if len(classes) <= 10 else i / len(classes))
            these = points[labels == label]
            axes.scatter(these[:, 0], these[:, 1], s=size, alpha=0.7, linewidths=0, color=colour, label=_plain(label))
        if len(classes) <= 20:
            axes.legend(frameon=False, markerscale=1.5, loc="center left", bbox_to_anchor=(1.0, 0.5), title="label")
    axes.set(title="posterior means", xlabel=names[0], ylabel=names[1], aspect="equal" if mean.shape[1] > 1 else "auto")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The labels that there are; NaN, and what else does not equal itself, is none."""
    classes = np.unique(labels)
    return classes[classes == classes]


def _plain(text: object) -> str:
    """A user's word as matplotlib is to show it: no mathematics, and in the legend even if it begins with `_`."""
    text = str(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def is_image(event: Shape) -> bool:
    """Whether an example is drawn as an image, and not as a line: of 1, 3 or 4 channels, and of no extreme form."""
    return len(event) == 3 and event[2] in (1, 3, 4) and max(event[:2]) <= _LONGEST * min(event[:2])


def _grid(x: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, C] in rows of `columns`, a white pixel between them; the rest of the last row is white."""
    num, height, width, channels = x.shape
    rows = math.ceil(num / columns)
    grid = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, channels))
    for i, image in enumerate(np.clip(x, 0.0, 1.0)):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        grid[top : top + height, left : left + width] = image
    return grid


def _show(axes: Axes, image: np.ndarray, *, frame: bool = False) -> None:
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0.0, vmax=1.0, aspect="equal")
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    if frame:
        axes.tick_params(length=0)
    else:
        axes.axis("off")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
