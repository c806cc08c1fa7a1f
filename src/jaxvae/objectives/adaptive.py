"""Objectives that follow from what training has seen."""

import abc
import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.objectives.base import Evidence, Objective
from jaxvae.objectives.bounds import OneKL, kl_of
from jaxvae.typing import Array


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
        numerics.require_number(self, "decay", low=0.0, below=1.0)

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats, with λ = 1.

        Raises:
          ValueError: a closed form was asked for and there is none.
        """
        return self.given(self.start())(evidence)

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
        excess = (distortion - self.target).astype(adaptation.average.dtype)
        average = self.decay * adaptation.average + (1.0 - self.decay) * excess
        weight = self.decay * adaptation.weight + (1.0 - self.decay)
        moved = adaptation.log_multiplier + self.speed * jnp.clip(average / weight, -1e3, 1e3)
        return Adaptation(jnp.clip(moved, -_LOG_MULTIPLIER, _LOG_MULTIPLIER), average, weight)


_LOG_MULTIPLIER = 12.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AtMultiplier(OneKL):
    target: float
    multiplier: Array

    def __call__(self, evidence: Evidence) -> Array:
        kl = kl_of("GECO", evidence, closed_form=self.closed_form_kl)
        return -kl - self.multiplier * (evidence.distortion - self.target)
