"""Objectives of the importance weights."""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from jaxvae import losses
from jaxvae.checks import require, require_number
from jaxvae.objectives.base import Evidence, Objective
from jaxvae.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfWeights(Objective):
    """An objective of the importance weights alone. It needs a density q(z|x), and has no schedule."""

    def __call__(self, evidence: Evidence) -> Array:
        return self.of(evidence.log_weights)

    @abc.abstractmethod
    def of(self, log_weights: Array) -> Array:
        """The objective of log-weights [K, B]: [B], nats."""

    @property
    def needs_density(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class IWAE(OfWeights):
    """log (1/K) Σ_k w_k over `num_samples` draws; Burda et al. (2016), eq. 8."""

    num_samples: int = 5

    def of(self, log_weights: Array) -> Array:
        return losses.iwae(log_weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIWAE(OfWeights):
    """The mean of `num_groups` importance-weighted bounds of num_samples / num_groups draws each.

    Rainforth et al. (2018).
    """

    num_samples: int = 64
    num_groups: int = 8
    """M, a divisor of `num_samples`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_groups(self)

    def of(self, log_weights: Array) -> Array:
        return losses.miwae(log_weights, num_groups=self.num_groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PIWAE(OfWeights):
    """IWAE over all draws for the model, and MIWAE over the same draws for q(z|x); Rainforth et al. (2018).

    Its value is that of IWAE, the bound that the model maximises.
    """

    num_samples: int = 64
    num_groups: int = 8
    """M, a divisor of `num_samples`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_groups(self)

    def of(self, log_weights: Array) -> Array:
        return losses.iwae(log_weights)

    @property
    def for_posterior(self) -> MIWAE:
        return MIWAE(num_samples=self.num_samples, num_groups=self.num_groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CIWAE(OfWeights):
    """β · ELBO + (1 - β) · IWAE over the same draws; Rainforth et al. (2018)."""

    num_samples: int = 64
    elbo_weight: float = 0.5
    """β: 0 is IWAE, 1 is the ELBO with a Monte Carlo KL."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "elbo_weight", low=0.0, high=1.0)

    def of(self, log_weights: Array) -> Array:
        return losses.ciwae(log_weights, elbo_weight=self.elbo_weight)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renyi(OfWeights):
    """The variational Rényi bound of order α; Li and Turner (2016)."""

    num_samples: int = 50
    alpha: float = 0.5
    """α in [0, 1): 0 is IWAE, 1 would be the ELBO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha != 1, "Renyi.alpha is 1, where it is the ELBO; write ELBO()")
        require_number(self, "alpha", low=0.0, below=1.0)

    def of(self, log_weights: Array) -> Array:
        return losses.renyi(log_weights, alpha=self.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CUBO(OfWeights):
    """IWAE over all draws for the model; for q(z|x), the χⁿ upper bound on log p(x), minimised; Dieng et al. (2017).

    Such a q covers the posterior, where the ELBO's tends to be too narrow. The value is that of IWAE: a model that
    minimised the upper bound would learn to explain less.
    """

    num_samples: int = 64
    order: float = 2.0
    """n > 1 of the upper bound; at 1 it is log p(x) itself, whatever q is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "order", low=1.0, strict=True)
        require(self.num_samples >= 2, "CUBO weighs draws against each other; write num_samples=2 or more")

    def of(self, log_weights: Array) -> Array:
        return losses.iwae(log_weights)

    @property
    def for_posterior(self) -> "_Covering":
        return _Covering(num_samples=self.num_samples, order=self.order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Covering(Objective):
    """A surrogate with the gradient of -CUBO for the parameters of q: (1 - 1/n) E_q[wⁿ ∇ log q] / E_q[wⁿ].

    CUBO's own estimate is not minimised: a q so far off that all K weights are small makes it arbitrarily low. Here q
    is pulled towards the draws where its density is too low, with weights that add up to 1.
    """

    order: float

    def __call__(self, evidence: Evidence) -> Array:
        weights, z = jax.lax.stop_gradient((jax.nn.softmax(self.order * evidence.log_weights, axis=0), evidence.z))
        log_q = evidence.posterior.log_prob(z)
        return (1.0 - 1.0 / self.order) * jnp.sum(weights * log_q, axis=0)

    @property
    def needs_density(self) -> bool:
        return True


def _require_groups(objective: MIWAE | PIWAE) -> None:
    num, groups = objective.num_samples, objective.num_groups
    require_number(objective, "num_groups", low=1, integer=True)
    name = type(objective).__name__
    require(num % groups == 0, f"{name}.num_groups is {groups}; write a divisor of num_samples={num}")
