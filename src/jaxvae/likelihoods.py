"""Likelihoods p(x|z): how the numbers that the decoder returns are read as a distribution over an example."""

import abc
import dataclasses
import math

import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.distributions import Bernoulli as BernoulliDistribution
from jaxvae.distributions import Normal
from jaxvae.typing import Array, Distribution, Key, Params, Support


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
class Bernoulli(Likelihood):
    """Independent binary pixels, by their logits; Kingma and Welling (2014), appendix C.1."""

    @property
    def support(self) -> Support:
        return Support(0.0, 1.0, integer=True)

    def param_size(self, channels: int) -> int:
        return channels

    def init(self, key: Key) -> Params:
        return {}

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> BernoulliDistribution:
        return BernoulliDistribution(outputs, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        # The bounds are those of Burda et al.'s code: a pixel that is never on must still be able to turn on.
        mean = jnp.clip(data_mean, 0.001, 0.999)
        return jnp.log(mean) - jnp.log1p(-mean)


@dataclasses.dataclass(frozen=True)
class Variance(abc.ABC):
    """Where a Gaussian likelihood takes its variance from."""

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
class Gaussian(Likelihood):
    """Independent normal pixels; Kingma and Welling (2014), appendix C.2.

    By default the decoder gives a mean and a variance for each pixel, as in the lecture. A density has no upper bound:
    on data whose pixels do not vary, the variance goes to its floor and the log-likelihood with it. Dequantize such
    data.
    """

    variance: Variance = PerPixel()
    """`PerPixel()`, `Shared()` or `Fixed(value)`."""

    @property
    def support(self) -> Support:
        return Support(-math.inf, math.inf)

    def param_size(self, channels: int) -> int:
        return channels * self.variance.outputs_per_entry

    def init(self, key: Key) -> Params:
        return self.variance.init(key)

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> Normal:
        mean, log_var = self.variance.split(params, outputs)
        return Normal(mean, log_var, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        rest = data_mean.shape[:-1] + (self.param_size(data_mean.shape[-1]) - data_mean.shape[-1],)
        return jnp.concatenate([data_mean, jnp.zeros(rest)], axis=-1)
