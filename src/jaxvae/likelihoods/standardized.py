"""A likelihood of real numbers, in units set by the training data."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import distributions, numerics
from jaxvae.checks import require
from jaxvae.likelihoods.base import Likelihood, OfAnother
from jaxvae.likelihoods.reals import Gaussian
from jaxvae.typing import Array, Params, Support


@dataclasses.dataclass(frozen=True)
class Standardized(OfAnother):
    """Another likelihood, applied to (x - mean) / std with each entry's moments over the training data.

    For data whose entries have different units; Nazabal et al. (2020), on heterogeneous ranges. Encoder and decoder
    work in standard units. p(x|z), its means and its draws are in the data's units, and so is log p(x|z), which
    includes the -Σ log std of the change of variables. An entry that is constant in the training data, or never
    observed, keeps its unit.
    """

    likelihood: Likelihood = Gaussian()
    """A real-valued likelihood: `Gaussian()`, `Laplace()`, `StudentT()`, …; its variance is in standard units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name, support = type(self.likelihood).__name__, self.likelihood.support
        require(
            not support.missing,
            f"Standardized needs whole examples; write Incomplete(likelihood=Standardized(likelihood=…)), not {name} "
            "inside it",
        )
        require(
            support == Support(-math.inf, math.inf) and not isinstance(self.likelihood, Standardized),
            f"Standardized is for likelihoods of real numbers, but {name} takes values in {support}; write "
            "Standardized(likelihood=Gaussian()), say",
        )

    @property
    def standardizes(self) -> bool:
        return True

    def seen(self, params: Params, x: Array) -> Array:
        mean, std, x = numerics.aligned(*_moments(params), x)
        return (x - mean) / std

    def distribution(self, params: Params, outputs: Array, event_ndims: int) -> distributions.Rescaled:
        base = self.likelihood.distribution(params, outputs, event_ndims)
        of_batch = (None,) * (outputs.ndim - event_ndims)  # so that `jax.vmap` can return the distribution
        mean, std = (moment[of_batch] for moment in _moments(params))
        return distributions.Rescaled(base, mean, std, event_ndims)

    def initial_outputs(self, data_mean: Array) -> Array:
        return self.likelihood.initial_outputs(jnp.zeros_like(data_mean))


def _moments(params: Params) -> tuple[Array, Array]:
    mean, std = (jax.lax.stop_gradient(params["units"][name]) for name in ("mean", "std"))
    return mean, std
