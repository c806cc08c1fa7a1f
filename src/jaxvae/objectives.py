"""Objectives: what training maximises, as pure functions of `Evidence`.

`Evidence` is the hinge between models and objectives: a model fills it in, an objective reads it, and neither knows the
other. XLA removes the fields that an objective does not use.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import losses, numerics
from jaxvae.typing import Array


class Evidence(NamedTuple):
    """What K draws z_k ~ q(z|x) say of a batch of B examples, in nats."""

    log_likelihood: Array  # [K, B]  log p(x|z_k), summed over the event
    log_prior: Array  # [K, B]  log p(z_k)
    log_posterior: Array  # [K, B]  log q(z_k|x)
    kl: Array | None  # [B]     KL(q(z|x) || p(z)) in closed form where one exists, else None
    z: Array  # [K, B, D]
    posterior: Any  # q(z|x), a distribution with batch shape [B]

    @property
    def log_weights(self) -> Array:
        """log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x), [K, B]; Burda et al. (2016), eq. 8."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def distortion(self) -> Array:
        """-E_q[log p(x|z)] over the K draws, [B]; Alemi et al. (2018), eq. 4."""
        return -jnp.mean(self.log_likelihood, axis=0)

    @property
    def rate(self) -> Array:
        """KL(q(z|x) || p(z)), [B]: the closed form where there is one, else the mean over the K draws."""
        return self.monte_carlo_kl if self.kl is None else self.kl

    @property
    def monte_carlo_kl(self) -> Array:
        """The mean of log q(z_k|x) - log p(z_k) over the K draws, [B]: unbiased, and it can come out negative."""
        return jnp.mean(self.log_posterior - self.log_prior, axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """A pure function `Evidence -> [B]`, to be maximised, in nats."""

    num_samples: int = 1
    """The draws K from q(z|x) for each example in training."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "num_samples", low=1, integer=True)

    @abc.abstractmethod
    def __call__(self, evidence: Evidence) -> Array: ...

    @abc.abstractmethod
    def at(self, step: int | Array) -> "Objective":
        """The objective at a training step: its schedules become numbers."""

    @property
    @abc.abstractmethod
    def needs_density(self) -> bool:
        """Whether it reads log q(z|x), which a posterior may not have."""

    @property
    @abc.abstractmethod
    def for_posterior(self) -> "Objective":
        """What the parameters of q(z|x) follow: the objective itself, unless it is one for the model alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfWeights(Objective):
    """An objective that reads the importance weights alone: it needs a density q(z|x), and has no schedule."""

    def __call__(self, evidence: Evidence) -> Array:
        return self.of(evidence.log_weights)

    @abc.abstractmethod
    def of(self, log_weights: Array) -> Array:
        """The objective of log-weights [K, B]: [B], nats."""

    def at(self, step: int | Array) -> "OfWeights":
        return self

    @property
    def needs_density(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneForAll(OfWeights):
    """One that the model and q(z|x) both follow."""

    @property
    def for_posterior(self) -> "OneForAll":
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class IWAE(OneForAll):
    """log (1/K) Σ_k w_k over `num_samples` draws; Burda et al. (2016), eq. 8."""

    num_samples: int = 5

    def of(self, log_weights: Array) -> Array:
        return losses.iwae(log_weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIWAE(OneForAll):
    """The mean of `num_groups` importance-weighted bounds of num_samples / num_groups draws each.

    Rainforth et al. (2018).
    """

    num_samples: int = 64
    num_groups: int = 8
    """M, by which `num_samples` can be divided."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_groups(self)

    def of(self, log_weights: Array) -> Array:
        return losses.miwae(log_weights, num_groups=self.num_groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PIWAE(OfWeights):
    """IWAE of all draws for the model, and for q(z|x) the MIWAE of the same draws; Rainforth et al. (2018).

    Its value is that of IWAE: the bound that the model follows.
    """

    num_samples: int = 64
    num_groups: int = 8
    """M, by which `num_samples` can be divided."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_groups(self)

    def of(self, log_weights: Array) -> Array:
        return losses.iwae(log_weights)

    @property
    def for_posterior(self) -> MIWAE:
        return MIWAE(num_samples=self.num_samples, num_groups=self.num_groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CIWAE(OneForAll):
    """β · ELBO + (1 - β) · IWAE over the same draws; Rainforth et al. (2018)."""

    num_samples: int = 64
    elbo_weight: float = 0.5
    """β: 0 is IWAE, 1 is the ELBO with a Monte Carlo KL."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.require_number(self, "elbo_weight", low=0.0, high=1.0)

    def of(self, log_weights: Array) -> Array:
        return losses.ciwae(log_weights, elbo_weight=self.elbo_weight)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renyi(OneForAll):
    """The variational Rényi bound of order α; Li and Turner (2016)."""

    num_samples: int = 50
    alpha: float = 0.5
    """α in [0, 1): 0 is IWAE, 1 would be the ELBO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.require_number(self, "alpha", low=0.0)
        numerics.require(self.alpha < 1, f"Renyi.alpha is {self.alpha}; write a number in [0, 1), or ELBO() for 1")

    def of(self, log_weights: Array) -> Array:
        return losses.renyi(log_weights, alpha=self.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CUBO(OfWeights):
    """IWAE of all draws for the model, and for q(z|x) the χⁿ upper bound on log p(x), minimised; Dieng et al. (2017).

    Such a q covers the posterior where the ELBO's would rather be too narrow. Its value is that of IWAE: a model that
    followed the upper bound down would learn to explain less.
    """

    num_samples: int = 64
    order: float = 2.0
    """n > 1 of the upper bound; at 1 it is log p(x) itself, whatever q is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.require_number(self, "order", low=1.0, strict=True)
        numerics.require(self.num_samples >= 2, "CUBO weighs draws against each other; write num_samples=2 or more")

    def of(self, log_weights: Array) -> Array:
        return losses.iwae(log_weights)

    @property
    def for_posterior(self) -> "_Covering":
        return _Covering(num_samples=self.num_samples, order=self.order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Covering(Objective):
    """What has the gradient of minus CUBO by the parameters of q: (1 - 1/n) E_q[wⁿ ∇ log q] / E_q[wⁿ].

    CUBO's own estimate is not followed down: a q so far away that all K weights are small makes it as low as one likes.
    Here q is drawn to where its draws are too light, with weights that add up to 1.
    """

    order: float

    def __call__(self, evidence: Evidence) -> Array:
        weights, z = jax.lax.stop_gradient((jax.nn.softmax(self.order * evidence.log_weights, axis=0), evidence.z))
        log_q = evidence.posterior.log_prob(z)
        return (1.0 - 1.0 / self.order) * jnp.sum(weights * log_q, axis=0)

    def at(self, step: int | Array) -> "_Covering":
        return self

    @property
    def needs_density(self) -> bool:
        return True

    @property
    def for_posterior(self) -> "_Covering":
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELBO(Objective):
    """E_q[log p(x|z)] - β KL(q(z|x) || p(z)): the lecture's loss with its sign changed.

    Kingma and Welling (2014), eq. 3, over `num_samples` draws; with β ≠ 1 the β-VAE's, Higgins et al. (2017), eq. 4.
    """

    beta: float = 1.0
    """The weight of the KL."""
    beta_schedule: Callable[[Any], Any] | None = None
    """What β is multiplied by at a step: a function, such as one of optax's schedules; None: it stays.

    A config holds data and no functions: it has `kl_warmup_epochs` for that."""
    closed_form_kl: bool = True
    """Whether the KL is the closed form or its Monte Carlo estimate from the same draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.beta, Array):  # a traced one comes from `at`
            numerics.require_number(self, "beta", low=0.0)

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed form was asked for and there is none, or β has a schedule and the step is not known.
        """
        kl = evidence.kl if self.closed_form_kl else evidence.monte_carlo_kl
        if kl is None:
            raise ValueError(
                f"there is no closed form of KL({type(evidence.posterior).__name__} || prior); "
                "write ELBO(closed_form_kl=False) to estimate it from the draws"
            )
        numerics.require(self.beta_schedule is None, "β has a schedule; write objective.at(step)(evidence)")
        return losses.elbo(-evidence.distortion, kl, beta=self.beta)

    def at(self, step: int | Array) -> "ELBO":
        if self.beta_schedule is None:
            return self
        return dataclasses.replace(self, beta=self.beta * self.beta_schedule(step), beta_schedule=None)

    @property
    def needs_density(self) -> bool:
        return not self.closed_form_kl

    @property
    def for_posterior(self) -> "ELBO":
        return self


def _require_groups(objective: MIWAE | PIWAE) -> None:
    num, groups = objective.num_samples, objective.num_groups
    numerics.require_number(objective, "num_groups", low=1, high=num, integer=True)
    numerics.require(
        num % groups == 0,
        f"{type(objective).__name__}.num_samples is {num}; write a multiple of num_groups={groups}",
    )
