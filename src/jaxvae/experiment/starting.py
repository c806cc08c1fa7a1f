"""The parameters of a trained model, as the start of a run."""

import pathlib

from jaxvae.checkpoints import steps_in
from jaxvae.checks import require
from jaxvae.data.dataset import KnownBy
from jaxvae.experiment import serialization
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.model_files import load_model
from jaxvae.fingerprints import digest
from jaxvae.typing import Params


def parameters(experiment: Experiment) -> Params | None:
    """The parameters of the model at `start_from`, or None if new ones are to be drawn.

    Args:
      experiment: the config, fitted to its data.

    Raises:
      ValueError: there is no such model, or it differs from the experiment's model.
    """
    if experiment.start_from is None:
        return None
    given = f"start_from={experiment.start_from}"
    try:
        model, params = load_model(experiment.start_from)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None
    there, here = (serialization.to_data(m, "model") for m in (model, experiment.model))
    different = serialization.differences(there, here, "model")
    require(not different, f"{given} is another model: {serialization.in_words(different)}; choose another")
    return params


def known_by(experiment: Experiment, checkpoints: pathlib.Path) -> KnownBy:
    """The fingerprint of these parameters, for a run without a checkpoint; later, a run does not need them.

    Raises:
      ValueError: see `parameters`.
    """
    params = None if steps_in(checkpoints) else parameters(experiment)
    return {} if params is None else {"start_from": {"sha256": digest(params)}}
