"""Normalizing flows: invertible maps of z whose Jacobian determinants are cheap to compute.

A flow here is a choice, like a network: how many layers of which kind. It declares the size of the context vector that
its maps are made from (`context_size`), and makes the maps. These are pytrees with `forward` and `inverse`, which
return the image and log |det of the Jacobian|. `posteriors.FlowPosterior` takes the context from the encoder;
`priors.FlowPrior` learns one.
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
