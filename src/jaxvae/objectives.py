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
    kl_per_dimension: Array | None = None  # [B, D]  the closed form of the KL where it is a sum over the latents

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
class OneKL(Objective):
    """One that reads the KL, and that the model and q(z|x) both follow."""

    closed_form_kl: bool = True
    """Whether the KL is the closed form or its Monte Carlo estimate from the same draws."""

    @property
    def needs_density(self) -> bool:
        return not self.closed_form_kl

    @property
    def for_posterior(self) -> "OneKL":
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELBO(OneKL):
    """E_q[log p(x|z)] - β KL(q(z|x) || p(z)): the lecture's loss with its sign changed.

    Kingma and Welling (2014), eq. 3, over `num_samples` draws; with β ≠ 1 the β-VAE's, Higgins et al. (2017), eq. 4.
    """

    beta: float = 1.0
    """The weight of the KL."""
    beta_schedule: Callable[[Any], Any] | None = None
    """What β is multiplied by at a step: a function, such as one of optax's schedules; None: it stays.

    A config holds data and no functions: it has `kl_warmup_epochs` for that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.beta, Array):  # a traced one comes from `at`
            numerics.require_number(self, "beta", low=0.0)

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed form was asked for and there is none, or β has a schedule and the step is not known.
        """
        kl = _kl(type(self).__name__, evidence, closed_form=self.closed_form_kl)
        numerics.require(self.beta_schedule is None, "β has a schedule; write objective.at(step)(evidence)")
        return losses.elbo(-evidence.distortion, kl, beta=self.beta)

    def at(self, step: int | Array) -> "ELBO":
        if self.beta_schedule is None:
            return self
        return dataclasses.replace(self, beta=self.beta * self.beta_schedule(step), beta_schedule=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeBits(OneKL):
    """The ELBO in which each latent has `free_nats` of KL for nothing; Kingma et al. (2016), eq. 15.

    What a latent's KL, averaged over the batch, is below that counts as that: nothing is gained by switching it off.
    """

    free_nats: float = 0.1
    """λ, of each latent; of the whole of z where there is no KL of each (`per_latent=False`)."""
    per_latent: bool = True
    """Whether each latent has its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.require_number(self, "free_nats", low=0.0)
        numerics.require(
            self.closed_form_kl or not self.per_latent,
            "the KL of each latent is a closed form; write FreeBits(per_latent=False, closed_form_kl=False)",
        )

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed form was asked for and there is none.
        """
        if not self.per_latent:
            kl = jnp.mean(_kl(type(self).__name__, evidence, closed_form=self.closed_form_kl))
            return _with_mean(-evidence.distortion, -jnp.maximum(kl, self.free_nats))
        if evidence.kl_per_dimension is None:
            raise ValueError(
                f"the KL of {type(evidence.posterior).__name__} from this prior is no sum over the latents; write "
                "objective=FreeBits(per_latent=False, closed_form_kl=False)"
            )
        by_latent = jnp.mean(evidence.kl_per_dimension, axis=0)
        return _with_mean(-evidence.distortion, -jnp.sum(jnp.maximum(by_latent, self.free_nats)))

    def at(self, step: int | Array) -> "FreeBits":
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity(OneKL):
    """E_q[log p(x|z)] - γ |KL - C|, where C rises from 0; Burgess et al. (2018), eq. 8."""

    gamma: float = 100.0
    """γ."""
    nats: float = 25.0
    """What C rises to."""
    num_steps: int = 100_000
    """How many steps of training that takes, in a straight line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.require_number(self, "gamma", low=0.0)
        numerics.require_number(self, "nats", low=0.0)
        numerics.require_number(self, "num_steps", low=1, integer=True)

    def __call__(self, evidence: Evidence) -> Array:
        """Refuses.

        Raises:
          ValueError: the step is not known.
        """
        raise ValueError("the capacity has a schedule; write objective.at(step)(evidence)")

    def at(self, step: int | Array) -> "Objective":
        capacity = self.nats * jnp.minimum(jnp.float32(step) / self.num_steps, 1.0)
        return _AtCapacity(
            num_samples=self.num_samples, closed_form_kl=self.closed_form_kl, gamma=self.gamma, capacity=capacity
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AtCapacity(OneKL):
    gamma: float
    capacity: Array

    def __call__(self, evidence: Evidence) -> Array:
        kl = _kl("Capacity", evidence, closed_form=self.closed_form_kl)
        return -evidence.distortion - self.gamma * jnp.abs(kl - self.capacity)

    def at(self, step: int | Array) -> "_AtCapacity":
        return self


class Adaptation(NamedTuple):
    """What an adaptive objective carries from step to step."""

    log_multiplier: Array  # (), log λ
    average: Array  # (), of the constraint, in nats: not yet divided by the sum of its weights
    weight: Array  # (), the sum of the weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptive(Objective):
    """An objective that follows from what training has seen: `TrainState` carries what it needs."""

    @abc.abstractmethod
    def start(self) -> Adaptation:
        """Before the first step."""

    @abc.abstractmethod
    def given(self, adaptation: Adaptation) -> Objective:
        """The objective of a step."""

    @abc.abstractmethod
    def adapt(self, adaptation: Adaptation, distortion: Array, rate: Array) -> Adaptation:
        """After a step, from the means of its batch in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GECO(OneKL, Adaptive):
    """The least KL with which the distortion stays below a target; Rezende and Viola (2018), algorithm 1.

    Training maximises -(KL + λ (distortion - target)), and λ grows while the average of the constraint is positive.
    """

    target: float = 100.0
    """The distortion to be reached, in nats per example."""
    speed: float = 1e-4
    """By how much log λ grows in a step for each nat above the target."""
    decay: float = 0.99
    """Of the average."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.require_number(self, "speed", low=0.0, strict=True)
        numerics.require_number(self, "target", low=-1e30)
        numerics.require(0 <= self.decay < 1, f"GECO.decay is {self.decay}; write a number in [0, 1)")

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats, with λ = 1.

        Raises:
          ValueError: a closed form was asked for and there is none.
        """
        return self.given(self.start())(evidence)

    def at(self, step: int | Array) -> "GECO":
        return self

    def start(self) -> Adaptation:
        return Adaptation(jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0))

    def given(self, adaptation: Adaptation) -> "Objective":
        return _AtMultiplier(
            num_samples=self.num_samples,
            closed_form_kl=self.closed_form_kl,
            target=self.target,
            multiplier=jnp.exp(adaptation.log_multiplier),
        )

    def adapt(self, adaptation: Adaptation, distortion: Array, rate: Array) -> Adaptation:
        average = self.decay * adaptation.average + (1.0 - self.decay) * (distortion - self.target)
        weight = self.decay * adaptation.weight + (1.0 - self.decay)
        moved = adaptation.log_multiplier + self.speed * jnp.clip(average / weight, -1e3, 1e3)
        return Adaptation(jnp.clip(moved, -_LOG_MULTIPLIER, _LOG_MULTIPLIER), average, weight)


_LOG_MULTIPLIER = 12.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AtMultiplier(OneKL):
    target: float
    multiplier: Array

    def __call__(self, evidence: Evidence) -> Array:
        kl = _kl("GECO", evidence, closed_form=self.closed_form_kl)
        return -kl - self.multiplier * (evidence.distortion - self.target)

    def at(self, step: int | Array) -> "_AtMultiplier":
        return self


def cyclical_schedule(*, warmup_steps: int, period: int) -> Callable[[Any], Any]:
    """A weight that rises from 0 to 1 in a straight line and stays there, again and again; Fu et al. (2019), eq. 6.

    Args:
      warmup_steps: how long it rises, at least 1.
      period: how long it is until it starts again, at least `warmup_steps`.

    Returns:
      A function of the step, for `ELBO(beta_schedule=...)`.

    Raises:
      ValueError: the numbers are not so.
    """
    numerics.require(
        1 <= warmup_steps <= period,
        f"warmup_steps is {warmup_steps} and period {period}; write 1 ≤ warmup_steps ≤ period",
    )
    return lambda step: jnp.minimum(jnp.float32(step % period) / warmup_steps, 1.0)


def _kl(name: str, evidence: Evidence, *, closed_form: bool) -> Array:
    kl = evidence.kl if closed_form else evidence.monte_carlo_kl
    if kl is None:
        raise ValueError(
            f"there is no closed form of KL({type(evidence.posterior).__name__} || prior); "
            f"write {name}(closed_form_kl=False) to estimate it from the draws"
        )
    return kl


def _with_mean(by_example: Array, of_batch: Array) -> Array:
    """What is said of a batch, beside what is said of each of its examples."""
    return by_example + jnp.broadcast_to(of_batch, by_example.shape)


def _require_groups(objective: MIWAE | PIWAE) -> None:
    num, groups = objective.num_samples, objective.num_groups
    numerics.require_number(objective, "num_groups", low=1, high=num, integer=True)
    numerics.require(
        num % groups == 0,
        f"{type(objective).__name__}.num_samples is {num}; write a multiple of num_groups={groups}",
    )
