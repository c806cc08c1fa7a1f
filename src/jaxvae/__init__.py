"""jaxvae: the variational autoencoder in JAX and Flax.

A model is made of six choices: two networks, a posterior, a prior, a likelihood and an objective. All computations are
pure functions of `(params, key, x)`. Modules such as `data`, `experiment`, `checkpoints` and `plots` are imported on
first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxvae import (
    distributions,
    estimators,
    flows,
    likelihoods,
    losses,
    networks,
    objectives,
    posteriors,
    priors,
    training,
)
from jaxvae.distributions import kl_divergence, kl_per_dimension, reparameterize
from jaxvae.estimators import DoublyReparameterized, Estimator, Pathwise, ScoreFunction, StickingTheLanding
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

if TYPE_CHECKING:
    from jaxvae import (
        annealing,
        checkpoints,
        data,
        derivation,
        evaluation,
        experiment,
        inference_gap,
        latents,
        optimizers,
        organization,
        parallel,
        plots,
        samplers,
    )
    from jaxvae.data import Data, Dequantization, DynamicBinarization, Raw, Scaling
    from jaxvae.evaluation import impute, make_evaluator, multiple_imputations
    from jaxvae.experiment import Experiment, load_model, register, save_model
    from jaxvae.optimizers import SGD, Adam, Constant, Cosine, Muon, Stages

__version__ = "0.1.0"

_LAZY = {
    **dict.fromkeys(("checkpoints", "data", "derivation", "evaluation", "experiment", "latents"), ""),
    **dict.fromkeys(("annealing", "inference_gap", "optimizers", "organization", "parallel", "plots", "samplers"), ""),
    **dict.fromkeys(("Data", "Dequantization", "DynamicBinarization", "Raw", "Scaling"), "data"),
    **dict.fromkeys(("SGD", "Adam", "Constant", "Cosine", "Muon", "Stages"), "optimizers"),
    **dict.fromkeys(("Experiment", "register"), "experiment"),
    **dict.fromkeys(("impute", "make_evaluator", "multiple_imputations"), "evaluation"),
    **dict.fromkeys(("load_model", "save_model"), "experiment"),
}

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
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxvae' has no attribute {name!r}")
    module = importlib.import_module(f"jaxvae.{_LAZY[name] or name}")
    return getattr(module, name) if _LAZY[name] else module


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
