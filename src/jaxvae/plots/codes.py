"""Figures of the codes of examples, and of each latent's rate."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from jaxvae.plots.base import COLOURS, NO_LABEL, new_figure, plain

_NAMED = 20  # the most labels in a legend; more numeric labels have a colour bar
_KINDS = 100  # the most distinct floats that are classes


class Plane(NamedTuple):
    """A plane in the latent space, onto which codes are projected."""

    centre: np.ndarray  # [D]
    basis: np.ndarray  # [2, D], orthonormal rows; a row of zeros where there is no second direction
    names: tuple[str, str]  # of the axes

    def project(self, z: np.ndarray) -> np.ndarray:
        """[N, D] -> [N, 2]"""
        return (z - self.centre) @ self.basis.T

    def lift(self, point: np.ndarray) -> np.ndarray:
        """[..., 2] -> [..., D], in the plane."""
        return self.centre + point @ self.basis


def plane(codes: np.ndarray) -> Plane:
    """The plane of one or two latents themselves, or of the first two principal components of codes [N, D]."""
    dim = codes.shape[1]
    if dim <= 2:
        return Plane(np.zeros(dim), np.eye(2, dim), ("z[0]", "z[1]" if dim == 2 else ""))
    centre = codes.mean(axis=0)
    _, singular, basis = np.linalg.svd(codes - centre, full_matrices=False)
    share = singular**2 / max(float(np.sum(singular**2)), 1e-30)
    found = min(2, len(share))  # a single example has one component
    directions = np.zeros((2, dim))
    directions[:found] = basis[:found]
    names = [f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in range(found)]
    return Plane(centre, directions, (names[0], names[1] if found == 2 else ""))


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The distinct labels, without NaN and others that do not equal themselves."""
    classes = np.unique(labels)
    return classes[classes == classes]


def is_quantity(labels: np.ndarray) -> bool:
    """Whether labels are numbers that seldom repeat, such as lengths: a quantity, not classes."""
    if not np.issubdtype(labels.dtype, np.floating):
        return False
    known = labels[~np.isnan(labels)]
    kinds, broken = len(np.unique(known)), bool((known != np.round(known)).any())
    return kinds > _KINDS or (broken and 2 * kinds > len(known))


def latent_space(mean: np.ndarray, labels: np.ndarray | None) -> Figure:
    """The posterior means [N, D] of examples, coloured by their labels [N]; more than two latents by PCA."""
    seen = plane(mean)
    points, names = seen.project(mean), seen.names
    figure = new_figure(6.4, 5.6)
    axes = figure.subplots()
    size = float(np.clip(8000 / len(points), 8, 30))
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, alpha=0.6, linewidths=0, color=COLOURS["train"])
    else:
        classes = classes_of(labels)
        style: dict[str, Any] = {"s": size, "alpha": 0.7, "linewidths": 0}
        known = labels == labels  # NaN is not
        axes.scatter(*points[~known].T, color=NO_LABEL, **style)
        if len(classes) <= _NAMED and not is_quantity(labels):
            wheel = colormaps["tab10" if len(classes) <= 10 else "turbo"]
            colours = [wheel(i if len(classes) <= 10 else i / len(classes)) for i in range(len(classes))]
            # In the order of the examples: drawn class by class, the last would cover the others.
            axes.scatter(*points[known].T, color=[colours[i] for i in np.searchsorted(classes, labels[known])], **style)
            for colour, label in zip(colours, classes, strict=True):
                axes.scatter([], [], color=colour, label=plain(label) or "(empty)", **style)
            if len(classes):
                axes.legend(frameon=False, markerscale=1.5, loc="center left", bbox_to_anchor=(1.0, 0.5), title="label")
        elif np.issubdtype(labels.dtype, np.number):
            style |= {"c": labels[known], "cmap": "viridis"}
            figure.colorbar(axes.scatter(*points[known].T, **style), label="label")
        else:
            style |= {"c": np.searchsorted(classes, labels[known]), "cmap": "turbo"}
            axes.scatter(*points[known].T, **style)
    axes.set(title="posterior means", xlabel=names[0], ylabel=names[1], aspect="equal" if mean.shape[1] > 1 else "auto")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def kl_per_dimension(kl: np.ndarray) -> Figure:
    """The rate of each latent [D], the largest first; it shows which latents the model uses."""
    order = np.argsort(kl)[::-1]
    figure = new_figure(8, 2.8)
    axes = figure.subplots()
    axes.bar(np.arange(len(kl)), kl[order], color=COLOURS["train"], width=0.8)
    named = order if len(kl) <= 50 else order[:0]
    axes.set_xticks(np.arange(len(named)), [str(d) for d in named], fontsize=8 if len(kl) <= 30 else 6)
    axes.set(title="rate of each latent", xlabel="latent", ylabel="nats per example")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
