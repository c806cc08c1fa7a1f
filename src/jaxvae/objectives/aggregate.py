"""Objectives with the aggregate posterior q(z): its distance to the prior and to the product of its marginals."""

import dataclasses

import jax.numpy as jnp

from jaxvae import losses
from jaxvae.checks import require, require_number
from jaxvae.distributions import log_prob_by_latent, squared_mmd
from jaxvae.objectives.base import Evidence, Objective
from jaxvae.objectives.bounds import OneKL
from jaxvae.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaTC(Objective):
    """E_q[log p(x|z)] - α I(x; z) - β TC(z) - γ Σ_d KL(q(z_d) || p(z_d)): the β-TCVAE of Chen et al. (2018), eq. 4.

    The last sum is for a prior with independent latents; for another prior it is E[Σ_d log q(z_d) - log p(z)], which
    can be negative. The three terms are estimated from the batch (`losses.kl_parts`), or from each shard of a batch
    that is split, as by `jax.pmap`. They add up to the Monte Carlo estimate of the KL, so with α = β = γ = 1 this is
    the ELBO for any batch. With other weights it is not a bound: each term is biased, as the log of a mean is.
    """

    alpha: float = 1.0
    """The weight α of I(x; z), the information that z holds about the example."""
    beta: float = 6.0
    """The weight β of the total correlation, the information that the latents hold about each other."""
    gamma: float = 1.0
    """The weight γ of the rest, the distance of the individual latents from the prior."""
    num_examples: int | None = None
    """The number N of training examples; left out in a config, and taken from the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "gamma"):
            require_number(self, name, low=0.0)
        require_number(self, "num_examples", low=2, integer=True, optional=True)

    def fit_to(self, num_examples: int) -> "BetaTC":
        return dataclasses.replace(self, num_examples=self.num_examples or num_examples)

    @property
    def needs_density(self) -> bool:
        return True

    def __call__(self, evidence: Evidence) -> Array:
        """[B], nats.

        Raises:
          ValueError: `num_examples` is not set or below B, B is 1, or q(z|x) has no marginal densities of the latents.
        """
        require(self.num_examples is not None, "BetaTC.num_examples is not set; write the number of training examples")
        assert self.num_examples is not None
        q, z = evidence.posterior, evidence.z
        require(
            hasattr(type(q), "marginals"),
            f"BetaTC needs the density of each latent, which {type(q).__name__} does not have; write "
            "posterior=DiagonalGaussian(), FullGaussian() or LowRankGaussian()",
        )
        by_latent = log_prob_by_latent(q.marginals, z)
        # The log-density that came with a draw is more precise than one at the draw.
        own = jnp.eye(z.shape[1], dtype=bool)[None]
        if q.marginals is q:
            lost = evidence.log_posterior - jnp.sum(jnp.diagonal(by_latent, axis1=-2, axis2=-1), axis=-2)
            share = jnp.where(own, lost[..., None], 0.0) / z.shape[-1]  # for each latent, so that all parts agree
            by_latent, log_q = by_latent + share[:, None], None
        else:
            log_q = jnp.where(own, evidence.log_posterior[..., None], q.log_prob(z[:, :, None]))
        parts = losses.kl_parts(by_latent, evidence.log_prior, num_examples=self.num_examples, log_q=log_q)
        weighted = self.alpha * parts.mutual_information + self.beta * parts.total_correlation
        return -evidence.distortion - jnp.mean(weighted + self.gamma * parts.dimension_wise_kl, axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMD(OneKL):
    """E_q[log p(x|z)] - β KL(q(z|x) || p(z)) - λ MMD²(q(z), p(z)): the InfoVAE of Zhao et al. (2019).

    Their α is 1 - β, and their λ is λ + β. With the posterior `Delta`, which has no KL, it is the WAE-MMD of Tolstikhin
    et al. (2018), algorithm 2: an autoencoder whose prior can be sampled. MMD² is `distributions.squared_mmd` with its
    default widths. It is estimated from each batch, or from each shard of a batch that is split, as by `jax.pmap`. The
    estimate is unbiased for the q(z) of the whole data distribution. For the mixture over the N training examples it is
    too low, since no two draws are of the same example.
    """

    beta: float = 1.0
    """The weight β of the KL; at 0 the KL is not needed."""
    weight: float = 1000.0
    """The weight λ of MMD²."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "beta", low=0.0)
        require_number(self, "weight", low=0.0)

    @property
    def needs_density(self) -> bool:
        return self.beta > 0.0 and super().needs_density

    def __call__(self, evidence: Evidence) -> Array:
        """[B], in nats, except for MMD², which is dimensionless.

        Raises:
          ValueError: a closed-form KL was asked for, and there is none; `squared_mmd` does not take the prior; or B is
            1.
        """
        mmd = squared_mmd(evidence.z, evidence.prior)
        if mmd is None:
            kinds = (evidence.prior, getattr(evidence.prior, "components", None))
            prior = " of ".join(type(kind).__name__ for kind in kinds if kind is not None)
            raise ValueError(
                "MMD needs a prior that is normal with independent latents, a mixture of those, or uniform on the "
                f"sphere, and not {prior}; write prior=StandardNormal() (on the sphere UniformSphere()), or "
                "objective=ELBO()"
            )
        held = 0.0 if self.beta == 0.0 else self.beta * self.kl(evidence)
        return -evidence.distortion - held - self.weight * jnp.mean(mmd, axis=0)
