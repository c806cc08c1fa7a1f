"""The measurements of one model, and the images drawn from both."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import latents, networks, organization
from jaxvae.experiment.comparison.claims import AE, DATA, GAUSSIAN, VAE_
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.seeing import to_eye
from jaxvae.experiment.session import Trainer
from jaxvae.model import VAE
from jaxvae.priors import StandardNormal
from jaxvae.typing import Array, Key, Params

_EXAMPLES, _CODES, _PAIRS = 2000, 10_000, 500
_STEP = 0.1  # the distance of a close point, as a share of the spread of the codes
_SHOWN = 10


class Examples(NamedTuple):
    """The examples to measure on, drawn once for each seed."""

    x: Array  # [N, *event]  held-out, as the likelihood takes them
    near: Array  # [N, *event]  the same examples, moved by a pixel
    expected: Array  # [N, *event]  the same examples, averaged over a random preprocessing
    train: Array  # [M, *event]  training examples
    train_expected: Array  # [M, *event]


def examples(trainer: Trainer, key: Key) -> Examples:
    dataset, preprocess = trainer.dataset, trainer.preprocess
    held_out, train = dataset.held_out[1].x[:_EXAMPLES], dataset.train.x[:_CODES]
    x_key, train_key = jax.random.split(key)

    def expected(x: np.ndarray) -> Array:
        return jnp.asarray(trainer.experiment.data.preprocess.expectation(x, dataset.values.high), jnp.float32)

    x = preprocess(x_key, jnp.asarray(held_out))
    return Examples(
        x,
        jnp.asarray(move_by_a_pixel(np.asarray(x))),
        expected(held_out),
        preprocess(train_key, jnp.asarray(train)),
        expected(train),
    )


def move_by_a_pixel(x: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C], each moved by one pixel, in turn right, down, left and up; the edge is repeated."""
    moved = x.copy()
    moved[0::4, :, 1:] = x[0::4, :, :-1]
    moved[1::4, 1:] = x[1::4, :-1]
    moved[2::4, :, :-1] = x[2::4, :, 1:]
    moved[3::4, :-1] = x[3::4, 1:]
    return moved


MeasureRun = Callable[[Params, Key, Examples], dict[str, dict[str, Array]]]


def make_measure(model: VAE) -> MeasureRun:
    """`(params, key, examples) -> {measure: {column: value}}`, for a VAE or an autoencoder, compiled once.

    Everything is computed in float32, because a speed is a forward-mode derivative.
    """
    model = dataclasses.replace(
        model, encoder=networks.in_float32(model.encoder), decoder=networks.in_float32(model.decoder)
    )
    is_vae = model.posterior.has_density
    own = VAE_ if is_vae else AE

    @jax.jit
    def measure(params: Params, key: Key, data: Examples) -> dict[str, dict[str, Array]]:
        step_key, draw_key, x_key = jax.random.split(key, 3)
        z, z_near, train = (model.embed(params, x) for x in (data.x, data.near, data.train))

        def decode(z: Array) -> Array:
            return model.decode(params, z).mean

        direction = jax.random.normal(step_key, z.shape)
        step = _STEP * organization.spread(z) * direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
        images = decode(z).reshape(len(z), -1)
        moved = decode(z + step).reshape(len(z), -1)
        pairs = min(_PAIRS, len(z) // 2)
        speeds = organization.speeds(decode, z[:pairs], z[pairs : 2 * pairs])
        result = {
            "codes_apart": {own: jnp.mean(organization.memorization(z, z_near))},
            "images_apart": {own: jnp.mean(jnp.linalg.norm(moved - images, axis=-1)) / organization.spread(images)},
            # Without the pairs whose ends decode to the same: they have no path to measure. The largest of their NaN is
            # not always NaN: on a CPU the maximum over a strided axis may be -inf.
            "fastest": {own: jnp.nanmean(jnp.nanmax(speeds, axis=0))},
            "detour": {own: jnp.nanmean(jnp.mean(speeds, axis=0))},
            "coverage": {},
            "coverage_draws": {},
            "density_draws": {},
        }

        def complete(column: str, means: Array, draws: Array) -> None:
            result["coverage"][column] = organization.fidelity(means, data.expected).coverage
            result["density_draws"][column], result["coverage_draws"][column] = organization.fidelity(draws, data.x)

        for column, z_new in draws_of_z(model, params, draw_key, train, num=len(z)).items():
            p = model.decode(params, z_new)
            complete(column, p.mean, p.sample(x_key))
        complete(DATA, data.train_expected[: len(z)], data.train[: len(z)])
        return result

    return measure


def draws_of_z(model: VAE, params: Params, key: Key, codes: Array, *, num: int) -> dict[str, Array]:
    """Draws [num, D] from the prior, and for an autoencoder also from a Gaussian fitted to its codes [M, D]."""
    prior = model.prior_distribution(params).sample(key, (num,))
    if model.posterior.has_density:
        return {VAE_: prior}
    epsilon = jax.random.normal(key, (num, model.latent_dim))  # the prior's draws: the two differ only by the fit
    # Whitened latent by latent, as in GaussianSampler. A latent that is constant has no variance.
    mean, std = jnp.mean(codes, axis=0), jnp.std(codes, axis=0)
    std = jnp.maximum(std, jnp.maximum(1e-6 * jnp.max(std), 1e-9))
    correlation = jnp.cov(((codes - mean[None]) / std[None]).T).reshape(model.latent_dim, model.latent_dim)
    tril = jnp.linalg.cholesky(correlation + 1e-6 * jnp.eye(model.latent_dim))
    fitted = mean[None] + std[None] * (epsilon @ tril.T)
    return {AE: prior, GAUSSIAN: fitted}


def pictures(
    experiments: Mapping[str, Experiment], params: Mapping[str, Params], data: Examples, key: Key
) -> tuple[np.ndarray, list[str]]:
    """Rows of decoded images [R, C, *event] and their names: a path, and draws, for each model; held-out examples."""
    path_rows, draw_rows = {}, {}
    for name, experiment in experiments.items():
        model, p = experiment.model, params[name]
        code = jax.jit(lambda p, x, model=model: model.embed(p, x))
        decode = jax.jit(lambda p, z, model=model: model.decode(p, z).mean)
        z = code(p, data.x[:2])
        path_rows[f"{name}, a path"] = decode(p, latents.linear_path(z[0], z[1], _SHOWN))
        for column, z_new in draws_of_z(model, p, key, code(p, data.train), num=_SHOWN).items():
            prior = "N(0, I)" if isinstance(model.prior, StandardNormal) else "p(z)"
            source = "fitted Gaussian" if column == GAUSSIAN else f"draws of {prior}"
            draw_rows[f"{name}, {source}"] = decode(p, z_new)
    rows = path_rows | draw_rows | {"held-out examples": data.expected[:_SHOWN]}
    name, experiment = next(iter(experiments.items()))
    images = np.stack([np.asarray(r) for r in rows.values()])
    return to_eye(experiment, params[name], images, like=np.asarray(data.expected)), list(rows)
