"""The interface of a flow, and helpers for the flows' networks."""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae.typing import Array, Key, Params

MOST_LAYERS = 1000  # each is traced by itself, so a stranger's model could ask for days of it


@dataclasses.dataclass(frozen=True)
class Flow(abc.ABC):
    """A family of invertible maps of [D]."""

    @abc.abstractmethod
    def context_size(self, latent_dim: int) -> int:
        """The size of the context vector that an example's maps are made from."""

    @abc.abstractmethod
    def init(self, key: Key, latent_dim: int) -> Params:
        """The initial values of the parameters that all examples share."""

    @abc.abstractmethod
    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[Any, ...]:
        """The maps made from contexts [*batch, context_size], in the order in which draws pass through them."""


def beside(z: Array, row: Array) -> Array:
    """Adds leading axes to a row, so that it broadcasts over a batch z."""
    return row[(None,) * (z.ndim - 1)]


def dense(key: Key, fan_in: int, fan_out: int, scale: float = 1.0) -> Array:
    """Random weights that preserve the scale of their inputs, times `scale`."""
    return jax.random.normal(key, (fan_in, fan_out), jnp.float32) * (scale / math.sqrt(max(fan_in, 1)))
