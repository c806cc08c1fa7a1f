"""The lecture's two models side by side: an autoencoder and a VAE of the same networks, on the same data.

The autoencoder is the VAE with another posterior, `Delta`: a code without noise, and so without a KL. Both are trained
with several seeds, and the lecture's claims about them are measured on held-out examples; `jaxvae.organization` has the
definitions.
"""

from jaxvae.experiment.comparison.claims import (
    AE,
    COLUMNS,
    GAUSSIAN,
    MEASURES,
    VAE_,
    as_json,
    markdown,
    table,
    verdict,
)
from jaxvae.experiment.comparison.measuring import draws_of_z, examples, make_measure, move_by_a_pixel, pictures
from jaxvae.experiment.comparison.models import autoencoder_of, check

__all__ = [
    "AE",
    "COLUMNS",
    "GAUSSIAN",
    "MEASURES",
    "VAE_",
    "as_json",
    "autoencoder_of",
    "check",
    "draws_of_z",
    "examples",
    "make_measure",
    "markdown",
    "move_by_a_pixel",
    "pictures",
    "table",
    "verdict",
]
