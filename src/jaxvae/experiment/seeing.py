"""Examples prepared for display."""

import jax.numpy as jnp
import numpy as np

from jaxvae.data import Raw
from jaxvae.experiment.config import Experiment
from jaxvae.typing import Params


def units_of(experiment: Experiment) -> str:
    """The units of the values from `to_eye`, for the label of an axis."""
    return ", in standard units" if experiment.model.likelihood.standardizes else ""


def to_eye(experiment: Experiment, params: Params, x: np.ndarray, *, like: np.ndarray) -> np.ndarray:
    """x for display: images in [0, 1], other examples in standard units if the likelihood has them.

    Images with `Raw` are stretched so that the range of the likelihood's values becomes [0, 1], or that of `like` if
    these have no ends. Any other preprocessing puts values there. Missing entries are dark in an image, and NaN, a gap,
    in a line.
    """
    from jaxvae.plots import is_image

    if not is_image(experiment.model.event_shape or ()):
        return in_standard_units(experiment, params, x)
    if isinstance(experiment.data.preprocess, Raw):
        ends = experiment.model.likelihood.support[:2]
        low, high = ends if np.isfinite(ends).all() else (float(np.nanmin(like)), float(np.nanmax(like)))
        x = (x - low) / max(high - low, 1e-30)
    return np.nan_to_num(x)


def in_standard_units(experiment: Experiment, params: Params, x: np.ndarray) -> np.ndarray:
    """x in the likelihood's standard units if it has them, else x itself."""
    likelihood = experiment.model.likelihood
    return np.asarray(likelihood.seen(params["likelihood"], jnp.asarray(x))) if likelihood.standardizes else x
