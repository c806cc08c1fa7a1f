"""What the distributions share: the reparameterized draw, and sums over independent entries."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.typing import Array, Distribution, Key, Shape


def reparameterize(key: Key, mean: Array, std: Array, *, sample_shape: Shape = ()) -> Array:
    """z = mean + std · ε with ε ~ N(0, I) drawn from `key`: the lecture's reparameterization.

    The draw depends on no parameter, so the gradient of an expectation over z passes through `mean` and `std`;
    Kingma and Welling (2014), section 2.4.

    Args:
      key: the only source of randomness.
      mean: [*batch, D].
      std: [*batch, D], or a shape that broadcasts to it.
      sample_shape: leading axes of independent draws.

    Returns:
      [*sample_shape, *batch, D].
    """
    epsilon = jax.random.normal(key, sample_shape + jnp.shape(mean), jnp.result_type(mean))
    mean, std = (jnp.expand_dims(a, tuple(range(epsilon.ndim - jnp.ndim(a)))) for a in (mean, std))
    return mean + std * epsilon


def static(default: Any) -> Any:
    """A field that is part of a pytree's structure, and no array in it."""
    return dataclasses.field(default=default, metadata={"static": True})


class Independent(abc.ABC):
    """Independent entries: the log-density of the event is the sum of theirs."""

    event_ndims: int

    @abc.abstractmethod
    def log_prob_by_entry(self, value: Array) -> Array:
        """log density or mass of each entry at `value` [..., *batch, *event], in nats: the same shape."""

    def log_prob(self, value: Array) -> Array:
        """log density or mass at `value` [..., *batch, *event], in nats: [..., *batch]."""
        return numerics.sum_last(self.log_prob_by_entry(value), self.event_ndims)

    def marginal_log_prob(self, value: Array, observed: Array) -> Array:
        """That of the entries that are `observed` (true or false, of the shape of `value`): [..., *batch]."""
        by_entry = self.log_prob_by_entry(jnp.where(observed, value, 0.0))  # what is not may be NaN
        return numerics.sum_last(jnp.where(observed, by_entry, 0.0), self.event_ndims)


def sample_and_log_prob(q: Distribution, key: Key, sample_shape: Shape = ()) -> tuple[Array, Array]:
    """Draws and their log-densities, with gradients through both.

    A distribution that has a shorter way than its `log_prob`, as a flow has, has a method of this name.
    """
    own = getattr(q, "sample_and_log_prob", None)
    if own is not None:
        z, log_q = own(key, sample_shape)
        return z, log_q
    z = q.sample(key, sample_shape)
    return z, q.log_prob(z)
