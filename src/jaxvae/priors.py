"""Priors p(z)."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require, require_kind, require_number
from jaxvae.distributions import Mixture, Normal, Transformed, UniformOnSphere
from jaxvae.flows import Flow, SplineCoupling
from jaxvae.posteriors import Posterior
from jaxvae.typing import Array, Distribution, Key, LatentSpace, Params


@dataclasses.dataclass(frozen=True)
class Prior(abc.ABC):
    """A distribution over z, with its own parameters if it is learned."""

    @abc.abstractmethod
    def check(self, posterior: Posterior) -> None:
        """Refuses a posterior on another space than this prior's. `OverVectors` implements it for most priors.

        Raises:
          ValueError: the posterior does not fit; the message says what to write.
        """

    @property
    def starts_from_data(self) -> bool:
        """Whether `init` uses `seen`."""
        return False

    def init(self, key: Key, latent_dim: int, seen: Array) -> Params:
        """The prior's initial parameters; none by default.

        Args:
          key: the only source of randomness.
          latent_dim: D.
          seen: [*event'], the mean of the training examples as the encoder sees them; zeros if it is not known.
        """
        return {}

    @abc.abstractmethod
    def distribution(self, params: Params, latent_dim: int, encode: Callable[[Array], Any]) -> Distribution:
        """p(z), batch shape (), event shape [D].

        Args:
          params: the prior's parameters.
          latent_dim: D.
          encode: maps encoder inputs [K, *event'] to q(z|·) with batch shape [K].
        """


@dataclasses.dataclass(frozen=True)
class OverVectors(Prior):
    """A prior with a density over all vectors."""

    def check(self, posterior: Posterior) -> None:
        _require_space(self, "all vectors", posterior)


@dataclasses.dataclass(frozen=True)
class StandardNormal(OverVectors):
    """N(0, I), the lecture's "standard distribution", to which q(z|x) is kept close."""

    def distribution(self, params: Params, latent_dim: int, encode: Callable[[Array], Any]) -> Normal:
        return Normal(jnp.zeros(latent_dim), jnp.zeros(latent_dim))


@dataclasses.dataclass(frozen=True)
class GaussianMixture(OverVectors):
    """A learned mixture of K normals with diagonal covariances; Jiang et al. (2017).

    It starts as K normals of variance 1 with means drawn from N(0, I).
    """

    num_components: int = 10
    """The number K of normal distributions in the mixture."""

    def __post_init__(self) -> None:
        require_number(self, "num_components", low=1, integer=True)

    def init(self, key: Key, latent_dim: int, seen: Array) -> Params:
        shape = (self.num_components, latent_dim)
        return {
            "logits": jnp.zeros(self.num_components, jnp.float32),
            "mean": jax.random.normal(key, shape, jnp.float32),
            "log_var": jnp.zeros(shape, jnp.float32),
        }

    def distribution(self, params: Params, latent_dim: int, encode: Callable[[Array], Any]) -> Mixture:
        return Mixture(params["logits"], Normal(params["mean"], numerics.bound_log_var(params["log_var"])))


@dataclasses.dataclass(frozen=True)
class VampPrior(Prior):
    """The mean of the posteriors of K learned pseudo-inputs: (1/K) Σ_k q(z|u_k); Tomczak and Welling (2018).

    The u_k are encoder inputs. They start as the mean of the training data plus noise, or as noise alone in an
    experiment without `data_mean_bias`.
    """

    num_components: int = 500
    """The number K of pseudo-inputs."""
    noise: float = 0.1
    """The standard deviation of the noise in each entry of the initial pseudo-inputs."""

    def __post_init__(self) -> None:
        require_number(self, "num_components", low=1, integer=True)
        require_number(self, "noise", low=0.0, strict=True)

    def check(self, posterior: Posterior) -> None:
        name = type(posterior).__name__
        require(
            posterior.has_density,
            f"VampPrior is a mixture of posteriors, but {name} has no density; write prior=StandardNormal()",
        )

    @property
    def starts_from_data(self) -> bool:
        return True

    def init(self, key: Key, latent_dim: int, seen: Array) -> Params:
        noise = jax.random.normal(key, (self.num_components, *seen.shape), jnp.float32)
        return {"pseudo_inputs": seen[None].astype(jnp.float32) + self.noise * noise}

    def distribution(self, params: Params, latent_dim: int, encode: Callable[[Array], Any]) -> Mixture:
        return Mixture(jnp.zeros(self.num_components), encode(params["pseudo_inputs"]))


@dataclasses.dataclass(frozen=True)
class FlowPrior(OverVectors):
    """The image of N(0, I) under a learned flow; Huang et al. (2017)."""

    flow: Flow = SplineCoupling()
    """The flow, such as `SplineCoupling()`, whose inverse costs no more than a draw."""

    def __post_init__(self) -> None:
        require_kind("FlowPrior.flow", self.flow, Flow, "a flow, such as SplineCoupling()")

    def init(self, key: Key, latent_dim: int, seen: Array) -> Params:
        shared, own = jax.random.split(key)
        context = 0.01 * jax.random.normal(own, (self.flow.context_size(latent_dim),), jnp.float32)
        return {"flow": self.flow.init(shared, latent_dim), "context": context}

    def distribution(self, params: Params, latent_dim: int, encode: Callable[[Array], Any]) -> Transformed:
        base = Normal(jnp.zeros(latent_dim), jnp.zeros(latent_dim))
        return Transformed(base, self.flow.maps(params["flow"], params["context"], latent_dim))


@dataclasses.dataclass(frozen=True)
class UniformSphere(Prior):
    """The uniform distribution over directions, for posteriors on the unit sphere; Davidson et al. (2018)."""

    def check(self, posterior: Posterior) -> None:
        _require_space(self, "the unit sphere", posterior)

    def distribution(self, params: Params, latent_dim: int, encode: Callable[[Array], Any]) -> UniformOnSphere:
        return UniformOnSphere(latent_dim)


_INSTEAD: dict[LatentSpace, str] = {"all vectors": "StandardNormal()", "the unit sphere": "UniformSphere()"}


def _require_space(prior: Prior, space: LatentSpace, posterior: Posterior) -> None:
    known = " or ".join(map(repr, _INSTEAD))
    require(posterior.space in _INSTEAD, f"{type(posterior).__name__}.space is {posterior.space!r}; write {known}")
    require(
        posterior.space == space,
        f"{type(posterior).__name__} is over {posterior.space}, but {type(prior).__name__} over {space}; write "
        f"prior={_INSTEAD[posterior.space]}",
    )
