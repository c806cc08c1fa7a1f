"""A point mass, and distributions made of others: mixtures, images under flows, observed entries, rescalings."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.distributions.base import pytree, sample_and_log_prob, static
from jaxvae.typing import Array, Distribution, Key, Shape


@pytree
@dataclasses.dataclass(frozen=True)
class Delta:
    """All mass on one point: the encoding of the plain autoencoder.

    It has no density with respect to Lebesgue measure. By convention `log_prob` is 0, as is its KL in `CLOSED_FORM_KL`,
    so that only the reconstruction term of an objective remains. The result is a loss, not a bound on log p(x).
    """

    value: Array  # [*batch, *event]
    event_ndims: int = static(1)

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


@pytree
@dataclasses.dataclass(frozen=True)
class Mixture:
    """A mixture of K distributions over vectors."""

    logits: Array  # [K], of the mixture weights
    components: Any  # a distribution with batch shape [K] over [D]

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws, [*sample_shape, D]; no gradient passes to the logits."""

        (logits,) = numerics.aligned(self.logits)

        def one(key: Key) -> Array:
            which_key, value_key = jax.random.split(key)
            return self.components.sample(value_key)[jax.random.categorical(which_key, logits)]

        # In chunks, since every draw samples all components and keeps one.
        keys = jax.random.split(key, math.prod(sample_shape))
        draws = jax.lax.map(one, keys, batch_size=min(256, len(keys)) or None)
        return draws.reshape(*sample_shape, draws.shape[-1])

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., D], in nats: [...]."""
        parts = self.components
        by_component = (
            parts.log_prob_of_each(value) if hasattr(parts, "log_prob_of_each") else parts.log_prob(value[..., None, :])
        )  # [..., K]
        (logits,) = numerics.aligned(self.logits)
        log_weights = jax.nn.log_softmax(logits)[(None,) * (by_component.ndim - 1)]
        return jax.nn.logsumexp(log_weights + by_component, axis=-1)


@pytree
@dataclasses.dataclass(frozen=True)
class Transformed:
    """The image of a distribution under invertible maps, applied in order; Rezende and Mohamed (2015), eq. 6."""

    base: Any  # a distribution with batch shape [*batch] over [D], and with its `mean`
    maps: tuple[Any, ...]  # each a bijection: forward(x) and inverse(y) -> (image, log |det of its Jacobian|)

    @property
    def centre(self) -> Array:
        """The image of the base's mean, [*batch, D]: in general not the distribution's mean."""
        return self._forward(self.base.mean)[0]

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, D]."""
        return self._forward(self.base.sample(key, sample_shape))[0]

    def sample_and_log_prob(self, key: Key, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Draws and their log-densities, without inverting a map."""
        start, log_prob = sample_and_log_prob(self.base, key, sample_shape)
        z, log_det = self._forward(start)
        return z, log_prob - log_det

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., *batch, D], in nats: [..., *batch].

        The maps are inverted, which in float32 is inexact where they are steep: for its own draws, the densities of
        `sample_and_log_prob` are the better ones.
        """
        value = jnp.broadcast_to(value, jnp.broadcast_shapes(value.shape, self.base.mean.shape))
        log_det = jnp.zeros(value.shape[:-1])
        for step in reversed(self.maps):
            value, term = step.inverse(value)
            log_det = log_det + term
        return self.base.log_prob(value) + log_det

    def _forward(self, value: Array) -> tuple[Array, Array]:
        log_det = jnp.zeros(value.shape[:-1])
        for step in self.maps:
            value, term = step.forward(value)
            log_det = log_det + term
        return value, log_det


@pytree
@dataclasses.dataclass(frozen=True)
class Observed:
    """A distribution over events, evaluated at values with NaN entries: these are integrated out."""

    base: Any  # a distribution with `marginal_log_prob`

    @property
    def mean(self) -> Array:
        return self.base.mean

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws of complete events, [*sample_shape, *batch, *event]."""
        return self.base.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        """log density or mass of the observed entries of `value` [..., *batch, *event], in nats: [..., *batch]."""
        return self.base.marginal_log_prob(value, ~jnp.isnan(value))

    def conditional_mean(self, value: Array) -> Array:
        """The mean of each entry given the observed ones of `value`, [..., *batch, *event]."""
        return _conditional_mean(self.base, value, ~jnp.isnan(value))

    def conditional_sample(self, key: Key, value: Array) -> Array:
        """A draw of all entries given the observed ones of `value`, [..., *batch, *event]."""
        return _conditional_sample(self.base, key, value, ~jnp.isnan(value))


def _conditional_mean(base: Any, value: Array, observed: Array) -> Array:
    """Calls the class's own method. A class without one has independent entries, so it is the mean."""
    own = getattr(base, "conditional_mean", None)
    return jnp.broadcast_to(base.mean, _beside(value, base) + base.mean.shape) if own is None else own(value, observed)


def _conditional_sample(base: Any, key: Key, value: Array, observed: Array) -> Array:
    own = getattr(base, "conditional_sample", None)
    return base.sample(key, _beside(value, base)) if own is None else own(key, value, observed)


def _beside(value: Array, base: Any) -> Shape:
    """The axes of `value` [..., *batch, *event] before those of the distribution."""
    return value.shape[: max(0, value.ndim - base.mean.ndim)]


@pytree
@dataclasses.dataclass(frozen=True)
class Rescaled:
    """The distribution of shift + scale · X, elementwise, for X from `base`."""

    base: Any  # of X: a batch of distributions over events
    shift: Array  # [*batch, *event], or a shape that broadcasts to it
    scale: Array  # the same; positive
    event_ndims: int = static(1)

    @property
    def mean(self) -> Array:
        return self._image(self.base.mean)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws, [*sample_shape, *batch, *event]."""
        return self._image(self.base.sample(key, sample_shape))

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., *batch, *event], in nats: [..., *batch]."""
        value, log_scale = self._standard(value)
        of_base, log_volume = numerics.aligned(
            self.base.log_prob(value), numerics.sum_last(log_scale, self.event_ndims)
        )
        return of_base - log_volume

    def marginal_log_prob(self, value: Array, observed: Array) -> Array:
        """log density or mass of the entries where `observed`, booleans of `value`'s shape, is true: [..., *batch]."""
        shift, value = numerics.aligned(self.shift, value)
        # NaN times 0 is NaN in the gradient too.
        value, log_scale = self._standard(jnp.where(observed, value, shift))
        log_volume = numerics.sum_last(jnp.where(observed, log_scale, 0.0), self.event_ndims)
        return self.base.marginal_log_prob(value, observed) - log_volume

    def conditional_mean(self, value: Array, observed: Array) -> Array:
        """The mean of each entry given those that are `observed`, [..., *batch, *event]."""
        return self._image(_conditional_mean(self.base, self._standard(value)[0], observed))

    def conditional_sample(self, key: Key, value: Array, observed: Array) -> Array:
        """A draw of all entries given those that are `observed`, [..., *batch, *event]."""
        return self._image(_conditional_sample(self.base, key, self._standard(value)[0], observed))

    def _image(self, x: Array) -> Array:
        shift, scale, x = numerics.aligned(self.shift, self.scale, x)
        return shift + scale * x

    def _standard(self, value: Array) -> tuple[Array, Array]:
        """The value of X, and the log of the scale of each entry of an event."""
        shift, scale, value = numerics.aligned(self.shift, self.scale, value)
        standard, log_scale = (value - shift) / scale, jnp.log(scale)
        of_batch = log_scale.ndim - self.event_ndims
        return standard, jnp.broadcast_to(log_scale, log_scale.shape[:of_batch] + standard.shape[of_batch:])


def embedding(q: Distribution) -> Array:
    """The distributions' means where they are known, else their `centre`: [*batch, D]."""
    point: Any = q
    return point.mean if hasattr(point, "mean") else point.centre
