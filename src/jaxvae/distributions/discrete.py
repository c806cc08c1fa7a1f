"""Distributions of whole numbers: binary, classes, counts, and the grey levels of images."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxvae import draws, numerics, special
from jaxvae.distributions.base import Independent, pytree, static
from jaxvae.typing import Array, Key, Shape


@pytree
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Independent values 0 or 1, given by logits: probabilities would round to 0 and 1, and their logs overflow."""

    logits: Array  # [*batch, *event]
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        return jax.nn.sigmoid(*numerics.aligned(self.logits))

    @property
    def variance(self) -> Array:
        (logits,) = numerics.aligned(self.logits)
        return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws of 0 and 1 in the type of the logits, [*sample_shape, *batch, *event]; no gradient passes."""
        return draws.bernoulli(key, self.logits, sample_shape + self.logits.shape).astype(self.logits.dtype)

    def log_prob(self, value: Array) -> Array:
        """log mass at `value` [..., *batch, *event], in nats: [..., *batch]."""
        logits, value = numerics.aligned(self.logits, value)
        return numerics.bernoulli_log_mass_sum(logits, value, self.event_ndims)

    def marginal_log_prob(self, value: Array, observed: Array) -> Array:
        """log density or mass of the entries where `observed`, booleans of `value`'s shape, is true: [..., *batch]."""
        logits, value = numerics.aligned(self.logits, jnp.where(observed, value, 0.0))
        by_entry = numerics.bernoulli_log_mass(logits, value)
        return numerics.sum_last(jnp.where(observed, by_entry, 0.0), self.event_ndims)


@pytree
@dataclasses.dataclass(frozen=True)
class Categorical(Independent):
    """Independent classes 0 … K-1, given by logits."""

    logits: Array  # [*batch, *event, K]
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        """The mean of the class index."""
        (logits,) = numerics.aligned(self.logits)
        return jnp.sum(jax.nn.softmax(logits) * _levels(logits, logits.ndim), axis=-1)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws as floats, [*sample_shape, *batch, *event]; no gradient passes."""
        shape = sample_shape + self.logits.shape[:-1]
        (logits,) = numerics.aligned(self.logits)  # noise of 16 bits has ties, which go to the first class
        return jax.random.categorical(key, logits, shape=shape).astype(logits.dtype)

    def log_prob_by_entry(self, value: Array) -> Array:
        """log mass of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        (logits,) = numerics.aligned(self.logits)
        logits = logits[(None,) * (value.ndim + 1 - logits.ndim)]
        chosen = value[..., None].astype(jnp.float32) == _levels(logits, logits.ndim)
        return jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1) - jax.nn.logsumexp(logits, axis=-1)


def _levels(logits: Array, ndim: int) -> Array:
    return jnp.arange(logits.shape[-1], dtype=jnp.float32)[(None,) * (ndim - 1)]


_MOST = 2.0**30  # the largest rate of a Poisson draw, which is a 32-bit integer


@pytree
@dataclasses.dataclass(frozen=True)
class NegativeBinomial(Independent):
    """Independent counts 0, 1, … with mean μ and variance μ + μ²/r."""

    log_mean: Array  # [*batch, *event], log μ
    log_dispersion: Array  # [*batch, *event], log r; Poisson in the limit of large r
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        return jnp.exp(*numerics.aligned(self.log_mean))

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws as floats, [*sample_shape, *batch, *event]; no gradient passes."""
        rate_key, count_key = jax.random.split(draws.as_threefry(key))  # JAX has no Poisson draws of other keys
        log_mean, log_r = numerics.aligned(self.log_mean, self.log_dispersion)
        shape = sample_shape + jnp.broadcast_shapes(log_mean.shape, log_r.shape)
        log_mean, log_r = (jnp.broadcast_to(a, shape) for a in (log_mean, log_r))
        rate = jnp.exp(jax.random.loggamma(rate_key, jnp.exp(log_r), dtype=log_r.dtype) + log_mean - log_r)
        rate = jnp.minimum(rate, _MOST)
        return jax.random.poisson(count_key, rate).astype(log_mean.dtype)

    def log_prob_by_entry(self, value: Array) -> Array:
        """log mass of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        log_mean, log_r, x = numerics.aligned(self.log_mean, self.log_dispersion, value)
        r = jnp.exp(log_r)
        far = (r > special.SADDLE_FROM) & (x > special.SADDLE_FROM)
        succeeds, fails = -jax.nn.softplus(log_r - log_mean), -jax.nn.softplus(log_mean - log_r)
        # The binomial coefficient of x + r - 1 and x is 1 / ((x + r) B(r, x + 1)).
        near = r * fails + x * succeeds - jnp.log(x + r)
        near = near - special.log_beta(jnp.where(far, 1.0, r), jnp.where(far, 1.0, x + 1.0))
        near = jnp.where(x == 0.0, r * fails, near)  # most counts of a cell are 0, and their rounding would add up
        # The mass is r / (x + r) times the probability of r successes in x + r trials of probability r / (μ + r).
        mean_r, mean_x = (x + r) * jnp.exp(fails), (x + r) * jnp.exp(succeeds)
        excess = jnp.exp(fails) * (jnp.exp(log_mean) - x)
        r, x, mean_r, mean_x = (jnp.where(far, n, special.SADDLE_FROM) for n in (r, x, mean_r, mean_x))
        binomial = special.log_binomial_mass(r, x, mean_r, mean_x, jnp.where(far, excess, 0.0))
        return jnp.where(far, jnp.log(r / (x + r)) + binomial, near)


@pytree
@dataclasses.dataclass(frozen=True)
class ZeroInflated(Independent):
    """Counts with additional zeros: mass π at 0, plus 1 - π times the mass of `counts`."""

    gate_logits: Array  # [*batch, *event], of π
    counts: NegativeBinomial
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        (gate_logits,) = numerics.aligned(self.gate_logits)
        return jax.nn.sigmoid(-gate_logits) * self.counts.mean

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws as floats, [*sample_shape, *batch, *event]; no gradient passes."""
        gate_key, count_key = jax.random.split(key)
        counts = self.counts.sample(count_key, sample_shape)
        return jnp.where(draws.bernoulli(gate_key, self.gate_logits, counts.shape), 0.0, counts)

    def log_prob_by_entry(self, value: Array) -> Array:
        """log mass of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        gate, value = numerics.aligned(self.gate_logits, value)
        counted = jax.nn.log_sigmoid(-gate) + self.counts.log_prob_by_entry(value)
        return jnp.where(value == 0.0, jnp.logaddexp(jax.nn.log_sigmoid(gate), counted), counted)


@pytree
@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic(Independent):
    """Whole numbers 0 … high, each with the mass of a logistic within ½ of it; the ends include its tails.

    Salimans et al. (2017), section 2.1, with one component, in the units of the data. The masses are exact for
    log-scales between -85 and 85.
    """

    location: Array  # [*batch, *event]
    log_scale: Array  # [*batch, *event], or a shape that broadcasts to it
    high: int = static(255)
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        """Σ_j P(x ≥ j), [*batch, *event]: exact."""
        location, log_scale = numerics.aligned(self.location, self.log_scale)
        scale = jnp.exp(-log_scale)

        def at_least(j: int | Array) -> Array:
            return jax.nn.sigmoid((location - j + 0.5) * scale)

        return jax.lax.fori_loop(2, self.high + 1, lambda j, total: total + at_least(j), at_least(1))

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws as floats, [*sample_shape, *batch, *event]; no gradient passes."""
        location, log_scale = numerics.aligned(self.location, self.log_scale)
        noise = jax.random.logistic(key, sample_shape + location.shape, location.dtype)
        lead = (None,) * len(sample_shape)
        return jnp.clip(jnp.round(location[lead] + jnp.exp(log_scale)[lead] * noise), 0.0, float(self.high))

    def log_prob_by_entry(self, value: Array) -> Array:
        """log mass of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        location, log_scale, x = numerics.aligned(self.location, self.log_scale, value)
        per_unit = jnp.exp(-log_scale)
        above, below = (x + 0.5 - location) * per_unit, (x - 0.5 - location) * per_unit
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)), without cancellation.
        left = jnp.where(x >= self.high, 0.0, jax.nn.log_sigmoid(above))
        right = jnp.where(x <= 0.0, 0.0, jax.nn.log_sigmoid(-below))
        inner = (x > 0.0) & (x < self.high)
        return left + right + jnp.where(inner, special.log_one_minus_exp(per_unit), 0.0)


@pytree
@dataclasses.dataclass(frozen=True)
class LogisticMixture:
    """Pixels 0 … high from a mixture of M discretized logistics; the channels of a pixel share the component.

    Salimans et al. (2017), section 2.1, without their regression of one channel on another.
    """

    logits: Array  # [*batch, *image, 1, M], of the components of a pixel
    components: DiscretizedLogistic  # [*batch, *image, C, M]
    event_ndims: int = static(3)

    @property
    def mean(self) -> Array:
        (logits,) = numerics.aligned(self.logits)
        return jnp.sum(jax.nn.softmax(logits) * self.components.mean, axis=-1)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws as floats, [*sample_shape, *batch, *event]; no gradient passes."""
        which_key, value_key = jax.random.split(key)
        (logits,) = numerics.aligned(self.logits)
        which = jax.random.categorical(which_key, logits, shape=sample_shape + logits.shape[:-1])
        values = self.components.sample(value_key, sample_shape)
        return jnp.take_along_axis(values, which[..., None], axis=-1)[..., 0]

    def log_prob(self, value: Array) -> Array:
        """log mass at `value` [..., *batch, *event], in nats: [..., *batch]."""
        return self.marginal_log_prob(value, jnp.ones(value.shape, bool))

    def marginal_log_prob(self, value: Array, observed: Array) -> Array:
        """log density or mass of the entries where `observed`, booleans of `value`'s shape, is true: [..., *batch]."""
        by_pixel = jax.nn.logsumexp(self._joint(value, observed), axis=-1)
        return numerics.sum_last(by_pixel, self.event_ndims - 1)

    def conditional_mean(self, value: Array, observed: Array) -> Array:
        """The mean of each entry given the observed ones: observed channels of a pixel inform about its component."""
        weights = jax.nn.softmax(self._joint(value, observed), axis=-1)[..., None, :]
        means = self.components.mean
        return jnp.sum(weights * means[(None,) * (weights.ndim - means.ndim)], axis=-1)

    def conditional_sample(self, key: Key, value: Array, observed: Array) -> Array:
        """A draw of all entries given the observed ones, in the shape of `conditional_mean`."""
        which_key, value_key = jax.random.split(key)
        which = jax.random.categorical(which_key, self._joint(value, observed))[..., None, None]
        values = self.components.sample(value_key, which.shape[: max(0, which.ndim - self.logits.ndim)])
        return jnp.take_along_axis(values, which, axis=-1)[..., 0]

    def _joint(self, value: Array, observed: Array) -> Array:
        """Joint log mass of each component and the observed channels of each pixel, [..., *batch, *image, M]."""
        by_entry = self.components.log_prob_by_entry(jnp.where(observed, value, 0.0)[..., None])
        by_entry = jnp.where(observed[..., None], by_entry, 0.0)
        (logits,) = numerics.aligned(self.logits[..., 0, :])
        log_weights = jax.nn.log_softmax(logits)
        return log_weights[(None,) * (value.ndim - log_weights.ndim)] + jnp.sum(by_entry, axis=-2)
