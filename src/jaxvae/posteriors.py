"""Posteriors q(z|x), which turn the encoder's outputs into a distribution over the latent variable."""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require_kind, require_number
from jaxvae.distributions import Delta as DeltaDistribution
from jaxvae.distributions import LowRankNormal, MultivariateNormal, Normal, Transformed
from jaxvae.distributions import VonMisesFisher as VonMisesFisherDistribution
from jaxvae.flows import Flow, SplineCoupling
from jaxvae.typing import Array, Distribution, Key, LatentSpace, Params


@dataclasses.dataclass(frozen=True)
class Posterior(abc.ABC):
    """A family of distributions over z, one for each x."""

    @property
    @abc.abstractmethod
    def has_density(self) -> bool:
        """Whether q(z|x) is a density, so that an ELBO made with it is a bound on log p(x)."""

    @property
    @abc.abstractmethod
    def space(self) -> LatentSpace:
        """The space of z."""

    @property
    def dimensions(self) -> tuple[int, float]:
        """The smallest and the largest number of entries of z."""
        return 1, math.inf

    @abc.abstractmethod
    def param_size(self, latent_dim: int) -> int:
        """The size of the encoder's output for a latent variable with `latent_dim` entries."""

    def init(self, key: Key, latent_dim: int) -> Params:
        """The family's own parameters, besides the encoder's output; none by default."""
        return {}

    @abc.abstractmethod
    def distribution(self, params: Params, outputs: Array, latent_dim: int) -> Distribution:
        """q(z|x), batch shape [B], from the encoder's outputs [B, param_size]."""


@dataclasses.dataclass(frozen=True)
class OverVectors(Posterior):
    """A posterior with a density over all vectors."""

    @property
    def has_density(self) -> bool:
        return True

    @property
    def space(self) -> LatentSpace:
        return "all vectors"


@dataclasses.dataclass(frozen=True)
class DiagonalGaussian(OverVectors):
    """N(μ(x), diag σ²(x)): two linear heads, for μ and for log σ², on the encoder's shared trunk.

    The lecture's μ = g2(g1(x)) and σ = h2(h1(x)) with g1 = h1; Kingma and Welling (2014), eq. 9.
    """

    def param_size(self, latent_dim: int) -> int:
        return 2 * latent_dim

    def distribution(self, params: Params, outputs: Array, latent_dim: int) -> Normal:
        mean, log_var = jnp.split(outputs, 2, axis=-1)
        return Normal(mean, numerics.bound_log_var(log_var))


@dataclasses.dataclass(frozen=True)
class FullGaussian(OverVectors):
    """N(μ(x), Σ(x)) with Σ = S U Uᵀ S: S the diagonal σ(x), U lower triangular with ones on its diagonal.

    Kingma and Welling (2019), section 2.5.1: D (D + 1) / 2 numbers for the covariance.
    """

    def param_size(self, latent_dim: int) -> int:
        return latent_dim + latent_dim * (latent_dim + 1) // 2

    def distribution(self, params: Params, outputs: Array, latent_dim: int) -> MultivariateNormal:
        (outputs,) = numerics.aligned(outputs)
        mean, log_var, below = jnp.split(outputs, (latent_dim, 2 * latent_dim), axis=-1)
        unit = _unit_triangular(numerics.bounded(below, 1e3), latent_dim)
        std = jnp.exp(0.5 * numerics.bound_log_var(log_var))
        return MultivariateNormal(mean, std[..., None] * unit)


def _unit_triangular(entries: Array, dim: int) -> Array:
    """The lower triangular [..., D, D] with these D (D - 1) / 2 entries, in some order, and ones on the diagonal.

    The entries, with their reverse, fill a square, of which the lower half is taken; a scatter would take longer.
    """
    side = dim - 1
    square = jnp.concatenate([entries[..., side:], entries[..., ::-1]], axis=-1)
    lower = jnp.tril(square.reshape(*entries.shape[:-1], side, side))
    lower = jnp.pad(lower, [(0, 0)] * (entries.ndim - 1) + [(1, 0), (0, 1)])
    return lower + jnp.eye(dim)[(None,) * (entries.ndim - 1)]


@dataclasses.dataclass(frozen=True)
class LowRankGaussian(OverVectors):
    """N(μ(x), S (I + G Gᵀ) S) with G(x) of `rank` columns: a diagonal and a few directions; Ong et al. (2018)."""

    rank: int = 4
    """The number of directions, the columns of G."""

    def __post_init__(self) -> None:
        require_number(self, "rank", low=1, integer=True)

    def param_size(self, latent_dim: int) -> int:
        return (2 + self.rank) * latent_dim

    def distribution(self, params: Params, outputs: Array, latent_dim: int) -> LowRankNormal:
        mean, log_var, directions = jnp.split(outputs, (latent_dim, 2 * latent_dim), axis=-1)
        directions = numerics.bounded(directions, 1e2).reshape(*directions.shape[:-1], latent_dim, self.rank)
        return LowRankNormal(mean, numerics.bound_log_var(log_var), directions)


@dataclasses.dataclass(frozen=True)
class FlowPosterior(OverVectors):
    """The image of a normal under a flow, both given x; Rezende and Mohamed (2015), Kingma et al. (2016)."""

    base: DiagonalGaussian | FullGaussian | LowRankGaussian = DiagonalGaussian()
    """The family of the normal distribution."""
    flow: Flow = SplineCoupling()
    """The flow: `Planar()`, `InverseAutoregressive()` or `SplineCoupling()`."""

    def __post_init__(self) -> None:
        known = (DiagonalGaussian, FullGaussian, LowRankGaussian)
        require_kind("FlowPosterior.base", self.base, known, "DiagonalGaussian(), FullGaussian() or LowRankGaussian()")
        require_kind("FlowPosterior.flow", self.flow, Flow, "a flow, such as SplineCoupling()")

    def param_size(self, latent_dim: int) -> int:
        return self.base.param_size(latent_dim) + self.flow.context_size(latent_dim)

    def init(self, key: Key, latent_dim: int) -> Params:
        return self.flow.init(key, latent_dim)

    def distribution(self, params: Params, outputs: Array, latent_dim: int) -> Transformed:
        of_base, context = jnp.split(outputs, (self.base.param_size(latent_dim),), axis=-1)
        base = self.base.distribution({}, of_base, latent_dim)
        return Transformed(base, self.flow.maps(params, context, latent_dim))


@dataclasses.dataclass(frozen=True)
class VonMisesFisher(Posterior):
    """Directions around μ(x) with concentration κ(x), so z is on the unit sphere; Davidson et al. (2018).

    The unit sphere in D dimensions is itself (D - 1)-dimensional. The matching prior is `UniformSphere()`.
    """

    max_concentration: float = 10_000.0
    """The largest concentration κ that the encoder can give."""

    def __post_init__(self) -> None:
        require_number(self, "max_concentration", low=1.0, high=1e6)

    @property
    def dimensions(self) -> tuple[int, float]:
        return 2, 256  # up to here the quadrature of its constant is fully accurate

    @property
    def has_density(self) -> bool:
        return True

    @property
    def space(self) -> LatentSpace:
        return "the unit sphere"

    def param_size(self, latent_dim: int) -> int:
        return latent_dim + 1

    def distribution(self, params: Params, outputs: Array, latent_dim: int) -> VonMisesFisherDistribution:
        (outputs,) = numerics.aligned(outputs)
        # An offset gives a direction to an encoder output of 0, as for a blank example. It is far enough from 0 that
        # the gradient is not large.
        direction = outputs[..., :-1] + 0.1 * jnp.eye(1, latent_dim)[(0,) + (None,) * (outputs.ndim - 1)]
        direction = direction / jax.lax.stop_gradient(jnp.max(jnp.abs(direction), axis=-1, keepdims=True))
        norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=-1, keepdims=True))
        # Below -10 the softplus has almost no gradient, so a value would never come back from there.
        concentration = jax.nn.softplus(numerics.bounded(outputs[..., -1], self.max_concentration, low=-10.0))
        return VonMisesFisherDistribution(direction / norm, concentration)


@dataclasses.dataclass(frozen=True)
class Delta(Posterior):
    """One point for each x, which makes the model the lecture's plain autoencoder.

    It has no density, so there is no bound on log p(x). With a `Gaussian` likelihood of fixed variance σ² the loss is
    the squared distance over 2σ², up to a constant.
    """

    @property
    def has_density(self) -> bool:
        return False

    @property
    def space(self) -> LatentSpace:
        return "all vectors"

    def param_size(self, latent_dim: int) -> int:
        return latent_dim

    def distribution(self, params: Params, outputs: Array, latent_dim: int) -> DeltaDistribution:
        (outputs,) = numerics.aligned(outputs)
        return DeltaDistribution(outputs)
