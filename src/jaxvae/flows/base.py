"""What a flow is, and the parts of their networks."""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Flow(abc.ABC):
    """A family of invertible maps of [D]."""

    @abc.abstractmethod
    def context_size(self, latent_dim: int) -> int:
        """The numbers of an example that its maps are made from."""

    @abc.abstractmethod
    def init(self, key: Key, latent_dim: int) -> Params:
        """The parameters that all examples share; the maps begin near the identity."""

    @abc.abstractmethod
    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[Any, ...]:
        """The maps, in the order of the draws' way through them, from the contexts [*batch, context_size]."""


def beside(z: Array, row: Array) -> Array:
    """A row for every z of a batch."""
    return row[(None,) * (z.ndim - 1)]


def dense(key: Key, fan_in: int, fan_out: int, scale: float = 1.0) -> Array:
    """Weights under which numbers of size 1 stay so."""
    return jax.random.normal(key, (fan_in, fan_out), jnp.float32) * (scale / math.sqrt(max(fan_in, 1)))
