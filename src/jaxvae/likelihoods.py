"""Likelihoods p(x|z): how the numbers that the decoder returns are read as a distribution over an example."""

import abc
import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvae import distributions, numerics
from jaxvae.typing import Array, Distribution, Key, Params, Support


def seen(support: Support, x: Array) -> Array:
    """What the encoder is given of x [..., *event], by the values that it can have.

    Whole numbers come to the size of 1: those up to a largest are divided by it, counts without one become log(1 + x).
    What was not observed (NaN) is 0.
    """
    if support.missing:
        x = jnp.where(jnp.isnan(x), 0.0, x)
    if not support.integer or support.high <= 1:
        return x
    return jnp.log1p(x) if math.isinf(support.high) else x / support.high


@dataclasses.dataclass(frozen=True)
class Likelihood(abc.ABC):
    """A family of distributions over x, one for each z."""

    @property
    @abc.abstractmethod
    def support(self) -> Support:
        """The values for which it is a distribution."""

    @abc.abstractmethod
    def param_size(self, channels: int) -> int:
        """How many numbers the decoder must return on the last axis, where an event has `channels` entries there."""

    @abc.abstractmethod
    def init(self, key: Key) -> Params:
        """Parameters of the family's own, beside the decoder's output; an empty dict if there are none."""

    @abc.abstractmethod
    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> Distribution:
        """p(x|z), batch shape [...], from the decoder's outputs [..., *event[:-1], param_size]."""

    @abc.abstractmethod
    def initial_outputs(self, data_mean: Array) -> Array:
        """The outputs [*event[:-1], param_size] under which p(x|z) has the mean `data_mean` [*event].

        A decoder whose output bias starts here does not spend its first epochs on learning the average image.
        """


@dataclasses.dataclass(frozen=True)
class WithoutParams(Likelihood):
    """A family that is all in the decoder's output."""

    def init(self, key: Key) -> Params:
        return {}


@dataclasses.dataclass(frozen=True)
class Bernoulli(WithoutParams):
    """Independent binary pixels, by their logits; Kingma and Welling (2014), appendix C.1."""

    @property
    def support(self) -> Support:
        return Support(0.0, 1.0, integer=True)

    def param_size(self, channels: int) -> int:
        return channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Bernoulli:
        return distributions.Bernoulli(outputs, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        # The bounds are those of Burda et al.'s code: a pixel that is never on must still be able to turn on.
        mean = jnp.clip(data_mean, 0.001, 0.999)
        return jnp.log(mean) - jnp.log1p(-mean)


@dataclasses.dataclass(frozen=True)
class Variance(abc.ABC):
    """Where a likelihood of real numbers takes its variance, or its squared scale, from."""

    @abc.abstractmethod
    def init(self, key: Key) -> Params: ...

    @abc.abstractmethod
    def split(self, params: Params, outputs: Array) -> tuple[Array, Array]:
        """Mean and log-variance from the decoder's outputs."""

    @property
    @abc.abstractmethod
    def outputs_per_entry(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class PerPixel(Variance):
    """A variance for each pixel of each example, from the decoder."""

    @property
    def outputs_per_entry(self) -> int:
        return 2

    def init(self, key: Key) -> Params:
        return {}

    def split(self, params: Params, outputs: Array) -> tuple[Array, Array]:
        mean, log_var = jnp.split(outputs, 2, axis=-1)
        return mean, numerics.bound_log_var(log_var)


@dataclasses.dataclass(frozen=True)
class Shared(Variance):
    """One learned variance for all pixels of all examples."""

    initial: float = 1.0
    """Its value before training."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "initial", low=0.0, strict=True)

    @property
    def outputs_per_entry(self) -> int:
        return 1

    def init(self, key: Key) -> Params:
        return {"log_var": jnp.log(jnp.float32(self.initial))}

    def split(self, params: Params, outputs: Array) -> tuple[Array, Array]:
        return outputs, numerics.bound_log_var(params["log_var"])


@dataclasses.dataclass(frozen=True)
class Fixed(Variance):
    """One variance for all pixels of all examples, which stays as it is."""

    value: float = 1.0
    """The variance σ² itself, in squared units of the data."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "value", low=0.0, strict=True)

    @property
    def outputs_per_entry(self) -> int:
        return 1

    def init(self, key: Key) -> Params:
        return {}

    def split(self, params: Params, outputs: Array) -> tuple[Array, Array]:
        return outputs, jnp.full((), math.log(self.value), outputs.dtype)


@dataclasses.dataclass(frozen=True)
class OfReals(Likelihood):
    """A location and a spread for each entry."""

    @property
    @abc.abstractmethod
    def _spread(self) -> Variance: ...

    @property
    def support(self) -> Support:
        return Support(-math.inf, math.inf)

    def param_size(self, channels: int) -> int:
        return channels * self._spread.outputs_per_entry

    def init(self, key: Key) -> Params:
        return self._spread.init(key)

    def initial_outputs(self, data_mean: Array) -> Array:
        rest = data_mean.shape[:-1] + (self.param_size(data_mean.shape[-1]) - data_mean.shape[-1],)
        return jnp.concatenate([data_mean, jnp.zeros(rest)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Gaussian(OfReals):
    """Independent normal pixels; Kingma and Welling (2014), appendix C.2.

    By default the decoder gives a mean and a variance for each pixel, as in the lecture. A density has no upper bound:
    on data whose pixels do not vary, the variance goes to its floor and the log-likelihood with it. Dequantize such
    data.
    """

    variance: Variance = PerPixel()
    """`PerPixel()`, `Shared()` or `Fixed(value)`."""

    @property
    def _spread(self) -> Variance:
        return self.variance

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Normal:
        mean, log_var = self.variance.split(params, outputs)
        return distributions.Normal(mean, log_var, event_ndims)


@dataclasses.dataclass(frozen=True)
class Laplace(OfReals):
    """Independent Laplace's, the absolute distance to the median: density exp(-|x - m| / b) / 2b."""

    squared_scale: Variance = PerPixel()
    """Of b²: `PerPixel()`, `Shared()` or `Fixed(value)`. The variance is 2b²."""

    @property
    def _spread(self) -> Variance:
        return self.squared_scale

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Laplace:
        mean, log_square = self.squared_scale.split(params, outputs)
        return distributions.Laplace(mean, 0.5 * log_square, event_ndims)


@dataclasses.dataclass(frozen=True)
class StudentT(OfReals):
    """Independent Student's t, which a few entries far off hardly move; Takahashi et al. (2018)."""

    degrees_of_freedom: float = 4.0
    """More than 1; the larger, the nearer to normal."""
    squared_scale: Variance = PerPixel()
    """`PerPixel()`, `Shared()` or `Fixed(value)`. With more than 2 degrees ν the variance is ν / (ν - 2) times it."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "degrees_of_freedom", low=1.0, strict=True)

    @property
    def _spread(self) -> Variance:
        return self.squared_scale

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.StudentT:
        mean, log_square = self.squared_scale.split(params, outputs)
        return distributions.StudentT(mean, 0.5 * log_square, self.degrees_of_freedom, event_ndims)


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(WithoutParams):
    """Independent values in [0, 1] with density ∝ exp(logit · x); Loaiza-Ganem and Cunningham (2019).

    What many take for it, the Bernoulli's mass at grey values, lacks the constant and is no density.
    """

    @property
    def support(self) -> Support:
        return Support(0.0, 1.0)

    def param_size(self, channels: int) -> int:
        return channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.ContinuousBernoulli:
        return distributions.ContinuousBernoulli(outputs, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        mean = jnp.clip(data_mean, 0.001, 0.999)
        return _solve(lambda logits: distributions.ContinuousBernoulli(logits).mean, mean, 1100.0)


@dataclasses.dataclass(frozen=True)
class Beta(WithoutParams):
    """Independent values between 0 and 1 with density ∝ x^(a-1) (1-x)^(b-1): a mean, and a concentration a + b."""

    @property
    def support(self) -> Support:
        return Support(0.0, 1.0, open=True)

    def param_size(self, channels: int) -> int:
        return 2 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Beta:
        logits, log_concentration = jnp.split(numerics.bounded(outputs, 12.0), 2, axis=-1)
        total = 2.0 * jnp.exp(log_concentration)
        return distributions.Beta(total * jax.nn.sigmoid(logits), total * jax.nn.sigmoid(-logits), event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        mean = jnp.clip(data_mean, 0.001, 0.999)
        return jnp.concatenate([jnp.log(mean) - jnp.log1p(-mean), jnp.zeros_like(mean)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Categorical(WithoutParams):
    """Independent classes, or grey levels of which nothing is assumed: a logit for each; van den Oord et al. (2016)."""

    num_classes: int = 256
    """Of the values 0 … num_classes - 1; 17 in `digits`."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "num_classes", low=2, integer=True)

    @property
    def support(self) -> Support:
        return Support(0.0, self.num_classes - 1.0, integer=True)

    def param_size(self, channels: int) -> int:
        return channels * self.num_classes

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Categorical:
        logits = outputs.reshape(*outputs.shape[:-1], -1, self.num_classes)
        return distributions.Categorical(logits, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        levels = jnp.arange(self.num_classes) / (self.num_classes - 1.0)
        levels = levels[(None,) * data_mean.ndim]

        def mean(tilt: Array) -> Array:
            return jnp.sum(jax.nn.softmax(tilt[..., None] * levels) * levels, axis=-1)

        wanted = jnp.clip(data_mean / (self.num_classes - 1.0), 0.001, 0.999)
        tilt = _solve(mean, wanted, 1100.0)
        return (tilt[..., None] * levels).reshape(*data_mean.shape[:-1], -1)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic(WithoutParams):
    """Grey levels 0 … high, by the mass of a logistic within ½ of each; Kingma et al. (2016), section 4.

    The decoder gives, for each entry, the location and the logarithm of the scale in units of `high`.
    """

    high: int = 255
    """The largest value."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "high", low=1, high=65535, integer=True)

    @property
    def support(self) -> Support:
        return Support(0.0, float(self.high), integer=True)

    def param_size(self, channels: int) -> int:
        return 2 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.DiscretizedLogistic:
        location, log_scale = jnp.split(outputs, 2, axis=-1)
        return _logistic(location, log_scale, self.high, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        return jnp.concatenate([data_mean / self.high, jnp.full_like(data_mean, _NARROW)], axis=-1)


@dataclasses.dataclass(frozen=True)
class LogisticMixture(WithoutParams):
    """Grey or coloured pixels 0 … high, by a mixture of discretized logistics; Salimans et al. (2017), section 2.1.

    The channels of a pixel share the component, and are independent given it.
    """

    num_components: int = 5
    """How many."""
    high: int = 255
    """The largest value."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "num_components", low=1, integer=True)
        numerics.require_number(self, "high", low=1, high=65535, integer=True)

    @property
    def support(self) -> Support:
        return Support(0.0, float(self.high), integer=True)

    def param_size(self, channels: int) -> int:
        return self.num_components * (1 + 2 * channels)

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.LogisticMixture:
        by_component = outputs.reshape(*outputs.shape[:-1], -1, self.num_components)
        logits, rest = by_component[..., :1, :], by_component[..., 1:, :]
        location, log_scale = jnp.split(rest, 2, axis=-2)
        return distributions.LogisticMixture(logits, _logistic(location, log_scale, self.high, 0), event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        mean = data_mean / self.high
        # Apart from each other, since components that are alike stay alike.
        apart = jnp.linspace(-0.05, 0.05, self.num_components) if self.num_components > 1 else jnp.zeros(1)
        location = mean[..., None] + apart[(None,) * mean.ndim]
        parts = [jnp.zeros_like(location[..., :1, :]), location, jnp.full_like(location, _NARROW)]
        return jnp.concatenate(parts, axis=-2).reshape(*mean.shape[:-1], -1)


_NARROW = -3.0  # log of the scale that pixels begin with, in units of the largest value


def _logistic(location: Array, log_scale: Array, high: int, event_ndims: int) -> distributions.DiscretizedLogistic:
    log_scale = numerics.bounded(log_scale, 15.0) + math.log(high)
    return distributions.DiscretizedLogistic(high * location, log_scale, high, event_ndims)


@dataclasses.dataclass(frozen=True)
class NegativeBinomial(WithoutParams):
    """Independent counts, of a mean and a dispersion that the decoder gives: variance μ + μ²/r; Lopez et al. (2018)."""

    @property
    def support(self) -> Support:
        return Support(0.0, math.inf, integer=True)

    def param_size(self, channels: int) -> int:
        return 2 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.NegativeBinomial:
        log_mean, log_dispersion = jnp.split(numerics.bounded(outputs, 15.0), 2, axis=-1)
        return distributions.NegativeBinomial(log_mean, log_dispersion, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        return jnp.concatenate([jnp.log(jnp.maximum(data_mean, 1e-3)), jnp.zeros_like(data_mean)], axis=-1)


@dataclasses.dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(WithoutParams):
    """Counts that are 0 with a further probability, as where they were not measured; Lopez et al. (2018), eq. 3."""

    @property
    def support(self) -> Support:
        return Support(0.0, math.inf, integer=True)

    def param_size(self, channels: int) -> int:
        return 3 * channels

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.ZeroInflated:
        log_mean, log_dispersion, gate = jnp.split(numerics.bounded(outputs, 15.0), 3, axis=-1)
        counts = distributions.NegativeBinomial(log_mean, log_dispersion, event_ndims)
        return distributions.ZeroInflated(gate, counts, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        gate = jnp.full_like(data_mean, -2.0)
        log_mean = jnp.log(jnp.maximum(data_mean, 1e-3)) + jax.nn.softplus(gate)
        return jnp.concatenate([log_mean, jnp.zeros_like(gate), gate], axis=-1)


@dataclasses.dataclass(frozen=True)
class Incomplete(Likelihood):
    """Another likelihood, of examples in which entries were not observed: NaN; Nazabal et al. (2020), section 3.

    What is missing is integrated out of p(x|z), and is 0 to the encoder.
    """

    likelihood: Likelihood = Bernoulli()
    """Of the whole examples."""

    @property
    def support(self) -> Support:
        return self.likelihood.support._replace(missing=True)

    def param_size(self, channels: int) -> int:
        return self.likelihood.param_size(channels)

    def init(self, key: Key) -> Params:
        return self.likelihood.init(key)

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Observed:
        return distributions.Observed(self.likelihood.distribution(params, outputs, event_ndims))

    def initial_outputs(self, data_mean: Array) -> Array:
        return self.likelihood.initial_outputs(data_mean)


def _solve(mean: Callable[[Array], Array], wanted: Array, reach: float) -> Array:
    """Where a function that rises has the values `wanted`, between ±reach."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        less = mean(middle) < wanted
        return jnp.where(less, middle, low), jnp.where(less, high, middle)

    start = jnp.full_like(wanted, reach)
    low, high = jax.lax.fori_loop(0, 40, halve, (-start, start))
    return 0.5 * (low + high)


def mask(x: Array, observed: Array) -> Array:
    """x with NaN where it was not observed: what an `Incomplete` likelihood takes.

    Args:
      x: [..., *event]; what is not observed may have any value.
      observed: true or false, of the shape of x.

    Raises:
      ValueError: the shapes differ.
    """
    numerics.require(
        jnp.shape(x) == jnp.shape(observed),
        f"x {jnp.shape(x)} and observed {jnp.shape(observed)} must have the same shape",
    )
    return jnp.where(observed, x, jnp.nan)
