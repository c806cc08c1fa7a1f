"""Likelihoods of real numbers: a location and a spread for each entry."""

import abc
import dataclasses
import math

import jax.numpy as jnp

from jaxvae import distributions, numerics
from jaxvae.checks import require_kind, require_number
from jaxvae.likelihoods.base import Likelihood, in_parts
from jaxvae.typing import Array, Key, Params, Support


@dataclasses.dataclass(frozen=True)
class Variance(abc.ABC):
    """The source of a real-valued likelihood's variance, or squared scale."""

    @property
    def outputs_per_entry(self) -> int:
        return 1

    def init(self, key: Key) -> Params:
        return {}

    @abc.abstractmethod
    def split(self, params: Params, outputs: Array, event_ndims: int) -> tuple[Array, Array]:
        """Mean and log-variance from the decoder's outputs."""


@dataclasses.dataclass(frozen=True)
class PerPixel(Variance):
    """A variance for each pixel of each example, from the decoder."""

    @property
    def outputs_per_entry(self) -> int:
        return 2

    def split(self, params: Params, outputs: Array, event_ndims: int) -> tuple[Array, Array]:
        mean, log_var = in_parts(outputs, 2, event_ndims)
        return mean, numerics.bound_log_var(log_var)


@dataclasses.dataclass(frozen=True)
class Shared(Variance):
    """One learned variance for all pixels of all examples."""

    initial: float = 1.0
    """Its value before training."""

    def __post_init__(self) -> None:
        require_number(self, "initial", low=1e-13, high=1e13)

    def init(self, key: Key) -> Params:
        return {"log_var": jnp.log(jnp.float32(self.initial))}

    def split(self, params: Params, outputs: Array, event_ndims: int) -> tuple[Array, Array]:
        return outputs, numerics.bound_log_var(params["log_var"])


@dataclasses.dataclass(frozen=True)
class Fixed(Variance):
    """One fixed variance for all pixels of all examples."""

    value: float = 1.0
    """The variance σ² itself, in squared units of the data."""

    def __post_init__(self) -> None:
        require_number(self, "value", low=1e-30, high=1e30)

    def split(self, params: Params, outputs: Array, event_ndims: int) -> tuple[Array, Array]:
        return outputs, jnp.full((), math.log(self.value), jnp.result_type(jnp.float32, outputs))


@dataclasses.dataclass(frozen=True)
class OfReals(Likelihood):
    """A likelihood with a location and a spread for each entry."""

    def __post_init__(self) -> None:
        name = next((f.name for f in dataclasses.fields(self) if f.type is Variance), "spread")
        of = f"{type(self).__name__}.{name}"
        require_kind(of, self._spread, Variance, "PerPixel(), Shared() or Fixed(value)")

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
    for pixels that do not vary, the variance shrinks to its floor and the log-likelihood grows accordingly. Dequantize
    such data.
    """

    variance: Variance = PerPixel()
    """`PerPixel()`, `Shared()` or `Fixed(value)`."""

    @property
    def _spread(self) -> Variance:
        return self.variance

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Normal:
        mean, log_var = self.variance.split(params, outputs, event_ndims)
        return distributions.Normal(mean, log_var, event_ndims)


@dataclasses.dataclass(frozen=True)
class Laplace(OfReals):
    """Independent Laplace distributions, an absolute error around the median m: density exp(-|x - m| / b) / 2b."""

    squared_scale: Variance = PerPixel()
    """The source of b²: `PerPixel()`, `Shared()` or `Fixed(value)`. The variance is 2b²."""

    @property
    def _spread(self) -> Variance:
        return self.squared_scale

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Laplace:
        mean, log_square = self.squared_scale.split(params, outputs, event_ndims)
        return distributions.Laplace(mean, 0.5 * log_square, event_ndims)


@dataclasses.dataclass(frozen=True)
class StudentT(OfReals):
    """Independent Student's t distributions, robust to outliers; Takahashi et al. (2018)."""

    degrees_of_freedom: float = 4.0
    """Greater than 1; the larger, the closer to a normal distribution."""
    squared_scale: Variance = PerPixel()
    """`PerPixel()`, `Shared()` or `Fixed(value)`. For ν > 2 degrees of freedom the variance is ν / (ν - 2) times it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "degrees_of_freedom", low=1.0, strict=True, high=1e30)

    @property
    def _spread(self) -> Variance:
        return self.squared_scale

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.StudentT:
        mean, log_square = self.squared_scale.split(params, outputs, event_ndims)
        return distributions.StudentT(mean, 0.5 * log_square, self.degrees_of_freedom, event_ndims)
