"""Distributions of real numbers, and of numbers between 0 and 1."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import numerics, special
from jaxvae.distributions.base import Independent, pytree, static
from jaxvae.typing import Array, Key, Shape

_SMALLEST = 2.0**-24  # the distance from 1 to the next smaller float32
_TINY = 2.0**-126  # XLA may take smaller numbers for 0


@pytree
@dataclasses.dataclass(frozen=True)
class Laplace(Independent):
    """Independent Laplace distributions: density exp(-|x - mean| / b) / 2b."""

    mean: Array  # [*batch, *event]
    log_scale: Array  # [*batch, *event], or a shape that broadcasts to it: log b
    event_ndims: int = static(1)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, *event]."""
        mean, log_scale = numerics.aligned(self.mean, self.log_scale)
        noise = jax.random.laplace(key, sample_shape + mean.shape, mean.dtype)
        lead = (None,) * len(sample_shape)
        return mean[lead] + jnp.exp(log_scale)[lead] * noise

    def log_prob_by_entry(self, value: Array) -> Array:
        """log density of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        mean, log_scale, x = numerics.aligned(self.mean, self.log_scale, value)
        return -math.log(2.0) - log_scale - numerics.magnitude(x - mean) * jnp.exp(-log_scale)


@pytree
@dataclasses.dataclass(frozen=True)
class StudentT(Independent):
    """Independent Student's t distributions with a location and a scale."""

    mean: Array  # [*batch, *event]
    log_scale: Array  # [*batch, *event], or a shape that broadcasts to it
    degrees_of_freedom: float = static(4.0)  # greater than 1, so that there is a mean
    event_ndims: int = static(1)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, *event]."""
        mean, log_scale = numerics.aligned(self.mean, self.log_scale)
        noise = jax.random.t(key, self.degrees_of_freedom, sample_shape + mean.shape, mean.dtype)
        lead = (None,) * len(sample_shape)
        return mean[lead] + jnp.exp(log_scale)[lead] * noise

    def log_prob_by_entry(self, value: Array) -> Array:
        """log density of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        mean, log_scale, x = numerics.aligned(self.mean, self.log_scale, value)
        nu = self.degrees_of_freedom
        # Both log-gamma values grow with ν, and their difference loses precision.
        ratio = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu) if nu < 1e6 else 0.5 * math.log(0.5 * nu)
        constant = ratio - 0.5 * math.log(nu * math.pi)
        distance = jnp.square((x - mean) * jnp.exp(-log_scale))
        return constant - log_scale - 0.5 * (nu + 1.0) * jnp.log1p(distance / nu)


@pytree
@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(Independent):
    """Independent values in [0, 1] with a density proportional to exp(logit · x); Loaiza-Ganem and Cunningham (2019).

    The Bernoulli mass at such values is not a density: it lacks the normalizing constant.
    """

    logits: Array  # [*batch, *event]
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        (logits,) = numerics.aligned(self.logits)
        return 0.5 * (1.0 + special.langevin(0.5 * logits))

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, *event], by the inverse CDF."""
        (logits,) = numerics.aligned(self.logits)
        u = jax.random.uniform(key, sample_shape + logits.shape, logits.dtype, minval=_SMALLEST)  # neither 0 nor 1
        logits = logits[(None,) * len(sample_shape)]
        small = jnp.abs(logits) < 1e-3
        slope = jnp.where(small, 1.0, -jnp.abs(logits))  # negative, so that the exponentials are small
        towards_0 = jnp.log1p(jnp.where(logits > 0, 1.0 - u, u) * jnp.expm1(slope)) / slope
        x = jnp.where(logits > 0, 1.0 - towards_0, towards_0)
        return jnp.clip(jnp.where(small, u + 0.5 * logits * u * (1.0 - u), x), 0.0, 1.0)

    def log_prob_by_entry(self, value: Array) -> Array:
        """log density of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        logits, x = numerics.aligned(self.logits, value)
        size = jnp.abs(logits)
        far = size > 1.0
        # ∫ exp(lx) dx = exp(l/2) sinh(l/2) / (l/2); for large l, from the distance to the end that has the mass
        near = (x - 0.5) * logits - special.log_sinhc(0.5 * jnp.where(far, 0.0, logits))
        size = jnp.where(far, size, 2.0)
        distance = jnp.where(logits > 0, 1.0 - x, x)
        return jnp.where(far, jnp.log(size) - size * distance - jnp.log1p(-jnp.exp(-size)), near)


@pytree
@dataclasses.dataclass(frozen=True)
class Beta(Independent):
    """Independent values between 0 and 1 with density x^(a-1) (1-x)^(b-1) / B(a, b)."""

    a: Array  # [*batch, *event]
    b: Array  # [*batch, *event]
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        a, b = numerics.aligned(self.a, self.b)
        return a / (a + b)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws, [*sample_shape, *batch, *event], with the implicit gradient of the gamma distributions."""
        a, b = numerics.aligned(self.a, self.b)
        return jax.random.beta(key, a, b, sample_shape + a.shape, a.dtype)

    def log_prob_by_entry(self, value: Array) -> Array:
        """log density of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        a, b, x = numerics.aligned(self.a, self.b, value)
        # Values rounded to an end are moved inside, where the density is finite; other small values are in the data.
        least = jnp.finfo(x.dtype).epsneg
        x = jnp.where(x == 0.0, least, jnp.clip(x, _TINY, 1.0 - least))
        far = (a > special.SADDLE_FROM + 1.0) & (b > special.SADDLE_FROM + 1.0)
        near = (
            (a - 1.0) * jnp.log(x)
            + (b - 1.0) * jnp.log1p(-x)
            - special.log_beta(jnp.where(far, 1.0, a), jnp.where(far, 1.0, b))
        )
        # The density is a + b - 1 times the probability of a - 1 successes in a + b - 2 trials of probability x.
        a, b = (jnp.where(far, n - 1.0, special.SADDLE_FROM) for n in (a, b))
        x = jnp.where(far, x, 0.5)  # near an end, what is not used would have no derivative
        binomial = special.log_binomial_mass(a, b, (a + b) * x, (a + b) * (1.0 - x), a * (1.0 - x) - b * x)
        return jnp.where(far, jnp.log(a + b + 1.0) + binomial, near)
