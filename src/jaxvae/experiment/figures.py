"""Which pictures a run leaves, and what is in them."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import plots
from jaxvae.data import Dataset, Raw, Split
from jaxvae.experiment.config import Experiment
from jaxvae.typing import Key, Params

_EXAMPLES, _SAMPLES, _POINTS = 20, 64, 5000


def shown_split(dataset: Dataset) -> Split:
    """The examples in the pictures: the test split, or what there is instead."""
    return dataset.test or dataset.validation or dataset.train


def draw(
    experiment: Experiment,
    dataset: Dataset,
    params: Params,
    posterior_mean: np.ndarray,
    key: Key,
    records: Sequence[dict[str, Any]],
    folder: pathlib.Path,
) -> None:
    """The learning curves, reconstructions, samples and latent space of a trained model, as PNG files.

    `posterior_mean` [N, D] is that of the examples of `shown_split`.
    """
    model, preprocess = experiment.model, experiment.data.preprocess
    split = shown_split(dataset)
    x_key, z_key, sample_key = jax.random.split(key, 3)

    @jax.jit
    def look(params: Params, stored: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = preprocess(x_key, stored, dataset.values.high)
        return x, model.reconstruct(params, z_key, x)

    x, x_hat = (np.asarray(a) for a in look(params, jnp.asarray(split.x[:_EXAMPLES])))
    plots.learning_curves(records, folder / "learning_curves.png")
    plots.reconstructions(
        _unit(experiment, x, like=x), _unit(experiment, x_hat, like=x), folder / "reconstructions.png"
    )
    labels = None if split.labels is None else split.labels[:_POINTS]
    plots.latent_space(posterior_mean[:_POINTS], labels, folder / "latent_space.png")
    plots.samples(sample_images(experiment, params, sample_key, num=_SAMPLES), folder / "samples.png")


def sample_images(experiment: Experiment, params: Params, key: Key, *, num: int, sample: bool = False) -> np.ndarray:
    """`num` examples from the model, their means or draws from them, in [0, 1] for the eye: [num, *event]."""
    generate = jax.jit(experiment.model.generate, static_argnames=("num", "sample"))
    x = np.asarray(generate(params, key, num=num, sample=sample))
    return _unit(experiment, x, like=x)


def _unit(experiment: Experiment, x: np.ndarray, *, like: np.ndarray) -> np.ndarray:
    """As it is, since every preprocessing but `Raw` puts values in [0, 1]; those stretched to the range of `like`."""
    if not isinstance(experiment.data.preprocess, Raw):
        return x
    return (x - like.min()) / max(float(like.max() - like.min()), 1e-30)
