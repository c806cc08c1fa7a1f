"""Figures of a run. Each function takes arrays and returns a `matplotlib.figure.Figure`, to be shown or saved.

jaxvae.plots.samples(x).savefig("samples.png")
"""

from jaxvae.plots.base import NO_LABEL
from jaxvae.plots.codes import Plane, classes_of, is_quantity, kl_per_dimension, latent_space, plane
from jaxvae.plots.curves import curves_of_runs, learning_curves
from jaxvae.plots.examples import Panel, alone, comparison, is_image, manifold, reconstructions, samples, strips
from jaxvae.plots.tradeoff import Point, rate_distortion

__all__ = [
    "NO_LABEL",
    "Panel",
    "Plane",
    "Point",
    "alone",
    "classes_of",
    "comparison",
    "curves_of_runs",
    "is_image",
    "is_quantity",
    "kl_per_dimension",
    "latent_space",
    "learning_curves",
    "manifold",
    "plane",
    "rate_distortion",
    "reconstructions",
    "samples",
    "strips",
]
