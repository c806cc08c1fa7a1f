"""Objectives of a distortion and a KL: the ELBO, and what keeps its KL from vanishing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxvae import losses, numerics
from jaxvae.checks import require, require_number
from jaxvae.objectives.base import Evidence, Objective
from jaxvae.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneKL(Objective):
    """One that reads the KL, and that the model and q(z|x) both follow."""

    closed_form_kl: bool = True
    """Whether the KL is the closed form or its Monte Carlo estimate from the same draws."""

    @property
    def needs_density(self) -> bool:
        return not self.closed_form_kl

    def kl(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed form was asked for and there is none.
        """
        kl = evidence.kl if self.closed_form_kl else evidence.monte_carlo_kl
        if kl is None:
            raise ValueError(
                f"there is no closed form of KL({type(evidence.posterior).__name__} || prior); write "
                "closed_form_kl=False in the objective to estimate it from the draws"
            )
        return kl


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
            require_number(self, "beta", low=0.0)

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed form was asked for and there is none, or β has a schedule and the step is not known.
        """
        require(self.beta_schedule is None, "β has a schedule; write objective.at(step)(evidence)")
        return losses.elbo(-evidence.distortion, self.kl(evidence), beta=self.beta)

    def at(self, step: int | Array, carried: None = None) -> "ELBO":
        if self.beta_schedule is None:
            return self
        return dataclasses.replace(self, beta=self.beta * self.beta_schedule(step), beta_schedule=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeBits(OneKL):
    """The ELBO in which each latent has `free_nats` of KL for nothing; Kingma et al. (2016), eq. 15.

    What a latent's KL, averaged over the batch, is below that counts as that: nothing is gained by switching it off.
    Where a batch is taken in parts, as by `jax.pmap`, the average is that of each part.
    """

    free_nats: float = 0.1
    """λ, of each latent; of the whole of z where there is no KL of each (`per_latent=False`)."""
    per_latent: bool = True
    """Whether each latent has its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "free_nats", low=0.0)
        require(
            self.closed_form_kl or not self.per_latent,
            "per_latent needs the KL in closed form; write FreeBits(per_latent=False, closed_form_kl=False)",
        )

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed form was asked for and there is none.
        """
        if not self.per_latent:
            return -evidence.distortion - jnp.maximum(jnp.mean(self.kl(evidence)), self.free_nats)
        if evidence.kl_per_dimension is None:
            raise ValueError(
                f"the KL of {type(evidence.posterior).__name__} from this prior is not a sum over the latents; write "
                "objective=FreeBits(per_latent=False, closed_form_kl=False)"
            )
        by_latent = jnp.mean(evidence.kl_per_dimension, axis=0)
        return -evidence.distortion - jnp.sum(jnp.maximum(by_latent, self.free_nats))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity(OneKL):
    """E_q[log p(x|z)] - γ |KL - C| for each example, where C rises from 0; Burgess et al. (2018), eq. 8."""

    gamma: float = 100.0
    """The weight γ of how far the KL is from C."""
    nats: float = 25.0
    """What C rises to, in nats."""
    num_steps: int = 100_000
    """How many steps of training that takes, in a straight line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "gamma", low=0.0)
        require_number(self, "nats", low=0.0)
        require_number(self, "num_steps", low=1, integer=True)

    def __call__(self, evidence: Evidence) -> Array:
        """Refuses.

        Raises:
          ValueError: the step is not known.
        """
        raise ValueError("the capacity has a schedule; write objective.at(step)(evidence)")

    def at(self, step: int | Array, carried: None = None) -> "Objective":
        capacity = self.nats * jnp.minimum(jnp.float32(step) / self.num_steps, 1.0)
        return _AtCapacity(
            num_samples=self.num_samples, closed_form_kl=self.closed_form_kl, gamma=self.gamma, capacity=capacity
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AtCapacity(OneKL):
    gamma: float
    capacity: Array

    def __call__(self, evidence: Evidence) -> Array:
        return -evidence.distortion - self.gamma * numerics.magnitude(self.kl(evidence) - self.capacity)


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
    require(
        1 <= warmup_steps <= period,
        f"warmup_steps is {warmup_steps} and period {period}; write 1 ≤ warmup_steps ≤ period",
    )
    return lambda step: jnp.minimum(jnp.float32(step % period) / warmup_steps, 1.0)
