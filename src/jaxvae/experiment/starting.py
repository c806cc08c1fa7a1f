"""The parameters that a run starts from, where they are those of a model that was trained before."""

from jaxvae.checks import require
from jaxvae.experiment import serialization
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.model_files import load_model
from jaxvae.typing import Params


def parameters(experiment: Experiment) -> Params | None:
    """Those of the model at `start_from`, or None where new ones are to be drawn.

    Args:
      experiment: the config, fitted to its data.

    Raises:
      ValueError: there is no such model, or it makes other choices than the experiment's.
    """
    if experiment.start_from is None:
        return None
    model, params = load_model(experiment.start_from)
    there, here = (serialization.to_data(m, "model") for m in (model, experiment.model))
    different = serialization.differences(there, here, "model")
    shown = ", ".join(f"{path} is {before} there and {now} here" for path, before, now in different[:3])
    require(not different, f"start_from={experiment.start_from} is another model: {shown}; choose another")
    return params
