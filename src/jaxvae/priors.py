"""Priors p(z)."""

import abc
import dataclasses

import jax.numpy as jnp

from jaxvae.distributions import Normal
from jaxvae.typing import Distribution, Key, Params


@dataclasses.dataclass(frozen=True)
class Prior(abc.ABC):
    """A distribution over z, with parameters of its own where it is learned."""

    @abc.abstractmethod
    def init(self, key: Key, latent_dim: int) -> Params:
        """Its parameters; an empty dict if there are none."""

    @abc.abstractmethod
    def distribution(self, params: Params, latent_dim: int) -> Distribution:
        """p(z), batch shape (), event shape [D]."""


@dataclasses.dataclass(frozen=True)
class StandardNormal(Prior):
    """N(0, I), the lecture's "standard distribution" to which q(z|x) is held."""

    def init(self, key: Key, latent_dim: int) -> Params:
        return {}

    def distribution(self, params: Params, latent_dim: int) -> Normal:
        return Normal(jnp.zeros(latent_dim), jnp.zeros(latent_dim))
