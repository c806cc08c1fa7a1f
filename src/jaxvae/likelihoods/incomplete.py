"""A likelihood of examples in which entries were not observed."""

import dataclasses

import jax.numpy as jnp

from jaxvae import distributions
from jaxvae.checks import require
from jaxvae.likelihoods.base import Likelihood, OfAnother
from jaxvae.likelihoods.unit import Bernoulli
from jaxvae.typing import Array, Params, Support


@dataclasses.dataclass(frozen=True)
class Incomplete(OfAnother):
    """Another likelihood, of examples in which entries were not observed: NaN; Nazabal et al. (2020), section 3.

    What is missing is integrated out of p(x|z), and is 0 to the encoder.
    """

    likelihood: Likelihood = Bernoulli()
    """Of the whole examples."""

    def __post_init__(self) -> None:
        require(
            not isinstance(self.likelihood, Incomplete),
            "Incomplete needs a likelihood of whole examples; write Incomplete(likelihood=Bernoulli()), say",
        )

    @property
    def support(self) -> Support:
        return self.likelihood.support._replace(missing=True)

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Observed:
        return distributions.Observed(self.likelihood.distribution(params, outputs, event_ndims))


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
