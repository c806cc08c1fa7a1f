"""jaxvae: the variational autoencoder in JAX and Flax.

Six choices make a model: two networks, a posterior, a prior, a likelihood, an objective. Everything that computes is a
pure function of `(params, key, x)`. What trains from a config, draws, saves or reads data is imported when it is first
used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxvae import distributions, estimators, likelihoods, losses, networks, objectives, posteriors, priors
from jaxvae.distributions import kl_divergence, kl_per_dimension, reparameterize
from jaxvae.estimators import DoublyReparameterized, Estimator, Pathwise, ScoreFunction, StickingTheLanding
from jaxvae.likelihoods import Bernoulli, Fixed, Gaussian, Likelihood, PerPixel, Shared
from jaxvae.model import VAE
from jaxvae.networks import MLP, ConvDecoder, ConvEncoder
from jaxvae.objectives import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, Evidence, Objective, Renyi
from jaxvae.posteriors import Delta, DiagonalGaussian, Posterior
from jaxvae.priors import Prior, StandardNormal
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
        training,
    )
    from jaxvae.data import Data, Dequantization, DynamicBinarization, Raw, Scaling
    from jaxvae.evaluation import make_evaluator
    from jaxvae.experiment import Experiment, load_model, register, save_model
    from jaxvae.optimizers import SGD, Adam, Constant, Cosine, Muon, Stages

__version__ = "0.1.0"

_LAZY = {
    **dict.fromkeys(("checkpoints", "data", "derivation", "evaluation", "experiment", "latents"), ""),
    **dict.fromkeys(("annealing", "inference_gap", "optimizers", "organization", "parallel", "plots", "training"), ""),
    **dict.fromkeys(("Data", "Dequantization", "DynamicBinarization", "Raw", "Scaling"), "data"),
    **dict.fromkeys(("SGD", "Adam", "Constant", "Cosine", "Muon", "Stages"), "optimizers"),
    **dict.fromkeys(("Experiment", "register"), "experiment"),
    "make_evaluator": "evaluation",
    **dict.fromkeys(("load_model", "save_model"), "experiment"),
}

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "IWAE",
    "MIWAE",
    "MLP",
    "PIWAE",
    "SGD",
    "VAE",
    "Adam",
    "Bernoulli",
    "Constant",
    "ConvDecoder",
    "ConvEncoder",
    "Cosine",
    "Data",
    "Delta",
    "Dequantization",
    "DiagonalGaussian",
    "DoublyReparameterized",
    "DynamicBinarization",
    "Estimator",
    "Evidence",
    "Experiment",
    "Fixed",
    "Gaussian",
    "Likelihood",
    "Metrics",
    "Muon",
    "Objective",
    "Pathwise",
    "PerPixel",
    "Posterior",
    "Prior",
    "Raw",
    "Renyi",
    "Scaling",
    "ScoreFunction",
    "Shared",
    "Stages",
    "StandardNormal",
    "StickingTheLanding",
    "TrainState",
    "annealing",
    "checkpoints",
    "data",
    "derivation",
    "distributions",
    "estimators",
    "evaluation",
    "experiment",
    "inference_gap",
    "kl_divergence",
    "kl_per_dimension",
    "latents",
    "likelihoods",
    "load_model",
    "losses",
    "make_evaluator",
    "make_train_step",
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
    "save_model",
    "training",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxvae' has no attribute {name!r}")
    module = importlib.import_module(f"jaxvae.{_LAZY[name] or name}")
    return getattr(module, name) if _LAZY[name] else module


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
