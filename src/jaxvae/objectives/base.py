"""The interface of objectives, and `Evidence`, their input.

A model fills in the `Evidence` and an objective reads it; neither depends on the other. XLA removes the fields that an
objective does not use.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxvae.checks import require_number
from jaxvae.typing import Array


class Evidence(NamedTuple):
    """K draws z_k ~ q(z|x) for a batch of B examples, and their log-densities in nats."""

    log_likelihood: Array  # [K, B]  log p(x|z_k), summed over the event
    log_prior: Array  # [K, B]  log p(z_k)
    log_posterior: Array  # [K, B]  log q(z_k|x)
    kl: Array | None  # [B]     KL(q(z|x) || p(z)) in closed form where one exists, else None
    z: Array  # [K, B, D]
    posterior: Any  # q(z|x), a distribution with batch shape [B]
    kl_per_dimension: Array | None = None  # [B, D]  the closed form of the KL where it is a sum over the latents
    prior: Any = None  # p(z), a distribution with batch shape ()

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
        """The mean of log q(z_k|x) - log p(z_k) over the K draws, [B]: unbiased, but possibly negative."""
        return jnp.mean(self.log_posterior - self.log_prior, axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """A pure function `Evidence -> [B]`, to be maximised, in nats."""

    num_samples: int = 1
    """The number K of draws from q(z|x) for each example in training."""

    def __post_init__(self) -> None:
        require_number(self, "num_samples", low=1, integer=True)

    @abc.abstractmethod
    def __call__(self, evidence: Evidence) -> Array: ...

    def fit_to(self, num_examples: int) -> "Objective":
        """The objective for a training set of `num_examples` examples, a number that a config may leave out."""
        return self

    def start(self) -> Any:
        """The initial state of an objective that adapts during training: a pytree, or None."""
        return None

    def at(self, step: int | Array, carried: Any = None) -> "Objective":
        """The objective at a training step, with its schedules and its carried state resolved to numbers."""
        return self

    def adapt(self, carried: Any, distortion: Array, rate: Array) -> Any:
        """The state to carry to the next step, given this batch's mean distortion and rate in nats."""
        return carried

    @property
    @abc.abstractmethod
    def needs_density(self) -> bool:
        """Whether it reads log q(z|x), which a posterior may not have."""

    @property
    def for_posterior(self) -> "Objective":
        """The objective for the parameters of q(z|x): this one, unless it is for the model alone."""
        return self
