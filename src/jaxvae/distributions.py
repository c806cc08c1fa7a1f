"""Distributions as small frozen pytrees, with the two methods of NumPyro's: `sample(key, sample_shape)` and `log_prob`.

Each is a batch of independent events: `log_prob` sums over the last `event_ndims` axes and returns nats.
"""

import dataclasses
from collections.abc import Callable
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


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normal:
    """Independent normals: N(mean, diag(exp(log_var)))."""

    mean: Array  # [*batch, *event]
    log_var: Array  # [*batch, *event], or a shape that broadcasts to it
    event_ndims: int = _static(1)

    @property
    def variance(self) -> Array:
        return jnp.exp(self.log_var)

    @property
    def std(self) -> Array:
        return jnp.exp(0.5 * self.log_var)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, *event]."""
        return reparameterize(key, self.mean, self.std, sample_shape=sample_shape)

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., *batch, *event], in nats: [..., *batch]."""
        mean, log_var, value = numerics.aligned(self.mean, self.log_var, value)
        return numerics.sum_last(numerics.normal_log_density(mean, log_var, value), self.event_ndims)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Independent values of 0 or 1, by their logits: probabilities round to 0 and 1, their logarithms overflow."""

    logits: Array  # [*batch, *event]
    event_ndims: int = _static(1)

    @property
    def mean(self) -> Array:
        return jax.nn.sigmoid(self.logits)

    @property
    def variance(self) -> Array:
        return jax.nn.sigmoid(self.logits) * jax.nn.sigmoid(-self.logits)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws of 0 and 1 in the type of the logits, [*sample_shape, *batch, *event]; no gradient passes."""
        shape = sample_shape + self.logits.shape
        return (jax.random.uniform(key, shape) < jnp.broadcast_to(self.mean, shape)).astype(self.logits.dtype)

    def log_prob(self, value: Array) -> Array:
        """log mass at `value` [..., *batch, *event], in nats: [..., *batch]."""
        logits, value = numerics.aligned(self.logits, value)
        return numerics.bernoulli_log_mass_sum(logits, value, self.event_ndims)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Delta:
    """All mass on one point: the encoding of the plain autoencoder.

    It has no density against Lebesgue measure. By convention `log_prob` is 0 (and its KL, in the table below, is 0), so
    that an objective is left with its reconstruction term; what results is a loss and not a bound on log p(x).
    """

    value: Array  # [*batch, *event]
    event_ndims: int = _static(1)

    @property
    def mean(self) -> Array:
        return self.value

    @property
    def std(self) -> Array:
        return jnp.zeros_like(self.value)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """The point itself, repeated: [*sample_shape, *batch, *event]. The key is not used."""
        return jnp.broadcast_to(self.value, sample_shape + self.value.shape)

    def log_prob(self, value: Array) -> Array:
        """Zeros, [..., *batch]: see the class."""
        return jnp.zeros(value.shape[: value.ndim - self.event_ndims])


def _kl_by_entry_normal_normal(q: Normal, p: Normal) -> Array:
    return numerics.normal_kl(*numerics.aligned(q.mean, q.log_var, p.mean, p.log_var))


def _kl_normal_normal(q: Normal, p: Normal) -> Array:
    return numerics.sum_last(_kl_by_entry_normal_normal(q, p), q.event_ndims)


def _kl_delta(q: Delta, p: Distribution) -> Array:
    return q.log_prob(q.value)


# The closed forms that exist, by the types of q and p (`object`: any p). What is not here is None, and an objective
# that asked for a closed form then says so.
CLOSED_FORM_KL: dict[tuple[type, type], Callable[[Any, Any], Array]] = {
    (Normal, Normal): _kl_normal_normal,
    (Delta, object): _kl_delta,
}


def kl_divergence(q: Distribution, p: Distribution) -> Array | None:
    """KL(q || p) in nats, one for each of the batch, or None where `CLOSED_FORM_KL` has no entry for the two types."""
    closed_form = CLOSED_FORM_KL.get((type(q), type(p))) or CLOSED_FORM_KL.get((type(q), object))
    return None if closed_form is None else closed_form(q, p)


# Those of them that are a sum over the entries of the event, as both distributions are independent in these.
KL_BY_ENTRY: dict[tuple[type, type], Callable[[Any, Any], Array]] = {(Normal, Normal): _kl_by_entry_normal_normal}


def kl_per_dimension(q: Distribution, p: Distribution) -> Array | None:
    """KL(q || p) in nats for each entry of the event, [*batch, D]: they add up to `kl_divergence`.

    None where `KL_BY_ENTRY` has no entry for the two types: there the KL is no such sum.
    """
    by_entry = KL_BY_ENTRY.get((type(q), type(p)))
    return None if by_entry is None else by_entry(q, p)
