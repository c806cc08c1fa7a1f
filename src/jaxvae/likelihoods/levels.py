"""Likelihoods of grey levels and classes: whole numbers up to a maximum."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import distributions, numerics
from jaxvae.checks import require_number
from jaxvae.likelihoods.base import Likelihood, in_parts
from jaxvae.typing import Array, Params, Support


@dataclasses.dataclass(frozen=True)
class Categorical(Likelihood):
    """Independent classes or grey levels, with a free logit for each value; van den Oord et al. (2016)."""

    num_classes: int = 256
    """The number of values 0 … num_classes - 1; 17 in `digits`."""

    def __post_init__(self) -> None:
        require_number(self, "num_classes", low=2, integer=True)

    @property
    def support(self) -> Support:
        return Support(0.0, self.num_classes - 1.0, integer=True)

    def param_size(self, channels: int) -> int:
        return channels * self.num_classes

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Categorical:
        logits = outputs.reshape(*outputs.shape[:-1], outputs.shape[-1] // self.num_classes, self.num_classes)
        return distributions.Categorical(logits, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        levels = jnp.arange(self.num_classes) / (self.num_classes - 1.0)
        levels = levels[(None,) * data_mean.ndim]

        def mean(tilt: Array) -> Array:
            return jnp.sum(jax.nn.softmax(tilt[..., None] * levels) * levels, axis=-1)

        wanted = jnp.clip(data_mean / (self.num_classes - 1.0), 0.001, 0.999)
        reach = jnp.full_like(wanted, 1100.0)
        tilt = numerics.bisect(lambda tilt: mean(tilt) < wanted, -reach, reach)
        return (tilt[..., None] * levels).reshape(*data_mean.shape[:-1], -1)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic(Likelihood):
    """Grey levels 0 … high, each with the mass of a logistic within ½ of it; Salimans et al. (2017), section 2.1.

    For each entry the decoder gives the location and the log of the scale, in units of `high`.
    """

    high: int = 255
    """The largest grey level."""

    def __post_init__(self) -> None:
        require_number(self, "high", low=1, high=65535, integer=True)

    @property
    def support(self) -> Support:
        return Support(0.0, float(self.high), integer=True)

    def param_size(self, channels: int) -> int:
        return 2 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.DiscretizedLogistic:
        location, log_scale = in_parts(outputs, 2, event_ndims)
        return _logistic(location, log_scale, self.high, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        return jnp.concatenate([data_mean / self.high, jnp.full_like(data_mean, _NARROW)], axis=-1)


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Likelihood):
    """Grey or coloured pixels 0 … high, from a mixture of discretized logistics; Salimans et al. (2017), section 2.1.

    The channels of a pixel share the mixture component, and are independent given it. A vector is one pixel, so images
    should not be flattened.
    """

    num_components: int = 5
    """The number of logistic distributions in the mixture of each pixel."""
    high: int = 255
    """The largest grey level."""

    def __post_init__(self) -> None:
        require_number(self, "num_components", low=1, integer=True)
        require_number(self, "high", low=1, high=65535, integer=True)

    @property
    def support(self) -> Support:
        return Support(0.0, float(self.high), integer=True)

    def param_size(self, channels: int) -> int:
        return self.num_components * (1 + 2 * channels)

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.LogisticMixture:
        *lead, size = outputs.shape
        by_component = outputs.reshape(*lead, size // self.num_components, self.num_components)
        logits, rest = by_component[..., :1, :], by_component[..., 1:, :]
        location, log_scale = jnp.split(rest, 2, axis=-2)
        return distributions.LogisticMixture(logits, _logistic(location, log_scale, self.high, 0), event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        mean = data_mean / self.high
        # Spread out, since identical components would stay identical.
        apart = jnp.linspace(-0.05, 0.05, self.num_components) if self.num_components > 1 else jnp.zeros(1)
        location = mean[..., None] + apart[(None,) * mean.ndim]
        parts = [jnp.zeros_like(location[..., :1, :]), location, jnp.full_like(location, _NARROW)]
        return jnp.concatenate(parts, axis=-2).reshape(*mean.shape[:-1], -1)


_NARROW = -3.0  # the initial log-scale of the pixels, in units of the largest value


def _logistic(location: Array, log_scale: Array, high: int, event_ndims: int) -> distributions.DiscretizedLogistic:
    location, log_scale = numerics.aligned(location, log_scale)
    log_scale = numerics.bounded(log_scale, 15.0) + math.log(high)
    return distributions.DiscretizedLogistic(high * location, log_scale, high, event_ndims)
