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
            f"the run ends before the warm-up of the KL's weight β does: kl_warmup_epochs is "
            f"{experiment.kl_warmup_epochs:g}, but num_epochs is {experiment.num_epochs}"
        )
    values, support = preprocess.support(dataset.values), likelihood.support
    of_counts = support.integer and math.isinf(support.high)
    largest = int(np.max(dataset.train.x[:_LOOKED_AT])) if dataset.values == _GREY else 255
    if experiment.data.high is None and 0 < largest < 128 and not of_counts:
        return (
            f"the integers of {experiment.data.name} are taken as grey levels from 0 to 255, but none of the first "
            f"is above {largest}; if no value can be, write data.high={largest}, or, if they are counts, "
            "data.preprocess=Raw() and model.likelihood=NegativeBinomial()"
        )
    if len(dataset.event_shape) == 3 and dataset.event_shape[0] in (1, 3, 4) and dataset.event_shape[2] > 4:
        first, width, last = dataset.event_shape
        return (
            f"examples of {experiment.data.name} are taken as images of {first} × {width} pixels with {last} channels; "
            f"if the {first} are channels, save them as the last axis"
        )
    of_reals = math.isinf(support.low) and math.isinf(support.high)
    if of_reals and len(dataset.event_shape) == 1 and (on_units := _on_units(experiment, dataset)) is not None:
        return on_units
    two = values.integer and values.high - values.low == 1
    if not two or support.integer or not experiment.model.posterior.has_density:
        return None
    return (
        f"{type(likelihood).__name__} is a density, but {experiment.data.name} has only two values after "
        f"{type(preprocess).__name__}: the density there is unbounded, and its nats can't be compared with other "
        "models'; probably data.preprocess=Dequantization() or model.likelihood=Bernoulli() is meant"
    )


def _on_units(experiment: Experiment, dataset: Dataset) -> str | None:
    x = experiment.data.preprocess.expectation(dataset.train.x[:_LOOKED_AT], dataset.values.high)
    mean, std, likelihood = data.mean(x), data.std(x), experiment.model.likelihood
    of_what = f"in the first {len(x):,} training examples of {experiment.data.name}, entry"
    far = (std > 0) & ((np.abs(mean) > _LARGE) | (std > _LARGE) | (std < 1 / _LARGE))
    entries = np.flatnonzero(std == 0 if likelihood.standardizes else far)
    if not len(entries) or (likelihood.standardizes and experiment.start_from is not None):  # the model has its own
        return None
    first = entries[0]
    if likelihood.standardizes:
        return (
            f"{of_what} {first} does not vary or was never observed ({len(entries)} such entries); if that holds in "
            "all training examples, it keeps its unit"
        )
    meant = (
        Incomplete(Standardized(likelihood.likelihood))
        if isinstance(likelihood, Incomplete)
        else Standardized(likelihood)
    )
    return (
        f"{of_what} {first} has the mean {mean[first]:.3g} and the standard deviation {std[first]:.3g}, but "
        f"networks start from numbers around 1; probably model.likelihood={meant} is meant"
    )
