"""Figures of examples side by side: images as images, anything else as lines, some of two entries as points."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from jaxvae.plots.base import COLOURS, NO_LABEL, WHEEL, new_figure, plain
from jaxvae.typing import Shape

_LONGEST = 8  # times as long as wide: the picture of anything longer would be useless or endless
_MARGIN = 0.1  # of a cell


def is_image(event: Shape) -> bool:
    """Whether an example is drawn as an image, not as a line: it has 1, 3 or 4 channels and is not too elongated."""
    return len(event) == 3 and event[2] in (1, 3, 4) and max(event[:2]) <= _LONGEST * min(event[:2])


def alone(line: np.ndarray) -> np.ndarray:
    """The indices of the values [N] between missing ones: a line through them would not show them."""
    gaps = np.pad(np.isnan(line), 1, constant_values=True)
    return np.flatnonzero(~gaps[1:-1] & gaps[:-2] & gaps[2:])


def samples(x: np.ndarray, *, units: str = "") -> Figure:
    """A grid of images [N, *event] in [0, 1]; other examples as a grid of lines of one scale, in `units`.

    Examples of two entries are points of the plane.
    """
    columns = math.ceil(math.sqrt(len(x)))
    if is_image(x.shape[1:]):
        figure = new_figure(6, 6 * math.ceil(len(x) / columns) / columns * x.shape[1] / x.shape[2], layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        _show(axes, _grid(x, columns))
    elif _is_point(x.shape[1:]):
        figure, axes = _new_plane(units)
        first, second = x.reshape(-1, 2).T
        size = float(np.clip(4000 / len(x), 4, 30))
        axes.scatter(first, second, s=size, color=COLOURS["train"], linewidths=0)
    else:
        figure = new_figure(7, 0.4 + 4.5 * math.ceil(len(x) / columns) / columns)
        axes = figure.subplots()
        _draw_cells(axes, x.reshape(len(x), -1), columns)
        axes.set(xlabel="entry", ylabel=f"value{units}")
    return figure


def manifold(x: np.ndarray, *, units: str = "") -> Figure:
    """Decoded means [R, C, *event] on a grid in the plane of two latents; see `samples`.

    Of examples of two entries the image of the grid's lines is drawn.
    """
    if not _is_point(x.shape[2:]):
        return samples(x.reshape(-1, *x.shape[2:]), units=units)
    figure, axes = _new_plane(units)
    first, second = np.moveaxis(x.reshape(*x.shape[:2], 2), -1, 0)
    for lines in ((first, second), (first.T, second.T)):
        axes.plot(*lines, color=COLOURS["train"], linewidth=0.8)
    return figure


def reconstructions(x: np.ndarray, x_hat: np.ndarray, *, units: str = "") -> Figure:
    """Inputs [N, *event] in the upper row of each pair, their reconstructions below.

    Images, in [0, 1], are drawn in rows of ten, and what does not fill a row is left out. Examples of two entries are
    points of the plane, joined to their reconstructions.
    """
    if is_image(x.shape[1:]):
        columns = min(len(x), 10)
        rows = len(x) // columns
        height, width = x.shape[1:3]
        figure = new_figure(8, 0.4 + rows * 1.6 * height / width)
        for axes, start in zip(np.ravel(figure.subplots(rows, 1)), range(0, rows * columns, columns), strict=True):
            pair = np.concatenate([x[start : start + columns], x_hat[start : start + columns]])
            _show(axes, _grid(pair, columns), frame=True)
            axes.set_yticks([height / 2, 1.5 * height + 1], ["input", "reconstruction"])
    elif _is_point(x.shape[1:]):
        figure, axes = _new_plane(units)
        first, second = np.moveaxis(np.stack([x, x_hat]).reshape(2, -1, 2), -1, 0)  # [2, N] each
        axes.plot(first, second, color=NO_LABEL, linewidth=1, zorder=0)
        axes.scatter(first[0], second[0], label="input", color="black", s=16)
        axes.scatter(first[1], second[1], label="reconstruction", color=COLOURS["validation"], s=16)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    else:
        rows = min(len(x), 6)
        figure = new_figure(7, 1.5 * rows)
        for i, axes in enumerate(np.ravel(figure.subplots(rows, 1))):
            _draw_line(axes, x[i], label="input", color="black", linewidth=1)
            _draw_line(axes, x_hat[i], label="reconstruction", color=COLOURS["validation"], linewidth=1)
        figure.axes[0].legend(frameon=False)
        figure.axes[-1].set_xlabel("entry")
        figure.supylabel(f"value{units}", fontsize="medium")
    return figure


def strips(
    x: np.ndarray, *, rows: Sequence[str], columns: Sequence[str] = (), units: str = "", first_apart: bool = False
) -> Figure:
    """Examples [R, C, *event] in labelled rows; a row is one path through the latent space, or one comparison.

    As lines, an example is the lighter the later it is in its row. If it is compared with the others of its row, the
    first is `first_apart`: black.
    """
    num, length = x.shape[:2]
    if is_image(x.shape[2:]):
        height, width = x.shape[2:4]
        ratio = height / width
        names = [plain(r) for r in rows]
        figure = new_figure(0.35 + max(map(_width, names)) + 0.6 * length, 0.35 + 0.6 * ratio * num)
        axes = figure.subplots()
        axes.set_anchor("W")  # around a centred image of fixed shape, the layout would cut off the names
        _show(axes, _grid(x.reshape(num * length, *x.shape[2:]), length), frame=True)
        axes.set_yticks([height / 2 + i * (height + 1) for i in range(num)], names)
        axes.xaxis.tick_top()
        axes.set_xticks([width / 2 + i * (width + 1) for i in range(len(columns))], columns, fontsize=8)
    else:
        figure = new_figure(8, 0.4 + 1.1 * num)
        shades: list[Any] = list(colormaps["viridis"](np.linspace(0.0, 0.9, length)))
        named = [f"from dark, {columns[0]}, to light, {columns[-1]}"] if columns else []
        if first_apart and length > 1:
            shades = ["black", *colormaps["viridis"](np.linspace(0.3, 0.95, length - 1))]
            named = [f"black, {columns[0]}", f"from dark, {columns[1]}, to light, {columns[-1]}"] if columns else []
        for i, axes in enumerate(figure.subplots(num, 1, sharex=True, sharey=True, squeeze=False)[:, 0]):
            for j, (shade, line) in enumerate(zip(shades, x[i], strict=True)):
                apart = first_apart and j == 0
                _draw_line(axes, line, color=shade, linewidth=2 if apart else 1, zorder=3 if apart else 2)
            axes.set_ylabel(plain(rows[i]), rotation=0, ha="right", va="center")
            axes.locator_params(axis="y", nbins=2)
            axes.tick_params(axis="y", labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("; ".join(["entry", *named]))
        figure.supylabel(f"value{units}", fontsize="medium")
    return figure


class Panel(NamedTuple):
    """A quantity, and for each compared name its value with the half-width of its interval."""

    title: str
    unit: str
    values: Mapping[str, tuple[float, float]]


def comparison(x: np.ndarray, rows: Sequence[str], panels: Sequence[Panel], names: Sequence[str]) -> Figure:
    """Images [R, C, H, W, channels] in named rows, and below them a panel of points with intervals for each quantity.

    `names` are the compared names, in order.
    """
    num, length, height, width = x.shape[:4]
    below, across = math.ceil(len(panels) / 4), 4
    top = 0.75 * num * height / width
    figure = new_figure(11, top + 2.4 * below + 0.4)
    # Two subfigures, so that the long names of the rows do not push the panels aside.
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[top, 2.4 * below + 0.4])[:, 0]
    axes = upper.subplots()
    _show(axes, _grid(x.reshape(num * length, *x.shape[2:]), length), frame=True)
    axes.set_yticks([height / 2 + i * (height + 1) for i in range(num)], rows)
    colours = dict(zip(names, WHEEL, strict=False))
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
    return figure


def _is_point(event: Shape) -> bool:
    return math.prod(event) == 2


def _new_plane(units: str) -> tuple[Figure, Axes]:
    """A figure whose axes are the two entries of an example."""
    figure = new_figure(5, 5)
    axes = figure.subplots()
    axes.set(xlabel=f"entry 0{units}", ylabel=f"entry 1{units}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_line(axes: Axes, event: np.ndarray, at: np.ndarray | None = None, **style: Any) -> None:
    """Draws an example as a line, with gaps at NaN and dots where a value stands alone; `at` is where, not 0, 1, …"""
    line = event.ravel()
    lone = alone(line).tolist()
    at = np.arange(len(line)) if at is None else at
    axes.plot(at, line, **style, **({"marker": ".", "markevery": lone} if lone else {}))


def _draw_cells(axes: Axes, x: np.ndarray, columns: int) -> None:
    """Draws lines [N, length] in the cells of a grid of unit squares, row by row from the top; the scale is shared."""
    rows, last = math.ceil(len(x) / columns), x.shape[1] - 1
    x = x.astype(np.float64)  # a difference of two may be beyond the largest float16
    finite = x[np.isfinite(x)] if np.isfinite(x).any() else np.zeros(1)
    across, upwards = _Ends(0.0, float(last)), _Ends(float(finite.min()), float(finite.max()))
    at, heights = across.placed(np.arange(last + 1.0)), upwards.placed(x)
    for i, line in enumerate(heights):
        _draw_line(axes, line + rows - 1 - i // columns, at + i % columns, linewidth=0.8, color=COLOURS["train"])
    axes.hlines(range(rows + 1), 0, columns, color=NO_LABEL, linewidth=0.5)
    axes.vlines(range(columns + 1), 0, rows, color=NO_LABEL, linewidth=0.5)
    axes.set(xlim=(-0.01, columns + 0.01), ylim=(-0.01, rows + 0.01))  # the outer lines as thick as the others
    axes.set_xticks(*across.ticks())  # of one cell, for all have the same scale
    axes.set_yticks(*upwards.ticks())
    axes.tick_params(labelsize=7)
    axes.spines[:].set_visible(False)


class _Ends(NamedTuple):
    """The ends of a scale, which are a margin away from those of a unit interval."""

    low: float
    high: float

    def placed(self, values: np.ndarray) -> np.ndarray:
        if self.high == self.low:
            return 0.5 + 0.0 * values
        return _MARGIN + (1.0 - 2.0 * _MARGIN) * (values - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[np.ndarray, list[str]]:
        """The places of the ends, and their labels, with digits enough to tell them apart."""
        ends = np.unique([self.low, self.high])
        largest = float(np.abs(ends).max())
        digits = 2 + math.ceil(math.log10(largest / (self.high - self.low))) if len(ends) > 1 else 3
        return self.placed(ends), [f"{end:.{max(3, digits)}g}" for end in ends.tolist()]


def _width(text: str) -> float:
    """The width of a label of an axis, in inches."""
    if not text.strip():
        return 0.0
    size = FontProperties(size=rcParams["ytick.labelsize"])
    return float(TextPath((0, 0), text, prop=size).get_extents().width) / 72


def _grid(x: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, C] in rows of `columns`, one white pixel apart; the rest of the last row is white."""
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
