"""Objectives that adapt during training; `TrainState` carries their state."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from jaxvae.checks import require_number
from jaxvae.objectives.base import Evidence, Objective
from jaxvae.objectives.bounds import OneKL
from jaxvae.typing import Array


class Adaptation(NamedTuple):
    """GECO's state between steps."""

    log_multiplier: Array  # (), log λ
    average: Array  # (), weighted sum of distortion - target, in nats, not yet divided by `weight`
    weight: Array  # (), the sum of the weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class GECO(OneKL):
    """The least KL that keeps the distortion below a target; Rezende and Viola (2018), algorithm 1.

    Training maximises -(KL + λ (distortion - target)), and λ grows while the moving average of distortion - target is
    positive.
    """

    target: float = 100.0
    """The distortion to reach, in nats per example."""
    speed: float = 1e-4
    """The growth of log λ per step, for each nat above the target; log λ stays between -12 and 12."""
    decay: float = 0.99
    """The decay per step of the moving average of distortion - target, of which at most 1,000 nats count in a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "speed", low=0.0, strict=True)
        require_number(self, "target", low=-1e30)
        require_number(self, "decay", low=0.0, below=1.0)

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats, with λ = 1.

        Raises:
          ValueError: a closed-form KL was asked for, and there is none.
        """
        return self.at(0, self.start())(evidence)

    def start(self) -> Adaptation:
        return Adaptation(jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0))

    def at(self, step: int | Array, carried: Adaptation | None = None) -> Objective:
        """The objective with the carried λ.

        Raises:
          ValueError: `carried` is None.
        """
        if carried is None:
            raise ValueError(
                "GECO keeps its λ in the training state; write TrainState.create(..., objective=objective)"
            )
        return _AtMultiplier(
            num_samples=self.num_samples,
            closed_form_kl=self.closed_form_kl,
            target=self.target,
            multiplier=jnp.exp(carried.log_multiplier),
        )

    def adapt(self, carried: Adaptation, distortion: Array, rate: Array) -> Adaptation:
        # Clipped before it is averaged, so that one step that failed is forgotten; one that is NaN says nothing.
        excess = jnp.clip(distortion - self.target, -_MOST, _MOST).astype(carried.average.dtype)
        share = jnp.where(jnp.isnan(excess), 0.0, 1.0 - self.decay)
        average = (1.0 - share) * carried.average + share * jnp.nan_to_num(excess)
        weight = (1.0 - share) * carried.weight + share
        moved = carried.log_multiplier + self.speed * average / jnp.where(weight > 0.0, weight, 1.0)
        return Adaptation(jnp.clip(moved, -_LOG_MULTIPLIER, _LOG_MULTIPLIER), average, weight)


_LOG_MULTIPLIER, _MOST = 12.0, 1e3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AtMultiplier(OneKL):
    target: float
    multiplier: Array

    def __call__(self, evidence: Evidence) -> Array:
        return -self.kl(evidence) - self.multiplier * (evidence.distortion - self.target)
