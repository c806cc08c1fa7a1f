"""The figures of a run, and the examples and codes in them."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import data, latents
from jaxvae.data import Dataset
from jaxvae.evaluation import PerExample
from jaxvae.experiment import sampling, seeing
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Trainer
from jaxvae.priors import StandardNormal
from jaxvae.typing import Array, Key, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES, _SAMPLES, _POINTS = 20, 64, 5000
_TRAVERSED, _STEPS = 10, 9
_GRID = 20
_LOOKED_UP, _NEIGHBOURS = 8, 6
_ENTRIES = 2**26  # of the training examples searched at once: half a GiB with the search's own arrays


# Jitted as a whole: op by op, each would be a dozen compilations.
_linear_path = jax.jit(latents.linear_path, static_argnames="num")
_spherical_path = jax.jit(latents.spherical_path, static_argnames="num")
_traversals = jax.jit(latents.traversals)
_attribute_vectors = jax.jit(jax.vmap(latents.attribute_vector, (None, 0)))
_add_attributes = jax.jit(jax.vmap(latents.add_attribute, (0, 0, None)))
_nearest = jax.jit(latents.nearest, static_argnames="num")


class Strips(NamedTuple):
    """Rows of points in the latent space, to be decoded and drawn."""

    z: np.ndarray | Array  # [R, C, D]
    rows: list[str]
    columns: list[str]


def draw(
    trainer: Trainer, params: Params, terms: PerExample, records: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, "Figure"]]:
    """All figures of a trained model, each with its name; `terms` are those of `dataset.held_out`."""
    from jaxvae import plots

    experiment, labels = trainer.experiment, trainer.dataset.held_out[1].labels
    x_key, z_key, sample_key = jax.random.split(trainer.keys.figures, 3)
    yield "learning_curves", plots.learning_curves(records)

    x, x_hat = _reconstructed(trainer, params, x_key, z_key)
    units = seeing.units_of(experiment)
    seen, shown = (seeing.to_eye(experiment, params, a, like=x) for a in (x, x_hat))
    yield "reconstructions", plots.reconstructions(seen, shown, units=units)
    samples = sampling.generated(experiment, params, sample_key, num=_SAMPLES)
    yield "samples", plots.samples(seeing.to_eye(experiment, params, samples, like=x), units=units)

    shown_labels = None if labels is None else labels[:_POINTS]
    yield "latent_space", plots.latent_space(terms.embedding[:_POINTS], shown_labels)
    if terms.kl_per_dimension is not None:
        yield "kl_per_dimension", plots.kl_per_dimension(terms.kl_per_dimension.mean(axis=0))

    ways = ways_through(experiment, terms, labels)
    for (name, way), decoded in zip(ways.items(), _decoded(experiment, params, ways.values()), strict=True):
        images = seeing.to_eye(experiment, params, decoded, like=x)
        images = images.reshape(*way.z.shape[:2], *images.shape[1:])
        if name == "manifold":
            yield name, plots.manifold(images, units=units)
        else:
            yield name, plots.strips(images, rows=way.rows, columns=way.columns, units=units)

    near, columns = neighbours(experiment, params, trainer.dataset, samples[:_LOOKED_UP])
    rows = [f"sample {i}" for i in range(len(near))]
    images = seeing.to_eye(experiment, params, near, like=x)
    yield "nearest", plots.strips(images, rows=rows, columns=columns, units=units, first_apart=True)


def _reconstructed(trainer: Trainer, params: Params, x_key: Key, z_key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Examples as the model takes them, and their reconstructions; both [N, *event]."""

    @jax.jit
    def look(params: Params, stored: Array) -> tuple[Array, Array]:
        x = trainer.preprocess(x_key, stored)
        return x, trainer.experiment.model.reconstruct(params, z_key, x)

    x, x_hat = look(params, jnp.asarray(trainer.dataset.held_out[1].x[:_EXAMPLES]))
    return np.asarray(x), np.asarray(x_hat)


def _decoded(experiment: Experiment, params: Params, ways: Collection[Strips]) -> list[np.ndarray]:
    """The mean of p(x|z) at the points of each `Strips`, [R · C, *event]; in one call, since each shape is compiled."""
    model = experiment.model
    decode = jax.jit(lambda params, z: model.decode(params, z).mean)
    decoded = np.asarray(decode(params, np.concatenate([w.z.reshape(-1, model.latent_dim) for w in ways])))
    return np.split(decoded, np.cumsum([w.z.shape[0] * w.z.shape[1] for w in ways])[:-1])


def ways_through(experiment: Experiment, terms: PerExample, labels: np.ndarray | None) -> dict[str, Strips]:
    """The paths and grids through the latent space, by the name of the figure."""
    ways = {
        "traversals": traversals(experiment, terms),
        "interpolations": interpolations(terms, labels),
        "attributes": None if labels is None else attributes(terms, labels),
    }
    if experiment.model.latent_dim == 2 and _held_to_normal(experiment):
        ways["manifold"] = Strips(np.asarray(latents.manifold_grid(_GRID)), [], [])
    on_sphere = experiment.model.posterior.space == "the unit sphere"
    return {
        name: way._replace(z=way.z / np.linalg.norm(way.z, axis=-1, keepdims=True)) if on_sphere else way
        for name, way in ways.items()
        if way is not None
    }


def _held_to_normal(experiment: Experiment) -> bool:
    """Whether the aggregate of all codes should look like N(0, I)."""
    return experiment.model.posterior.has_density and isinstance(experiment.model.prior, StandardNormal)


def traversals(experiment: Experiment, terms: PerExample) -> Strips:
    """Traversals of the latents with the most information, each across the prior's range, around an example's code."""
    codes = terms.embedding
    steps = np.linspace(-3.0, 3.0, _STEPS)
    if _held_to_normal(experiment):
        centre, scale, unit = np.zeros(codes.shape[1]), np.ones(codes.shape[1]), ""
    else:
        centre, scale, unit = codes.mean(axis=0), codes.std(axis=0), " sd"
    kl = terms.kl_per_dimension
    use = codes.var(axis=0) if kl is None or not experiment.model.posterior.has_density else kl.mean(axis=0)
    dims = np.argsort(use)[::-1][:_TRAVERSED]
    values = centre[dims, None] + scale[dims, None] * steps
    z = _traversals(_floats(codes[0]), _floats(values), dims)
    return Strips(z, [f"z[{d}]" for d in dims], [f"{s:+.3g}{unit}" for s in steps])


def interpolations(terms: PerExample, labels: np.ndarray | None) -> Strips | None:
    """Paths from one example's code to another's, on the straight line and on the arc."""
    num = min(3, len(terms.embedding) // 2)
    if num == 0:
        return None
    first, second = np.arange(0, 2 * num, 2), np.arange(1, 2 * num, 2)
    start, end = (_floats(terms.embedding[i]) for i in (first, second))
    both = np.stack([_linear_path(start, end, _STEPS), _spherical_path(start, end, _STEPS)])  # [2, steps, num, D]
    rows = [
        f"{_name(labels, a)} to {_name(labels, b)}, {way}"
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
        for way in ("line", "arc")
    ]
    z = np.moveaxis(both, (2, 0), (0, 1)).reshape(len(rows), _STEPS, -1)
    return Strips(z, rows, [f"{100 * t:g}%" for t in np.linspace(0.0, 1.0, _STEPS)])


def attributes(terms: PerExample, labels: np.ndarray) -> Strips | None:
    """Changes of an example's label: its code minus the attribute vector of its own label plus another's."""
    from jaxvae.plots import classes_of, is_quantity

    classes = classes_of(labels)[:10]
    if len(classes) < 2 or is_quantity(labels):
        return None
    has = labels[None] == classes[:, None]
    vectors = np.asarray(_attribute_vectors(_floats(terms.embedding), has))  # [classes, D]
    changes = np.roll(vectors, -1, axis=0) - vectors
    codes = terms.embedding[has.argmax(axis=1)]  # the first example of each class
    strengths = np.linspace(0.0, 1.5, 7)
    z = _add_attributes(_floats(codes), _floats(changes), _floats(strengths))
    rows = [f"− {a} + {b}" for a, b in zip(classes, np.roll(classes, -1), strict=True)]
    return Strips(z, rows, [f"{s:.2f}" for s in strengths])


def neighbours(
    experiment: Experiment, params: Params, dataset: Dataset, samples: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Each sample followed by its nearest training examples [S, 1 + neighbours, *event], and the columns' titles.

    Distances are in standard units if the likelihood has them. A missing entry counts as one drawn from the observed
    entries of its column, in this block: by the expected square of its difference.
    """
    x, preprocess = dataset.train.x, experiment.data.preprocess
    num = min(_NEIGHBOURS, len(x))
    block = max(num, _ENTRIES // int(np.prod(dataset.event_shape)))
    distances = np.zeros((len(samples), 0))
    images = np.zeros((len(samples), 0, *samples.shape[1:]), np.float32)
    for start in range(0, len(x), block):
        examples = preprocess.expectation(x[start : start + block], dataset.values.high).astype(np.float32)
        there, near = (seeing.in_standard_units(experiment, params, a) for a in (samples, examples))
        found = _nearest(*_without_gaps(there, near), num=min(num, len(examples)))
        images = np.concatenate([images, examples[np.asarray(found.indices)]], axis=1)
        distances = np.concatenate([distances, found.distances], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :num]
        distances = np.take_along_axis(distances, order, axis=1)
        images = np.stack([row[chosen] for row, chosen in zip(images, order, strict=True)])
    images = np.concatenate([samples[:, None], images], axis=1)
    return images, ["sample", *(f"nearest {i}" for i in range(1, num + 1))]


def _without_gaps(there: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of examples as rows, with distances that allow for the missing entries of `near`."""
    there, near = (a.reshape(len(a), -1) for a in (there, near))
    missing = np.isnan(near)
    if not missing.any():
        return there, near
    # E|a - X|² = |a - E X|² + Var X, where the variances are one more coordinate.
    mean, variance = _floats(data.mean(near)), _floats(np.square(data.std(near)))
    beyond = np.sqrt(np.einsum("nd,d->n", missing, variance))
    return np.pad(there, [(0, 0), (0, 1)]), np.column_stack([np.where(missing, mean, near), beyond])


def _floats(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


def _name(labels: np.ndarray | None, i: int) -> str:
    return f"#{i}" if labels is None else str(labels[i])
