"""Examples as a person is shown them."""

import jax.numpy as jnp
import numpy as np

from jaxvae.data import Raw
from jaxvae.experiment.config import Experiment
from jaxvae.typing import Params


def units_of(experiment: Experiment) -> str:
    """What an axis says of values that `to_eye` gave."""
    return ", in standard units" if experiment.model.likelihood.standardizes else ""


def to_eye(experiment: Experiment, params: Params, x: np.ndarray, *, like: np.ndarray) -> np.ndarray:
    """As it is, since every preprocessing but `Raw` puts values in [0, 1]; its images stretched to the range of `like`.

    What is drawn as a line is in standard units, where the likelihood has them. What was not observed is dark in an
    image, and NaN, a gap, in a line.
    """
    from jaxvae.plots import is_image

    if not is_image(experiment.model.event_shape or ()):
        return in_standard_units(experiment, params, x)
    if isinstance(experiment.data.preprocess, Raw):
        x = (x - np.nanmin(like)) / max(float(np.nanmax(like) - np.nanmin(like)), 1e-30)
    return np.nan_to_num(x)


def in_standard_units(experiment: Experiment, params: Params, x: np.ndarray) -> np.ndarray:
    """As it is, but of a likelihood that has them in its own standard units."""
    likelihood = experiment.model.likelihood
    return np.asarray(likelihood.seen(params["likelihood"], jnp.asarray(x))) if likelihood.standardizes else x
