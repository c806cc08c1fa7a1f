"""Objectives: what training maximises, as pure functions of `Evidence`."""

from jaxvae.objectives.adaptive import GECO, Adaptation
from jaxvae.objectives.aggregate import MMD, BetaTC
from jaxvae.objectives.base import Evidence, Objective
from jaxvae.objectives.bounds import ELBO, Capacity, FreeBits, OneKL, cyclical_schedule
from jaxvae.objectives.weights import CIWAE, CUBO, IWAE, MIWAE, PIWAE, OfWeights, Renyi

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "GECO",
    "IWAE",
    "MIWAE",
    "MMD",
    "PIWAE",
    "Adaptation",
    "BetaTC",
    "Capacity",
    "Evidence",
    "FreeBits",
    "Objective",
    "OfWeights",
    "OneKL",
    "Renyi",
    "cyclical_schedule",
]
