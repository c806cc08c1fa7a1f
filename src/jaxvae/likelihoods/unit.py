"""Likelihoods of values from 0 to 1."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxvae import distributions, numerics
from jaxvae.likelihoods.base import Likelihood, in_parts
from jaxvae.typing import Array, Params, Support


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Independent binary pixels, given by logits; Kingma and Welling (2014), appendix C.1."""

    @property
    def support(self) -> Support:
        return Support(0.0, 1.0, integer=True)

    def param_size(self, channels: int) -> int:
        return channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Bernoulli:
        return distributions.Bernoulli(outputs, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        # The bounds are those of Burda et al.'s code: a pixel that is never on must still be able to turn on.
        mean = jnp.clip(data_mean, 0.001, 0.999)
        return jnp.log(mean) - jnp.log1p(-mean)


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """Independent values in [0, 1] with density ∝ exp(logit · x); Loaiza-Ganem and Cunningham (2019).

    The Bernoulli mass at grey values, often used in its place, lacks the normalizing constant and is not a density.
    """

    @property
    def support(self) -> Support:
        return Support(0.0, 1.0)

    def param_size(self, channels: int) -> int:
        return channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.ContinuousBernoulli:
        return distributions.ContinuousBernoulli(outputs, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        mean = jnp.clip(data_mean, 0.001, 0.999)
        reach = jnp.full_like(mean, 1100.0)
        return numerics.bisect(lambda logits: distributions.ContinuousBernoulli(logits).mean < mean, -reach, reach)


@dataclasses.dataclass(frozen=True)
class Beta(Likelihood):
    """Independent values between 0 and 1 with density ∝ x^(a-1) (1-x)^(b-1): given by mean and concentration a + b."""

    @property
    def support(self) -> Support:
        return Support(0.0, 1.0, open=True)

    def param_size(self, channels: int) -> int:
        return 2 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Beta:
        logits, log_concentration = in_parts(numerics.bounded(outputs, 12.0), 2, event_ndims)
        total = 2.0 * jnp.exp(log_concentration)
        return distributions.Beta(total * jax.nn.sigmoid(logits), total * jax.nn.sigmoid(-logits), event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        mean = jnp.clip(data_mean, 0.001, 0.999)
        return jnp.concatenate([jnp.log(mean) - jnp.log1p(-mean), jnp.zeros_like(mean)], axis=-1)
