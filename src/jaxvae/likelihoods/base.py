"""The interface of a likelihood, which also decides how the encoder sees x."""

import abc
import dataclasses
import math

import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require, require_kind
from jaxvae.typing import Array, Distribution, Key, Params, Support


def in_parts(outputs: Array, num: int, event_ndims: int) -> list[Array]:
    """Splits the decoder's outputs [..., *event[:-1], num · C] into `num` arrays [..., *event], one per parameter.

    They have 32 bits or more: a sum or an exponential of 16-bit outputs would lose what they have.
    """
    (outputs,) = numerics.aligned(outputs)
    if outputs.shape[-1] > num:
        return jnp.split(outputs, num, axis=-1)
    # With one channel the pixels are split as one row. Otherwise XLA's CPU backend would recompute each pixel's place
    # in the image, and run what follows without vectorization.
    batch, event = outputs.shape[: outputs.ndim - event_ndims], outputs.shape[outputs.ndim - event_ndims :]
    rows = outputs.reshape(*batch, math.prod(event) // num, num)
    return [part.reshape(*outputs.shape[:-1], 1) for part in jnp.split(rows, num, axis=-1)]


@dataclasses.dataclass(frozen=True)
class Likelihood(abc.ABC):
    """A family of distributions over x, one for each z."""

    @property
    @abc.abstractmethod
    def support(self) -> Support:
        """The values that an entry can take, such as `Support(0.0, math.inf, integer=True)` for counts."""

    def check_values(self, values: Support, *, of: str, instead: str) -> None:
        """Checks that the likelihood is a distribution over `values`.

        Args:
          values: the support of the data.
          of: what the message calls the data.
          instead: what the message says to write where the support does not contain `values`.

        Raises:
          ValueError: the support of the likelihood does not contain `values`.
        """
        require(
            self.support.missing or not values.missing,
            f"{of} has entries that are NaN (not observed), but the {type(self).__name__} likelihood needs whole "
            f"examples; write likelihood=Incomplete(likelihood={self}), or replace them",
        )
        require(
            self.support.contains(values),
            f"the {type(self).__name__} likelihood takes values in {self.support}, but {of} has values in {values}; "
            f"{instead}",
        )

    @abc.abstractmethod
    def param_size(self, channels: int) -> int:
        """The size of the last axis of the decoder's output, for events with `channels` entries on theirs."""

    def init(self, key: Key) -> Params:
        """The family's own parameters, besides the decoder's output; none by default."""
        return {}

    @property
    def standardizes(self) -> bool:
        """Whether the likelihood works in units set by the training data, and `seen` converts x to them.

        The model then stores the moments of each entry, [*event], as "mean" and "std" in `params["units"]`, where
        `distribution` and `seen` read them. The library's training step does not change them.
        """
        return False

    def seen(self, params: Params, x: Array) -> Array:
        """The encoder's input for x [..., *event], scaled according to the support.

        Whole numbers with a maximum are divided by it; counts without one become log(1 + x). The result for unobserved
        entries (NaN) does not matter, since the model replaces it by 0.
        """
        support = self.support
        if not support.integer or support.high <= 1:
            return x
        return jnp.log1p(x) if math.isinf(support.high) else x / support.high

    @abc.abstractmethod
    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> Distribution:
        """p(x|z), batch shape [...], from the decoder's outputs [..., *event[:-1], param_size]."""

    @abc.abstractmethod
    def initial_outputs(self, data_mean: Array) -> Array:
        """The outputs [*event[:-1], param_size] under which p(x|z) has about the mean `data_mean` [*event].

        With the logistic likelihoods of grey levels it is off near black and white, where a logistic is cut.
        A decoder whose output bias starts here does not spend its first epochs on learning the average image.
        """


@dataclasses.dataclass(frozen=True)
class OfAnother(Likelihood):
    """A likelihood that wraps another one, and delegates to it what the class does not override."""

    likelihood: Likelihood

    def __post_init__(self) -> None:
        require_kind(f"{type(self).__name__}.likelihood", self.likelihood, Likelihood, "a Likelihood")

    @property
    def support(self) -> Support:
        return self.likelihood.support

    def param_size(self, channels: int) -> int:
        return self.likelihood.param_size(channels)

    def init(self, key: Key) -> Params:
        return self.likelihood.init(key)

    @property
    def standardizes(self) -> bool:
        return self.likelihood.standardizes

    def seen(self, params: Params, x: Array) -> Array:
        return self.likelihood.seen(params, x)

    def initial_outputs(self, data_mean: Array) -> Array:
        return self.likelihood.initial_outputs(data_mean)
