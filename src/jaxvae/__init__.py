"""jaxvae: the variational autoencoder in JAX and Flax.

A trained VAE is made of six choices: networks, a posterior, a prior, a likelihood, an objective and a gradient
estimator. All computations are pure functions of `(params, key, x)`. `experiment`, which trains from a config, and
`plots` are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxvae import (
    annealing,
    checkpoints,
    data,
    derivation,
    distributions,
    estimators,
    evaluation,
    flows,
    inference_gap,
    latents,
    likelihoods,
    losses,
    networks,
    objectives,
    optimizers,
    organization,
    parallel,
    posteriors,
    priors,
    samplers,
    training,
)
from jaxvae.data import Data, Dequantization, DynamicBinarization, Raw, Scaling
from jaxvae.distributions import kl_divergence, kl_per_dimension, reparameterize
from jaxvae.estimators import DoublyReparameterized, Estimator, Pathwise, ScoreFunction, StickingTheLanding
from jaxvae.evaluation import impute, make_evaluator, multiple_imputations
from jaxvae.flows import Flow, InverseAutoregressive, Planar, SplineCoupling
from jaxvae.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Fixed,
    Gaussian,
    Incomplete,
    Laplace,
    Likelihood,
    LogisticMixture,
    NegativeBinomial,
    PerPixel,
    Shared,
    Standardized,
    StudentT,
    ZeroInflatedNegativeBinomial,
    mask,
)
from jaxvae.model import VAE
from jaxvae.networks import MLP, ConvDecoder, ConvEncoder
from jaxvae.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    GECO,
    IWAE,
    MIWAE,
    MMD,
    PIWAE,
    BetaTC,
    Capacity,
    Evidence,
    FreeBits,
    Objective,
    Renyi,
)
from jaxvae.optimizers import SGD, Adam, Constant, Cosine, Muon, Stages
from jaxvae.posteriors import (
    Delta,
    DiagonalGaussian,
    FlowPosterior,
    FullGaussian,
    LowRankGaussian,
    Posterior,
    VonMisesFisher,
)
from jaxvae.priors import FlowPrior, GaussianMixture, Prior, StandardNormal, UniformSphere, VampPrior
from jaxvae.training import Metrics, TrainState, make_train_step
from jaxvae.typing import Support

if TYPE_CHECKING:
    from jaxvae import experiment, plots
    from jaxvae.experiment import Experiment, load_model, register, save_model

__version__ = "0.1.0"

_OF_EXPERIMENT = ("Experiment", "load_model", "register", "save_model")

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "GECO",
    "IWAE",
    "MIWAE",
    "MLP",
    "MMD",
    "PIWAE",
    "SGD",
    "VAE",
    "Adam",
    "Bernoulli",
    "Beta",
    "BetaTC",
    "Capacity",
    "Categorical",
    "Constant",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "Cosine",
    "Data",
    "Delta",
    "Dequantization",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "DoublyReparameterized",
    "DynamicBinarization",
    "Estimator",
    "Evidence",
    "Experiment",
    "Fixed",
    "Flow",
    "FlowPosterior",
    "FlowPrior",
    "FreeBits",
    "FullGaussian",
    "Gaussian",
    "GaussianMixture",
    "Incomplete",
    "InverseAutoregressive",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "LowRankGaussian",
    "Metrics",
    "Muon",
    "NegativeBinomial",
    "Objective",
    "Pathwise",
    "PerPixel",
    "Planar",
    "Posterior",
    "Prior",
    "Raw",
    "Renyi",
    "Scaling",
    "ScoreFunction",
    "Shared",
    "SplineCoupling",
    "Stages",
    "StandardNormal",
    "Standardized",
    "StickingTheLanding",
    "StudentT",
    "Support",
    "TrainState",
    "UniformSphere",
    "VampPrior",
    "VonMisesFisher",
    "ZeroInflatedNegativeBinomial",
    "annealing",
    "checkpoints",
    "data",
    "derivation",
    "distributions",
    "estimators",
    "evaluation",
    "experiment",
    "flows",
    "impute",
    "inference_gap",
    "kl_divergence",
    "kl_per_dimension",
    "latents",
    "likelihoods",
    "load_model",
    "losses",
    "make_evaluator",
    "make_train_step",
    "mask",
    "multiple_imputations",
    "networks",
    "objectives",
    "optimizers",
    "organization",
    "parallel",
    "plots",
    "posteriors",
    "priors",
    "register",
    "reparameterize",
    "samplers",
    "save_model",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in ("experiment", "plots"):
        return importlib.import_module(f"jaxvae.{name}")
    if name in _OF_EXPERIMENT:
        return getattr(importlib.import_module("jaxvae.experiment"), name)
    raise AttributeError(f"module 'jaxvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
