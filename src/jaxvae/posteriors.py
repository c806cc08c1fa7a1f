"""Posteriors q(z|x): how the numbers that the encoder returns are read as a distribution over the latent variable."""

import abc
import dataclasses

import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.distributions import Delta as DeltaDistribution
from jaxvae.distributions import Normal
from jaxvae.typing import Array, Distribution, Key, Params


@dataclasses.dataclass(frozen=True)
class Posterior(abc.ABC):
    """A family of distributions over z, one for each x."""

    @property
    @abc.abstractmethod
    def has_density(self) -> bool:
        """Whether q(z|x) is a density, so that an ELBO made with it is a bound on log p(x)."""

    @abc.abstractmethod
    def param_size(self, latent_dim: int) -> int:
        """How many numbers the encoder must return for a latent variable of `latent_dim` entries."""

    @abc.abstractmethod
    def init(self, key: Key, latent_dim: int) -> Params:
        """Parameters of the family's own, beside the encoder's output; an empty dict if there are none."""

    @abc.abstractmethod
    def distribution(self, params: Params, outputs: Array) -> Distribution:
        """q(z|x), batch shape [B], from the encoder's outputs [B, param_size]."""


@dataclasses.dataclass(frozen=True)
class DiagonalGaussian(Posterior):
    """N(μ(x), diag σ²(x)): two linear heads, for μ and for log σ², on the encoder's shared trunk.

    The lecture's μ = g2(g1(x)) and σ = h2(h1(x)) with g1 = h1; Kingma and Welling (2014), eq. 9.
    """

    @property
    def has_density(self) -> bool:
        return True

    def param_size(self, latent_dim: int) -> int:
        return 2 * latent_dim

    def init(self, key: Key, latent_dim: int) -> Params:
        return {}

    def distribution(self, params: Params, outputs: Array) -> Normal:
        mean, log_var = jnp.split(outputs, 2, axis=-1)
        return Normal(mean, numerics.bound_log_var(log_var))


@dataclasses.dataclass(frozen=True)
class Delta(Posterior):
    """One point for each x: what makes the model the lecture's plain autoencoder.

    It has no density, so there is no bound on log p(x): with a `Gaussian` likelihood of fixed variance σ² the loss is
    the squared distance over 2σ², up to a constant.
    """

    @property
    def has_density(self) -> bool:
        return False

    def param_size(self, latent_dim: int) -> int:
        return latent_dim

    def init(self, key: Key, latent_dim: int) -> Params:
        return {}

    def distribution(self, params: Params, outputs: Array) -> DeltaDistribution:
        return DeltaDistribution(outputs)
