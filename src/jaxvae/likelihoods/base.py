"""What a likelihood is, and what it lets the encoder see."""

import abc
import dataclasses
import math

import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.typing import Array, Distribution, Key, Params, Support


def in_parts(outputs: Array, num: int, event_ndims: int) -> list[Array]:
    """The decoder's outputs [..., *event[:-1], num · C] as `num` arrays [..., *event], one for each parameter."""
    if outputs.shape[-1] > num:
        return jnp.split(outputs, num, axis=-1)
    # Of one channel the pixels are split as one row: XLA's CPU backend would find the place of each in the image again,
    # and compute what follows number by number instead of in vectors.
    rows = outputs.reshape(*outputs.shape[: outputs.ndim - event_ndims], -1, num)
    return [part.reshape(*outputs.shape[:-1], 1) for part in jnp.split(rows, num, axis=-1)]


@dataclasses.dataclass(frozen=True)
class Likelihood(abc.ABC):
    """A family of distributions over x, one for each z."""

    @property
    @abc.abstractmethod
    def support(self) -> Support:
        """The values of an entry for which it is a distribution: `Support(0.0, math.inf, integer=True)` of counts."""

    def check_values(self, values: Support, *, of: str, instead: str) -> None:
        """Whether it is a distribution over such values.

        Args:
          values: those that the data have.
          of: what the message calls the data.
          instead: what the message says to write where the support is another.

        Raises:
          ValueError: it is not.
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
        """How many numbers the decoder must return on the last axis, where an event has `channels` entries there."""

    def init(self, key: Key) -> Params:
        """Parameters of the family's own, beside the decoder's output; by default there are none."""
        return {}

    @property
    def standardizes(self) -> bool:
        """Whether it works in units that the training data sets, and `seen` is x in these.

        The model then keeps the moments of each entry, [*event], where `distribution` and `seen` find them:
        `params["units"]`, with "mean" and "std". The library's training step leaves them as they are.
        """
        return False

    def seen(self, params: Params, x: Array) -> Array:
        """What the encoder is given of x [..., *event], by the values that it can have.

        Whole numbers up to a largest are divided by it, and counts without one become log(1 + x). What was not
        observed (NaN) may come out as it likes: the encoder is given 0.
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
        """The outputs [*event[:-1], param_size] under which p(x|z) has the mean `data_mean` [*event], or is near it.

        A decoder whose output bias starts here does not spend its first epochs on learning the average image.
        """


@dataclasses.dataclass(frozen=True)
class OfAnother(Likelihood):
    """A likelihood made of another one, which is asked for all that the class does not say itself."""

    likelihood: Likelihood

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
