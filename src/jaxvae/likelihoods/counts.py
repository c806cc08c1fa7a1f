"""Likelihoods of counts: whole numbers without a maximum."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import distributions, numerics
from jaxvae.likelihoods.base import Likelihood, in_parts
from jaxvae.typing import Array, Params, Support


@dataclasses.dataclass(frozen=True)
class NegativeBinomial(Likelihood):
    """Independent counts with mean μ and dispersion r from the decoder: variance μ + μ²/r; Lopez et al. (2018)."""

    @property
    def support(self) -> Support:
        return Support(0.0, math.inf, integer=True)

    def param_size(self, channels: int) -> int:
        return 2 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.NegativeBinomial:
        log_mean, log_dispersion = in_parts(numerics.bounded(outputs, 15.0), 2, event_ndims)
        return distributions.NegativeBinomial(log_mean, log_dispersion, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        return jnp.concatenate([jnp.log(jnp.maximum(data_mean, 1e-3)), jnp.zeros_like(data_mean)], axis=-1)


@dataclasses.dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(Likelihood):
    """Counts with additional zeros, for entries that were not measured; Lopez et al. (2018), eq. 3."""

    @property
    def support(self) -> Support:
        return Support(0.0, math.inf, integer=True)

    def param_size(self, channels: int) -> int:
        return 3 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.ZeroInflated:
        log_mean, log_dispersion, gate = in_parts(numerics.bounded(outputs, 15.0), 3, event_ndims)
        counts = distributions.NegativeBinomial(log_mean, log_dispersion, event_ndims)
        return distributions.ZeroInflated(gate, counts, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        gate = jnp.full_like(data_mean, -2.0)
        log_mean = jnp.log(jnp.maximum(data_mean, 1e-3)) + jax.nn.softplus(gate)
        return jnp.concatenate([log_mean, jnp.zeros_like(gate), gate], axis=-1)
