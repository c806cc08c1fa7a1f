"""One run: config, data, model and optimizer together. Imported only when used, since it imports heavy libraries."""

from jaxvae.experiment.config import Experiment
from jaxvae.experiment.model_files import load_model, save_model
from jaxvae.experiment.restoring import Trained, reopen
from jaxvae.experiment.run import train
from jaxvae.experiment.serialization import register
from jaxvae.experiment.stopping import Diverged, Interrupted, Stopped

__all__ = [
    "Diverged",
    "Experiment",
    "Interrupted",
    "Stopped",
    "Trained",
    "load_model",
    "register",
    "reopen",
    "save_model",
    "train",
]
