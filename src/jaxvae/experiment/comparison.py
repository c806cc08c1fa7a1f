"""The lecture's two models side by side: an autoencoder and a VAE of the same networks, on the same data.

The autoencoder is the VAE with another posterior, `Delta`: a code without noise, and so without a KL. Both are trained
with each of some seeds, and what the lecture says of them is measured on held-out examples; `jaxvae.organization` has
the definitions.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import latents, networks, organization
from jaxvae.data import Dataset, Source
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.figures import shown_split, to_eye
from jaxvae.experiment.session import preprocessing
from jaxvae.model import VAE
from jaxvae.numerics import require
from jaxvae.objectives import ELBO, OneKL
from jaxvae.posteriors import Delta
from jaxvae.priors import StandardNormal
from jaxvae.typing import Array, Key, Params

_EXAMPLES, _CODES, _PAIRS = 2000, 10_000, 500
_STEP = 0.1  # of the spread of the codes: how close a close point is
_SHOWN = 10
_FEWEST = 20  # examples: ten to show, and some to be neighbours of each other

COLUMNS = VAE_, AE, GAUSSIAN, DATA = "VAE", "autoencoder", "autoencoder + Gaussian", "training examples"


class Measure(NamedTuple):
    """A row of the table."""

    claim: str  # the lecture's word
    what: str
    unit: str
    lower: bool  # whether the claim is that the VAE's is the lower one
    rival: str  # the column that the VAE is held against


MEASURES = {
    "codes_apart": Measure(
        "memorization", "codes of an image and of itself moved by a pixel, apart", "share of the spread", True, AE
    ),
    "images_apart": Measure(
        "memorization", "images decoded from a code and from a close point, apart", "share of the spread", True, AE
    ),
    "fastest": Measure("continuity", "the fastest moment of a path", "times the even rate", True, AE),
    "detour": Measure("continuity", "the way of the image on a path", "times the shortest", True, AE),
    "coverage": Measure("completeness", "held-out images with a draw near them, means shown", "share", False, GAUSSIAN),
    "coverage_draws": Measure(
        "completeness", "held-out images with a draw near them, pixels drawn", "share", False, GAUSSIAN
    ),
    "density_draws": Measure(
        "completeness",
        "how near the draws are to held-out images, pixels drawn",
        "neighbourhoods that one lies in, over 5",
        False,
        GAUSSIAN,
    ),
}


class Examples(NamedTuple):
    """What is measured on, drawn once for a seed."""

    x: Array  # [N, *event]  held-out, as the likelihood takes them
    near: Array  # [N, *event]  the same, moved by a pixel
    expected: Array  # [N, *event]  the same, in the mean over a random preprocessing
    train: Array  # [M, *event]  training examples
    train_expected: Array  # [M, *event]


Values = Mapping[str, Mapping[str, float]]  # measure, column


def autoencoder_of(experiment: Experiment) -> Experiment:
    """The plain autoencoder with the networks and the training of a VAE."""
    model = dataclasses.replace(experiment.model, posterior=Delta(), prior=StandardNormal())
    objective = experiment.objective
    if isinstance(objective, ELBO):  # estimated from draws, the KL of a point would be -log p(z)
        objective = dataclasses.replace(objective, closed_form_kl=True)
    elif isinstance(objective, OneKL):  # there is no KL to keep from vanishing
        objective = ELBO(num_samples=objective.num_samples)
    return dataclasses.replace(experiment, model=model, objective=objective)


def check(experiment: Experiment, source: Source) -> None:
    """Refuses what can't be compared.

    Raises:
      ValueError: the posterior has no density, an example is no image, or there are too few of them.
    """
    require(
        experiment.model.posterior.has_density,
        f"--config has the posterior {type(experiment.model.posterior).__name__}; write a VAE's config: the plain "
        "autoencoder is made from it",
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
    from jaxvae.plots import is_image

    shape = experiment.model.event_shape or ()
    require(
        is_image(shape) and min(shape[:2]) >= 3,
        f"an example of {experiment.data.name} has the shape {shape}; near-duplicates are made by moving an image by a "
        "pixel, so write a config with images of 1, 3 or 4 channels that are no lines",
    )
    few = {name: num for name, num in source.sizes.items() if num < _FEWEST}
    require(
        not few,
        f"{experiment.data.name} has too few examples to compare models on ({few}); write data with {_FEWEST} in each "
        "split",
    )


def examples(experiment: Experiment, dataset: Dataset, key: Key) -> Examples:
    preprocess = preprocessing(experiment, dataset)
    held_out = shown_split(dataset)[1].x[:_EXAMPLES]
    train = dataset.train.x[:_CODES]
    x_key, train_key = jax.random.split(key)

    def expected(x: np.ndarray) -> Array:
        return jnp.asarray(experiment.data.preprocess.expectation(x, dataset.values.high), jnp.float32)

    x = preprocess(x_key, jnp.asarray(held_out))
    return Examples(
        x,
        jnp.asarray(move_by_a_pixel(np.asarray(x))),
        expected(held_out),
        preprocess(train_key, jnp.asarray(train)),
        expected(train),
    )


def move_by_a_pixel(x: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C], each moved by one pixel, in turn right, down, left and up; at the edge it is repeated."""
    moved = x.copy()
    moved[0::4, :, 1:] = x[0::4, :, :-1]
    moved[1::4, 1:] = x[1::4, :-1]
    moved[2::4, :, :-1] = x[2::4, :, 1:]
    moved[3::4, :-1] = x[3::4, 1:]
    return moved


MeasureRun = Callable[[Params, Key, Examples], dict[str, dict[str, Array]]]


def make_measure(model: VAE) -> MeasureRun:
    """`(params, key, examples) -> {measure: {column: value}}`, for a VAE or an autoencoder, compiled once.

    Everything is computed in float32: a speed is a forward-mode derivative.
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
            # without the pairs that decode to the same: there is no way to measure
            "fastest": {own: jnp.nanmean(jnp.max(speeds, axis=0))},
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
    epsilon = jax.random.normal(key, (num, model.latent_dim))
    covariance = jnp.cov(codes.T).reshape(model.latent_dim, model.latent_dim)
    # A code that is the same for all examples has no variance, and no Cholesky factor.
    jitter = 1e-6 * (1.0 + jnp.trace(covariance)) * jnp.eye(model.latent_dim)
    fitted = jnp.mean(codes, axis=0)[None] + epsilon @ jnp.linalg.cholesky(covariance + jitter).T
    return {AE: prior, GAUSSIAN: fitted}


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95 % interval, by Student's t."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        from scipy import stats

        num = len(values)
        return cls(float(np.mean(values)), float(stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / math.sqrt(num)))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def table(per_seed: Sequence[Values]) -> dict[str, dict[str, Interval]]:
    """{measure: {column: interval}} from the values of each seed."""
    return {
        name: {c: Interval.of([values[name][c] for values in per_seed]) for c in COLUMNS if c in per_seed[0][name]}
        for name in MEASURES
    }


def verdict(name: str, row: Mapping[str, Interval]) -> str:
    """Whether the VAE's interval lies wholly on the side that the lecture says."""
    measure = MEASURES[name]
    vae, rival = row[VAE_], row[measure.rival]
    if not np.isfinite([*vae, *rival]).all():
        return "not measurable"
    if abs(vae.mean - rival.mean) <= vae.half + rival.half:
        return "no: the intervals overlap"
    return "yes" if (vae.mean < rival.mean) == measure.lower else "no: the other way round"


def markdown(rows: Mapping[str, Mapping[str, Interval]]) -> str:
    lines = [
        "| claim | measure | unit | " + " | ".join(COLUMNS) + " | shown? |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for name, row in rows.items():
        m = MEASURES[name]
        cells = [str(row[c]) if c in row else "" for c in COLUMNS]
        sign = "lower" if m.lower else "higher"
        lines.append(
            f"| {m.claim} | {m.what} | {m.unit} | " + " | ".join(cells) + f" | VAE {sign}: {verdict(name, row)} |"
        )
    return "\n".join(lines)


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
            source = "fitted Gaussian" if column == GAUSSIAN else "draws of N(0, I)"
            draw_rows[f"{name}, {source}"] = decode(p, z_new)
    rows = path_rows | draw_rows | {"held-out examples": data.expected[:_SHOWN]}
    any_experiment = next(iter(experiments.values()))
    images = np.stack([np.asarray(r) for r in rows.values()])
    return to_eye(any_experiment, images, like=np.asarray(data.expected)), list(rows)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_json(rows: Mapping[str, Mapping[str, Interval]], per_seed: Sequence[Values]) -> dict[str, Any]:
    return {
        name: {
            "claim": MEASURES[name].claim,
            "unit": MEASURES[name].unit,
            "shown": verdict(name, row),
            "columns": {
                column: {
                    "mean": _finite(interval.mean),
                    "interval95": _finite(interval.half),
                    "seeds": [_finite(values[name][column]) for values in per_seed],
                }
                for column, interval in row.items()
            },
        }
        for name, row in rows.items()
    }
