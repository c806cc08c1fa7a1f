"""A likelihood of examples in which entries were not observed."""

import dataclasses

import jax.numpy as jnp

from jaxvae import distributions
from jaxvae.checks import require
from jaxvae.likelihoods.base import Likelihood
from jaxvae.likelihoods.unit import Bernoulli
from jaxvae.typing import Array, Key, Params, Support


@dataclasses.dataclass(frozen=True)
class Incomplete(Likelihood):
    """Another likelihood, of examples in which entries were not observed: NaN; Nazabal et al. (2020), section 3.

    What is missing is integrated out of p(x|z), and is 0 to the encoder.
    """

    likelihood: Likelihood = Bernoulli()
    """Of the whole examples."""

    def __post_init__(self) -> None:
        require(
            not isinstance(self.likelihood, Incomplete),
            "the likelihood of Incomplete is of whole examples; write Incomplete(likelihood=Bernoulli()), say",
        )

    @property
    def support(self) -> Support:
        return self.likelihood.support._replace(missing=True)

    def param_size(self, channels: int) -> int:
        return self.likelihood.param_size(channels)

    def init(self, key: Key) -> Params:
        return self.likelihood.init(key)

    @property
    def standardizes(self) -> bool:
        return self.likelihood.standardizes

    def seen(self, params: Params, x: Array) -> Array:
        return self.likelihood.seen(params, x)

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Observed:
        return distributions.Observed(self.likelihood.distribution(params, outputs, event_ndims))

    def initial_outputs(self, data_mean: Array) -> Array:
        return self.likelihood.initial_outputs(data_mean)


def mask(x: Array, observed: Array) -> Array:
    """x with NaN where it was not observed: what an `Incomplete` likelihood takes.

    Args:
      x: [..., *event]; what is not observed may have any value.
      observed: true or false, of the shape of x.

    Raises:
      ValueError: the shapes differ.
    """
    require(
        jnp.shape(x) == jnp.shape(observed),
        f"x {jnp.shape(x)} and observed {jnp.shape(observed)} must have the same shape",
    )
    return jnp.where(observed, x, jnp.nan)
