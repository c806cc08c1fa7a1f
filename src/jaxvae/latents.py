"""Exploring and editing the latent space: paths, traversals, attributes and neighbours, as pure functions of arrays.

Nothing here depends on a model: a function returns latents for `model.decode`, or takes posterior means from
`model.encode`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import numerics
from jaxvae.checks import require
from jaxvae.typing import Array


def linear_path(start: Array, end: Array, num: int) -> Array:
    """`num` points from `start` to `end`, both included, on straight lines at constant speed.

    Args:
      start: [*batch, D].
      end: [*batch, D].
      num: the number of points, at least 2.

    Returns:
      [num, *batch, D].

    Raises:
      ValueError: the shapes differ, or `num` is below 2.
    """
    t = _times(start, end, num)
    return (1.0 - t) * start[None] + t * end[None]


def spherical_path(start: Array, end: Array, num: int) -> Array:
    """`num` points from `start` to `end` by spherical interpolation: between ends of equal norm, along their arc.

    White (2016), section 2.1, after Shoemake (1985). In many dimensions a straight line between two draws of N(0, I)
    passes closer to the origin than any draw does; the arc keeps their distance from it, and is followed at constant
    angular speed. Between ends of different norms the path lies on an ellipse. Between parallel, opposite or zero
    vectors the arc is not defined, and the path is the straight line.

    Args:
      start: [*batch, D].
      end: [*batch, D].
      num: the number of points, at least 2.

    Returns:
      [num, *batch, D].

    Raises:
      ValueError: the shapes differ, or `num` is below 2.
    """
    t = _times(start, end, num)
    start, end = numerics.aligned(start, end)
    a, b = _direction(start), _direction(end)
    cosine = jnp.sum(a * b, axis=-1, keepdims=True)
    # Below an angle of 1e-3 the sine in float32 is too imprecise to tell the arc from the line.
    zero = [jnp.all(v == 0.0, axis=-1, keepdims=True) for v in (start, end)]
    curved = ~zero[0] & ~zero[1] & (jnp.square(cosine) < 1.0 - 1e-6)
    # The angle, from the difference and the sum of the unit vectors: near ±1 the cosine does not determine it
    # precisely.
    apart, along = (jnp.sum(jnp.square(v), axis=-1, keepdims=True) for v in (a - b, a + b))
    angle = 2.0 * jnp.arctan2(*(jnp.sqrt(jnp.where(curved, square, 1.0)) for square in (apart, along)))[None]
    arc = (jnp.sin((1.0 - t) * angle) * start[None] + jnp.sin(t * angle) * end[None]) / jnp.sin(angle)
    return jnp.where(curved[None], arc, linear_path(start, end, num))


def _direction(v: Array) -> Array:
    """v [..., D] divided by its norm, however large or small; zeros stay zeros."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=-1, keepdims=True, initial=0.0))
    v = v / jnp.where(largest > 0.0, largest, 1.0)
    square = jnp.sum(jnp.square(v), axis=-1, keepdims=True)
    return v / jnp.sqrt(jnp.where(square > 0.0, square, 1.0))


def traversals(z: Array, values: Array, dims: Array) -> Array:
    """`z` with one entry replaced by each of some values, for each of some dimensions.

    Args:
      z: [D], where the traversals pass through.
      values: [V], the new values of the entry; or [T, V], separate values for each dimension.
      dims: [T], whole numbers from 0 to D - 1: the dimensions to traverse.

    Returns:
      [T, V, D].

    Raises:
      ValueError: an argument has another number of axes, there are not values for each dimension, or (unless it is
        traced) a dimension is not one of z's.
    """
    for name, array, ndims in (("z", z, (1,)), ("values", values, (1, 2)), ("dims", dims, (1,))):
        axes = " or ".join(map(str, ndims))
        require(jnp.ndim(array) in ndims, f"{name} has the shape {jnp.shape(array)}; write an array of {axes} axes")
    if not isinstance(dims, jax.core.Tracer):
        outside = [int(d) for d in np.asarray(dims) if not 0 <= d < z.shape[0]]
        require(not outside, f"dims has {outside}, but z has the dimensions 0 to {z.shape[0] - 1}; write these")
    (z,), (values,) = numerics.aligned(z), numerics.aligned(values)
    values = jnp.broadcast_to(values, (len(dims), values.shape[-1]))
    chosen = jax.nn.one_hot(dims, z.shape[0], dtype=bool)[:, None, :]
    return jnp.where(chosen, values[:, :, None], z[None, None, :])


def attribute_vector(z: Array, has: Array) -> Array:
    """The mean latent of the examples that have an attribute, minus the mean of those that do not.

    Larsen et al. (2016), section 4.1; White (2016), section 3.2. Adding it to the latent of an example gives the
    example the attribute, subtracting it takes it away: the lecture's "edit/manipulate samples".

    Args:
      z: [N, D], latents of examples: posterior means.
      has: [N], true for those that have it.

    Returns:
      [D]; NaN if all examples have the attribute, or none.

    Raises:
      ValueError: there is not one entry of `has` for each latent, or one (if it is not traced) is not 0 or 1.
    """
    require(
        z.ndim == 2 and has.shape == z.shape[:1],
        f"z has the shape {z.shape} and has {has.shape}; write z [N, D] and has [N]",
    )
    if not isinstance(has, jax.core.Tracer):
        require(bool(np.isin(has, (0, 1)).all()), "has is not only true and false; write labels == label, say")
    (z,) = numerics.aligned(z)
    weights = jnp.asarray(has, z.dtype)
    return weights @ z / jnp.sum(weights) - (1.0 - weights) @ z / jnp.sum(1.0 - weights)


def add_attribute(z: Array, vector: Array, strengths: Array) -> Array:
    """`z + strength · vector` for each strength: 0 leaves z as it is, 1 adds the attribute, -1 takes it away.

    Args:
      z: [*batch, D].
      vector: [D].
      strengths: [S].

    Returns:
      [S, *batch, D].

    Raises:
      ValueError: `vector` is not as long as the last axis of `z`, or `strengths` is not a vector.
    """
    require(
        vector.shape == z.shape[-1:] and strengths.ndim == 1,
        f"z {z.shape}, vector {vector.shape} and strengths {strengths.shape}: write z [*batch, D], vector [D], "
        "strengths [S]",
    )
    lead = (None,) * (z.ndim - 1)
    return z[None] + strengths[(slice(None), *lead, None)] * vector[(None, *lead)]


class Nearest(NamedTuple):
    """The neighbours of Q queries, the nearest first."""

    indices: Array  # [Q, num], int32: which examples
    distances: Array  # [Q, num], Euclidean, in the units of the examples


def nearest(queries: Array, examples: Array, *, num: int = 1) -> Nearest:
    """The `num` examples nearest to each query, which show whether a sample is new or copies a training example.

    It takes constant memory for any number of queries.

    Args:
      queries: [Q, *event], without NaN.
      examples: [N, *event], without NaN.
      num: the number of neighbours for each query, at most N.

    Raises:
      ValueError: the events differ in shape, or there are not `num` examples.
    """
    require(
        queries.shape[1:] == examples.shape[1:],
        f"queries {queries.shape} and examples {examples.shape} must have the same shape after the first axis",
    )
    require(
        1 <= num <= len(examples), f"num is {num}, but there are {len(examples)} examples; write 1 to {len(examples)}"
    )
    rows = Distances.of(examples)
    candidates = min(len(examples), num + _SPARE)

    def closest(query: Array, index: Array) -> Nearest:
        distance = jnp.linalg.norm(rows.points[index] - query[None], axis=-1)
        order = jnp.argsort(distance)[:num]
        return Nearest(index[order], distance[order])

    def among_candidates(query: Array) -> tuple[Nearest, Array]:
        low, _ = rows.squared(query)
        negative, index = jax.lax.top_k(-low, candidates)
        found = closest(query, index)
        # All other examples are at least as far as the last candidate's lower bound. It is taken by jnp.max, since
        # XLA's CPU backend makes a full sort of a slice of top_k's result.
        return found, (candidates == len(examples)) | (jnp.square(found.distances[-1]) < jnp.max(-negative))

    def among_all(query: Array) -> Nearest:
        return closest(query, jax.lax.top_k(-rows.exactly_squared(query), num)[1])

    def finish(args: tuple[Array, Nearest, Array]) -> Nearest:
        query, found, certain = args
        return jax.lax.cond(certain, lambda: found, lambda: among_all(query))

    flat = rows.flat(queries)
    found = jax.lax.map(among_candidates, flat, batch_size=min(128, len(flat)) or None)
    return jax.lax.map(finish, (flat, *found))


class Distances(NamedTuple):
    """Distances from any point to N points, all as flat vectors: fast bounds, or exact values."""

    points: Array  # [N, D]
    centre: Array  # [D], subtracted so that the product in `squared` loses fewer digits
    moved: Array  # [N, D], the points less the centre
    squares: Array  # [N], the squared norms of `moved`

    @classmethod
    def of(cls, x: Array) -> "Distances":
        """The distances to x [N, *event]."""
        (points,) = numerics.aligned(x)
        points = points.reshape(len(x), math.prod(x.shape[1:]))
        centre = jnp.mean(points, axis=0)
        moved = points - centre[None]
        return cls(points, centre, moved, jnp.sum(jnp.square(moved), axis=-1))

    def flat(self, x: Array) -> Array:
        """x [Q, *event] as vectors of the points' type, [Q, D]."""
        return jnp.asarray(x, self.points.dtype).reshape(len(x), self.points.shape[1])

    def squared(self, x: Array) -> tuple[Array, Array]:
        """Lower and upper bounds, [N] each, on the squared distances of x [D].

        |a - b|² = |a|² - 2ab + |b|² takes one product, with a rounding error proportional to |a|² + |b|².
        """
        x = x - self.centre
        sizes = self.squares + jnp.sum(jnp.square(x))
        squared = sizes - 2.0 * jnp.dot(self.moved, x, precision=jax.lax.Precision.HIGHEST)
        error = jnp.finfo(x.dtype).eps * (20.0 + 2.0 * math.sqrt(x.shape[-1])) * sizes
        return squared - error, squared + error

    def exactly_squared(self, x: Array) -> Array:
        """The exact squared distances of x [D]: [N]."""
        return jnp.sum(jnp.square(self.points - x[None]), axis=-1)


_SPARE = 16  # candidates beyond the number of neighbours asked for


def manifold_grid(num: int) -> Array:
    """A grid in the plane of two latents, with equal steps of probability under N(0, I).

    Kingma and Welling (2014), appendix A, figure 4: a regular grid on the unit square, through the inverse normal CDF.

    Args:
      num: the number of rows, and of columns.

    Returns:
      [num, num, 2]: z[0] grows along a row, z[1] upwards.

    Raises:
      ValueError: `num` is below 1.
    """
    require(num >= 1, f"num is {num}; write at least 1")
    quantiles = jax.scipy.stats.norm.ppf((jnp.arange(num) + 0.5) / num)
    return jnp.stack(jnp.broadcast_arrays(quantiles[None, :], quantiles[::-1, None]), axis=-1)


def _times(start: Array, end: Array, num: int) -> Array:
    require(
        jnp.ndim(start) >= 1 and jnp.shape(start) == jnp.shape(end),
        f"start {jnp.shape(start)} and end {jnp.shape(end)} must have one shape, [*batch, D]",
    )
    require(num >= 2, f"num is {num}; a path has at least 2 points")
    return jnp.linspace(0.0, 1.0, num).reshape(num, *(1,) * jnp.ndim(start))
