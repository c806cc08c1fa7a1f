"""Remarks on configs that are valid but seldom intended."""

import math

import numpy as np

from jaxvae import data
from jaxvae.data import Dataset
from jaxvae.experiment.config import Experiment
from jaxvae.likelihoods import Incomplete, Standardized
from jaxvae.typing import Support

_GREY, _LOOKED_AT = Support(0.0, 255.0, integer=True), 1000
_LARGE = 100.0  # for the mean or the standard deviation of a network's input


def remark(experiment: Experiment, dataset: Dataset) -> str | None:
    """A line about a choice that is valid but seldom intended, or None; the experiment is fitted to its data."""
    preprocess, likelihood = experiment.data.preprocess, experiment.model.likelihood
    if experiment.kl_warmup_epochs > experiment.num_epochs:
        return (
            f"the run ends before the warm-up of the weight β of the KL does: kl_warmup_epochs is "
            f"{experiment.kl_warmup_epochs:g}, and num_epochs {experiment.num_epochs}"
        )
    values, support = preprocess.support(dataset.values), likelihood.support
    of_counts = support.integer and math.isinf(support.high)
    largest = int(np.max(dataset.train.x[:_LOOKED_AT])) if dataset.values == _GREY else 255
    if experiment.data.high is None and largest < 128 and not of_counts:
        return (
            f"{experiment.data.name} has integers, taken for grey levels of 0 to 255, and none of the first ones is "
            f"above {largest}; if that is the largest there can be, write data.high={largest}"
        )
    of_reals = math.isinf(support.low) and math.isinf(support.high)
    if of_reals and len(dataset.event_shape) == 1 and (on_units := _on_units(experiment, dataset)) is not None:
        return on_units
    two = values.integer and values.high - values.low == 1
    if not two or support.integer or not experiment.model.posterior.has_density:
        return None
    return (
        f"{type(likelihood).__name__} is a density, and {experiment.data.name} has two values after "
        f"{type(preprocess).__name__}: at them it has no upper bound, and its nats compare with no other "
        "model's; mostly data.preprocess=Dequantization() is meant, or model.likelihood=Bernoulli()"
    )


def _on_units(experiment: Experiment, dataset: Dataset) -> str | None:
    x = experiment.data.preprocess.expectation(dataset.train.x[:_LOOKED_AT], dataset.values.high)
    mean, std, likelihood = data.mean(x), data.std(x), experiment.model.likelihood
    of_what = f"{experiment.data.name}, of which the first {len(x):,} training examples were looked at: entry"
    far = (std > 0) & ((np.abs(mean) > _LARGE) | (std > _LARGE) | (std < 1 / _LARGE))
    entries = np.flatnonzero(std == 0 if likelihood.standardizes else far)
    if not len(entries) or (likelihood.standardizes and experiment.start_from is not None):  # the model has its own
        return None
    first = entries[0]
    if likelihood.standardizes:
        return (
            f"{of_what} {first} does not vary in them, or was never observed ({len(entries)} such); if that "
            "is so in all of them, it keeps its unit"
        )
    meant = (
        Incomplete(Standardized(likelihood.likelihood))
        if isinstance(likelihood, Incomplete)
        else Standardized(likelihood)
    )
    return (
        f"{of_what} {first} has the mean {mean[first]:.3g} and the standard deviation {std[first]:.3g}, and "
        f"networks start from numbers around 1; mostly model.likelihood={meant} is meant"
    )
