"""Imputation of the missing entries of an array of examples by a run's model."""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.checks import require
from jaxvae.data.rows import Range
from jaxvae.evaluation import imputation
from jaxvae.experiment import console
from jaxvae.experiment.restoring import Trained
from jaxvae.typing import Array, Key, Params, Rows, Support

Fill = Callable[[Params, Key, Array], imputation.Imputed]  # completes stored examples [B, *event] M times

MOST = 10_000  # completions of an example, which are drawn at once
_ROWS = 4096  # examples times draws in one decoder pass


def filler(trained: Trained, x: Rows, found: Range, *, num: int | None, num_samples: int) -> Fill:
    """Makes a function that fills in examples like those on which a run was trained.

    Args:
      trained: the run.
      x: [N, *event], as stored, NaN where an entry was not observed.
      found: the range of the values in x.
      num: M, the number of draws of the missing entries; None: their mean, with M = 1.
      num_samples: K, the importance samples for each example.

    Raises:
      ValueError: the examples are not like the run's, or its model takes only complete examples.
    """
    experiment, own = trained.trainer.experiment, trained.trainer.dataset.values
    model = experiment.model
    require(
        x.shape[1:] == model.event_shape,
        f"an example of the input has the shape {x.shape[1:]}, but one of the run's data {model.event_shape}",
    )
    if own.integer:
        fits = found.whole and own.low <= found.low and found.high <= own.high
    else:
        fits = False
        with contextlib.suppress(ValueError):  # of a preprocessing that is for other values
            values = experiment.data.preprocess.support(Support(found.low, found.high, missing=True))
            fits = model.likelihood.support._replace(missing=True).contains(values)
    require(fits, f"the input has values from {found.low:g} to {found.high:g}, but the run's data are in {own}")

    def fill(params: Params, key: Key, stored: Array) -> imputation.Imputed:
        x_key, fill_key = jax.random.split(key)
        seen = trained.trainer.preprocess(x_key, stored)
        if num is None:
            found = imputation.by_means(model, params, fill_key, seen, num_samples=num_samples)
            return found._replace(x=found.x[None])
        return imputation.by_draws(model, params, fill_key, seen, num=num, num_samples=num_samples)

    jax.eval_shape(fill, trained.params, jax.random.key(0), jnp.asarray(x[:1]))  # raises if the model can't impute
    return fill


def filled(
    fill: Fill, params: Params, key: Key, x: Rows, *, num: int | None, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fills in x in parts: returns the completed examples [M, N, *event] and their effective sample sizes [N].

    Observed entries are as the likelihood takes them.

    Raises:
      MemoryError: the completed examples do not fit into the host's memory.
    """
    at_once, fill = max(1, _ROWS // max(num_samples, num or 1)), jax.jit(fill)
    whole, effective = np.empty((num or 1, *x.shape), np.float32), np.empty(len(x), np.float32)
    with console.Count(len(x), title="impute,", unit="example") as bar:
        for i in range(0, len(x), at_once):
            these = slice(i, i + at_once)
            stored = jnp.asarray(x[these])
            whole[:, these], effective[these] = fill(params, jax.random.fold_in(key, i), stored)
            bar.add(len(stored))
    return whole, effective
