"""Distributions as small frozen pytrees, with NumPyro's methods `sample(key, sample_shape)` and `log_prob`.

Each is a batch of independent events: `log_prob` sums over the event and returns nats. The event is the last axis, or
the last `event_ndims` axes where a class has that field. `log_prob` does not check the values, which may be traced:
outside the support, its result has no meaning.
"""

from jaxvae.distributions.base import (
    Independent,
    log_prob_by_latent,
    pytree,
    reparameterize,
    sample_and_log_prob,
    static,
)
from jaxvae.distributions.composed import Delta, Mixture, Observed, Rescaled, Transformed, embedding
from jaxvae.distributions.continuous import Beta, ContinuousBernoulli, Laplace, StudentT
from jaxvae.distributions.discrete import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    LogisticMixture,
    NegativeBinomial,
    ZeroInflated,
)
from jaxvae.distributions.divergences import CLOSED_FORM_KL, KL_BY_ENTRY, kl_divergence, kl_per_dimension
from jaxvae.distributions.gaussian import LowRankNormal, MultivariateNormal, Normal
from jaxvae.distributions.kernels import squared_mmd
from jaxvae.distributions.sphere import UniformOnSphere, VonMisesFisher

__all__ = [
    "CLOSED_FORM_KL",
    "KL_BY_ENTRY",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "Delta",
    "DiscretizedLogistic",
    "Independent",
    "Laplace",
    "LogisticMixture",
    "LowRankNormal",
    "Mixture",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Observed",
    "Rescaled",
    "StudentT",
    "Transformed",
    "UniformOnSphere",
    "VonMisesFisher",
    "ZeroInflated",
    "embedding",
    "kl_divergence",
    "kl_per_dimension",
    "log_prob_by_latent",
    "pytree",
    "reparameterize",
    "sample_and_log_prob",
    "squared_mmd",
    "static",
]
