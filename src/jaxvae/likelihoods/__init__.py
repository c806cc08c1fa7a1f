"""Likelihoods p(x|z), which turn the decoder's outputs into a distribution over an example."""

from jaxvae.likelihoods.base import Likelihood, OfAnother
from jaxvae.likelihoods.counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from jaxvae.likelihoods.incomplete import Incomplete, mask
from jaxvae.likelihoods.levels import Categorical, DiscretizedLogistic, LogisticMixture
from jaxvae.likelihoods.reals import Fixed, Gaussian, Laplace, OfReals, PerPixel, Shared, StudentT, Variance
from jaxvae.likelihoods.standardized import Standardized
from jaxvae.likelihoods.unit import Bernoulli, Beta, ContinuousBernoulli

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Fixed",
    "Gaussian",
    "Incomplete",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "NegativeBinomial",
    "OfAnother",
    "OfReals",
    "PerPixel",
    "Shared",
    "Standardized",
    "StudentT",
    "Variance",
    "ZeroInflatedNegativeBinomial",
    "mask",
]
