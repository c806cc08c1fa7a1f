"""Normalizing flows: invertible maps of z whose Jacobian has a determinant that is cheap to have.

A flow here is a choice, as a network is: how many layers of which kind. It says how many numbers of an example its
maps are made from (`context_size`), and makes the maps: pytrees with `forward` and `inverse`, each of which gives the
image and log |det of its Jacobian|. `posteriors.FlowPosterior` takes the context from the encoder, `priors.FlowPrior`
learns one.
"""

from jaxvae.flows.autoregressive import InverseAutoregressive
from jaxvae.flows.base import Flow
from jaxvae.flows.coupling import SplineCoupling
from jaxvae.flows.planar import Planar

__all__ = [
    "Flow",
    "InverseAutoregressive",
    "Planar",
    "SplineCoupling",
]
