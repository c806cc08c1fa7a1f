"""The rate–distortion plane."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxvae.plots.base import COLOURS, new_figure, plain


class Point(NamedTuple):
    """A model's point in the rate–distortion plane, in nats per example."""

    label: str
    rate: float
    distortion: float


def rate_distortion(
    points: Sequence[Point],
    *,
    split: str,
    ordered_by: str | None = None,
    mean: tuple[tuple[float, float], ...] | None = None,
) -> Figure:
    """The rate–distortion plane with its lines of equal ELBO; Alemi et al. (2018), figure 1.

    If `ordered_by` names the quantity by which the points are ordered, a line joins them. `mean` holds the mean rate
    and the mean distortion, each with the half-width of its 95 % interval.
    """
    figure = new_figure(6.4, 5)
    axes = figure.subplots()
    places = np.array([(p.rate, p.distortion) for p in points])
    axes.plot(*places.T, "o-" if ordered_by else "o", color=COLOURS["train"], linewidth=1.5, markersize=5)
    for place, label in _labels(points, places):
        text = f"{ordered_by} = {label}" if ordered_by else label
        axes.annotate(text, place, xytext=(5, 5), textcoords="offset points", fontsize=9 if ordered_by else 7)
    if mean is not None:
        (x, x_half), (y, y_half) = mean
        label = "mean over seeds, with its 95 % interval"
        axes.errorbar(x, y, y_half, x_half, fmt="s", color=COLOURS["validation"], capsize=4, label=label)
        axes.legend(frameon=False)
    axes.margins(0.15)
    left, right = axes.get_xlim()
    axes.set_xlim(left=max(left, min(0.0, places[:, 0].min()) - 0.04 * (right - left)))  # a rate is not negative
    _lines_of_equal_elbo(axes)
    axes.set(
        title=f"rate and distortion, {split} split; in grey, lines of equal ELBO",
        xlabel="rate  KL(q(z|x) ‖ p(z)), nats per example",
        ylabel="distortion  −E log p(x|z), nats per example",
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _labels(points: Sequence[Point], places: np.ndarray) -> list[tuple[tuple[float, float], str]]:
    """The labels and their places; successive points on the same spot, as of collapsed models, share one label."""
    spot = 0.04 * np.maximum(np.ptp(places, axis=0), 1e-30)
    shown: list[tuple[tuple[float, float], str]] = []
    for point in points:
        place = (point.rate, point.distortion)
        if shown and (abs(np.subtract(place, shown[-1][0])) < spot).all():
            first, label = shown[-1]
            shown[-1] = (first, f"{label}, {plain(point.label)}")
        else:
            shown.append((place, plain(point.label)))
    return shown


def _lines_of_equal_elbo(axes: Axes) -> None:
    """Draws lines of constant rate + distortion, each with its ELBO where it enters the panel, and keeps the limits."""
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
