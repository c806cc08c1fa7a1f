"""Training: a state, a jitted step that is a pure function of `(state, batch, key)`, and many steps in one dispatch."""

from jaxvae.training.advance import Advance, Batches, Block, Examples, Resident, Totals, fusing_pays, make_advance
from jaxvae.training.step import Metrics, TrainState, TrainStep, make_train_step

__all__ = [
    "Advance",
    "Batches",
    "Block",
    "Examples",
    "Metrics",
    "Resident",
    "Totals",
    "TrainState",
    "TrainStep",
    "fusing_pays",
    "make_advance",
    "make_train_step",
]
