"""Pictures of a run. Each function takes arrays and a path, draws one figure, and keeps no state."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Path = str | pathlib.Path
Record = Mapping[str, Any]

# Colour-blind safe (Okabe and Ito, 2008); training and validation keep theirs in every panel.
_COLOURS = {"train": "#0072B2", "validation": "#D55E00"}


def learning_curves(records: Sequence[Record], path: Path) -> None:
    """ELBO, distortion and rate against the step, each in a panel of its own, from the lines of `metrics.jsonl`."""
    names = [n for n in ("elbo", "distortion", "rate") if any(r.get(n) is not None for r in records)]
    figure = Figure(figsize=(4 * len(names), 3.2), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        for split, colour in _COLOURS.items():
            points = [(r["step"], r[name]) for r in records if r["split"] == split and r.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=split, linewidth=1.5)
        ends = [r[name] for r in records[len(records) // 20 :] if r.get(name) is not None]
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
    if _is_image(x):
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
    if _is_image(x):
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


def latent_space(mean: np.ndarray, labels: np.ndarray | None, path: Path) -> None:
    """The posterior means [N, D] of examples, coloured by their labels [N]: two latents directly, more by PCA."""
    names = ["z[0]", "z[1]"]
    points = mean
    if mean.shape[1] == 1:
        points, names = np.concatenate([mean, np.zeros_like(mean)], axis=1), ["z[0]", ""]
    elif mean.shape[1] > 2:
        centred = mean - mean.mean(axis=0)
        _, singular, basis = np.linalg.svd(centred, full_matrices=False)
        share = singular**2 / max(float(np.sum(singular**2)), 1e-30)
        found = min(2, len(share))  # one example has one component
        points = np.zeros((len(mean), 2))
        points[:, :found] = centred @ basis[:found].T
        names = [f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in range(found)] + [""]
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(8000 / len(points), 8, 30))
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, alpha=0.6, linewidths=0, color=_COLOURS["train"])
    else:
        classes = np.unique(labels)
        colours = colormaps["tab10" if len(classes) <= 10 else "turbo"]
        for i, label in enumerate(classes):
            colour = colours(i if len(classes) <= 10 else i / len(classes))
            these = points[labels == label]
            axes.scatter(these[:, 0], these[:, 1], s=size, alpha=0.7, linewidths=0, color=colour, label=str(label))
        if len(classes) <= 20:
            axes.legend(frameon=False, markerscale=1.5, loc="center left", bbox_to_anchor=(1.0, 0.5), title="label")
    axes.set(title="posterior means", xlabel=names[0], ylabel=names[1], aspect="equal" if mean.shape[1] > 1 else "auto")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _is_image(x: np.ndarray) -> bool:
    return x.ndim == 4 and x.shape[-1] in (1, 3, 4)


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
