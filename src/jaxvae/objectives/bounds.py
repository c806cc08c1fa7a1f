"""Objectives of a distortion and a KL: the ELBO, and variants that keep its KL from vanishing."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import losses, numerics
from jaxvae.checks import require, require_number
from jaxvae.objectives.base import Evidence, Objective
from jaxvae.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneKL(Objective):
    """An objective with a KL term, shared by the model and q(z|x)."""

    closed_form_kl: bool = True
    """Whether to use the closed form of the KL instead of a Monte Carlo estimate from the same draws."""

    @property
    def needs_density(self) -> bool:
        return not self.closed_form_kl

    def kl(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed-form KL was asked for, and there is none.
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
    """The factor of β as a function of the step, such as an optax schedule; None: β is constant.

    A config holds data, not functions: use its `kl_warmup_epochs` instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.beta, jax.core.Tracer):  # comes from `at`
            return
        if isinstance(self.beta, Array):
            require(
                self.beta.ndim == 0 and 0.0 <= float(self.beta) < math.inf,
                f"{type(self).__name__}.beta is {self.beta}; write a number of at least 0",
            )
        else:
            require_number(self, "beta", low=0.0)

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed-form KL was asked for, and there is none; or β has a schedule, and the step is not known.
        """
        require(self.beta_schedule is None, "β has a schedule; write objective.at(step)(evidence)")
        return losses.elbo(-evidence.distortion, self.kl(evidence), beta=self.beta)

    def at(self, step: int | Array, carried: None = None) -> "ELBO":
        if self.beta_schedule is None:
            return self
        return dataclasses.replace(self, beta=self.beta * self.beta_schedule(step), beta_schedule=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeBits(OneKL):
    """The ELBO in which `free_nats` of each latent's KL are free; Kingma et al. (2016), eq. 15.

    A latent's KL, averaged over the batch, counts as at least `free_nats`, so nothing is gained by switching the latent
    off. If a batch is split, as by `jax.pmap`, the average is over each shard. With `closed_form_kl=False` the average
    is noisy, and where it is near `free_nats` the maximum is too large on average.
    """

    free_nats: float = 0.1
    """λ, for each latent; with `per_latent=False`, for z as a whole."""
    per_latent: bool = True
    """Whether each latent has its own `free_nats`, which needs a KL for each latent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "free_nats", low=0.0)
        require(
            self.closed_form_kl or not self.per_latent,
            f"per_latent needs the KL in closed form; write {self._of_all(closed_form=False)}",
        )

    def _of_all(self, *, closed_form: bool) -> str:
        rest = "" if closed_form else ", closed_form_kl=False"
        return f"FreeBits(free_nats={self.free_nats}, per_latent=False{rest})"

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: a closed-form KL was asked for, and there is none, or none for each latent.
        """
        if not self.per_latent:
            return -evidence.distortion - jnp.maximum(jnp.mean(self.kl(evidence)), self.free_nats)
        if evidence.kl_per_dimension is None:
            raise ValueError(
                f"the KL of {type(evidence.posterior).__name__} from this prior is not a sum over the latents; write "
                f"objective={self._of_all(closed_form=evidence.kl is not None)}"
            )
        by_latent = jnp.mean(evidence.kl_per_dimension, axis=0)
        return -evidence.distortion - jnp.sum(jnp.maximum(by_latent, self.free_nats))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity(OneKL):
    """E_q[log p(x|z)] - γ |KL - C| for each example, where C rises from 0; Burgess et al. (2018), eq. 8.

    With `closed_form_kl=False`, KL is the average over the batch (over each part of it, if it is split): γ |KL - C| of
    one example's estimate would be larger on average, by γ times its noise. Some of that bias is left.
    """

    gamma: float = 100.0
    """The weight γ of |KL - C|."""
    nats: float = 25.0
    """The final value of C, in nats."""
    num_steps: int = 100_000
    """The number of training steps over which C rises linearly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "gamma", low=0.0)
        require_number(self, "nats", low=0.0)
        require_number(self, "num_steps", low=1, integer=True)

    def __call__(self, evidence: Evidence) -> Array:
        """Always raises, since C depends on the step.

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
        kl = self.kl(evidence)
        kl = kl if self.closed_form_kl else jnp.mean(kl)
        return -evidence.distortion - self.gamma * numerics.magnitude(kl - self.capacity)


def cyclical_schedule(*, warmup_steps: int, period: int, num_cycles: int | None = None) -> Callable[[Any], Any]:
    """A weight that rises linearly from 0 to 1 and stays there, periodically; Fu et al. (2019), eq. 6.

    Args:
      warmup_steps: the number of steps over which it rises, at least 1.
      period: the number of steps until it starts again, at least `warmup_steps`.
      num_cycles: how many times it rises; after the last time it stays at 1. None: without end.

    Returns:
      A function of the step, for `ELBO(beta_schedule=...)`.

    Raises:
      ValueError: not 1 ≤ warmup_steps ≤ period, or `num_cycles` is less than 1.
    """
    require(
        1 <= warmup_steps <= period,
        f"warmup_steps is {warmup_steps} and period {period}; write 1 ≤ warmup_steps ≤ period",
    )
    require(num_cycles is None or num_cycles >= 1, f"num_cycles is {num_cycles}; write 1 or more, or None")

    def weight(step: Any) -> Array:
        cycle = step // period if num_cycles is None else jnp.minimum(step // period, num_cycles - 1)
        return jnp.minimum(jnp.float32(step - cycle * period) / warmup_steps, 1.0)

    return weight
