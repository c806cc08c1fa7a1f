"""The two models, and whether they can be compared."""

import dataclasses

from jaxvae.checks import require
from jaxvae.data import Source
from jaxvae.experiment.config import Experiment
from jaxvae.objectives import ELBO
from jaxvae.posteriors import Delta
from jaxvae.priors import StandardNormal

_FEWEST = 20  # examples: ten to show, and enough for neighbours


def autoencoder_of(experiment: Experiment) -> Experiment:
    """The plain autoencoder with the networks and the training of a VAE."""
    model = dataclasses.replace(experiment.model, posterior=Delta(), prior=StandardNormal())
    objective = experiment.objective
    if isinstance(objective, ELBO):  # estimated from draws, the KL of a point would be -log p(z)
        objective = dataclasses.replace(objective, closed_form_kl=True)
    return dataclasses.replace(experiment, model=model, objective=objective)


def check(experiment: Experiment, source: Source) -> None:
    """Refuses a config whose models can't be compared.

    Raises:
      ValueError: the posterior has no density or is on the sphere, the objective is not an ELBO, the parameters are not
        drawn anew, an example has missing entries or is not an image, or there are too few examples.
    """
    require(
        experiment.model.posterior.has_density,
        f"--config has the posterior {type(experiment.model.posterior).__name__}; write a VAE's config: the plain "
        "autoencoder is made from it",
    )
    require(
        experiment.model.posterior.space == "all vectors",
        f"the codes of {type(experiment.model.posterior).__name__} lie on the unit sphere, where those of the plain "
        "autoencoder do not; write posterior=DiagonalGaussian()",
    )
    require(
        isinstance(experiment.objective, ELBO),
        f"--config has the objective {type(experiment.objective).__name__}, which a plain autoencoder can't be trained "
        "with; write objective=ELBO()",
    )
    require(
        not experiment.model.likelihood.support.missing,
        "an example with missing entries has no distance to another; write a config with whole examples, and a "
        "likelihood other than Incomplete",
    )
    require(experiment.start_from is None, "start_from is one model, and a comparison trains two; leave it out")
    from jaxvae.plots import is_image

    shape = experiment.model.event_shape or ()
    require(
        is_image(shape) and min(shape[:2]) >= 3,
        f"an example of {experiment.data.name} has the shape {shape}; near-duplicates are made by moving an image by a "
        "pixel, so write a config with images of 1, 3 or 4 channels that are not single lines",
    )
    few = {name: num for name, num in source.sizes.items() if num < _FEWEST}
    require(
        not few,
        f"{experiment.data.name} has too few examples to compare models on ({few}); write data with {_FEWEST} in each "
        "split",
    )
