"""A likelihood of examples with unobserved entries."""

import dataclasses

import jax.numpy as jnp

from jaxvae import distributions
from jaxvae.checks import require
from jaxvae.likelihoods.base import Likelihood, OfAnother
from jaxvae.likelihoods.unit import Bernoulli
from jaxvae.typing import Array, Params, Support


@dataclasses.dataclass(frozen=True)
class Incomplete(OfAnother):
    """Another likelihood, for examples whose unobserved entries are NaN; Nazabal et al. (2020), section 3.

    Unobserved entries are integrated out of p(x|z), and the encoder sees 0 for them.
    """

    likelihood: Likelihood = Bernoulli()
    """The likelihood of complete examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
    """x with NaN where it was not observed, as an `Incomplete` likelihood takes it.

    Args:
      x: [..., *event]; unobserved entries may have any value.
      observed: booleans of the shape of x.

    Raises:
      ValueError: the shapes differ, or `observed` are not booleans.
    """
    dtype = jnp.result_type(observed)
    require(jnp.issubdtype(dtype, jnp.bool_), f"observed has the type {dtype}; write booleans, such as observed > 0.5")
    require(
        jnp.shape(x) == jnp.shape(observed),
        f"x {jnp.shape(x)} and observed {jnp.shape(observed)} must have the same shape",
    )
    return jnp.where(observed, x, jnp.nan)
