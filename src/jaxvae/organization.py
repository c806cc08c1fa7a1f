"""How a latent space is organized: the lecture's criteria as numbers.

*Memorization*: do similar inputs get similar codes? *Continuity*: does the decoded image change evenly along a path?
*Completeness*: does a random draw decode into something like the data, and all of the data? Each is scale-free: it does
not change when all latents, or all pixels, are multiplied by a number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require
from jaxvae.latents import Distances, nearest
from jaxvae.typing import Array


def spread(x: Array) -> Array:
    """The root mean squared distance between two of the examples x [N, *event], N ≥ 2: ()."""
    (x,) = numerics.aligned(x)
    return jnp.sqrt(2.0 * jnp.sum(jnp.var(x, axis=0, ddof=1)))


def memorization(z: Array, z_near: Array) -> Array:
    """The distance between the codes of near-duplicates, relative to the `spread` of all codes: [N].

    0 means the same code. For unrelated examples the mean of the squares is 1, and the mean itself is a little lower
    (for normal codes 0.80 with one latent, 0.97 with eight). NaN if all codes are the same.

    Args:
      z: [N, D], the codes of examples.
      z_near: [N, D], the codes of their near-duplicates.

    Raises:
      ValueError: the shapes differ.
    """
    require(z.shape == z_near.shape, f"z {z.shape} and z_near {z_near.shape} must have one shape, [N, D]")
    z, z_near = numerics.aligned(z, z_near)
    whole = spread(z)
    return jnp.linalg.norm(z - z_near, axis=-1) / jnp.where(whole == 0, jnp.nan, whole)


def speeds(decode: Callable[[Array], Array], start: Array, end: Array, *, num: int = 32) -> Array:
    """How fast the decoded image changes on the straight path from `start` to `end`: [num, B].

    The norm of the exact derivative d decode(z(t)) / dt at the midpoints of `num` equal parts of t in [0, 1], divided
    by |decode(end) - decode(start)|. A change at constant speed along the shortest path gives 1 throughout. The largest
    value measures the most abrupt moment; the mean over t is the length of the path relative to the shortest one. NaN
    where both ends decode to the same image.

    Args:
      decode: from z [B, D] to images [B, *event]; it needs a forward-mode derivative, which a network that computes
        in bfloat16 does not have.
      start: [B, D].
      end: [B, D].
      num: the number of parts, at least 1.

    Raises:
      ValueError: the shapes differ, or `num` is below 1.
    """
    require(num >= 1, f"num is {num}; write at least 1")
    require(start.shape == end.shape, f"start {start.shape} and end {end.shape} must have one shape, [B, D]")
    start, end = numerics.aligned(start, end)

    def norm(x: Array) -> Array:
        return jnp.linalg.norm(x.reshape(len(x), -1), axis=-1)

    def speed(t: Array) -> Array:
        return norm(jax.jvp(decode, (start + t * (end - start),), (end - start,))[1])

    change = norm(decode(end) - decode(start))
    return jax.lax.map(speed, (jnp.arange(num) + 0.5) / num) / jnp.where(change == 0.0, jnp.nan, change)[None]


class Fidelity(NamedTuple):
    """Two sets of examples compared by their neighbours; Naeem et al. (2020), eq. 3 and 4.

    Where many distances are equal, as for binary images, a ball holds more than k examples, and both values are larger.
    """

    density: Array  # (), the mean number of real balls that a generated example lies in, over k: near 1 for real data
    coverage: Array  # (), share of real balls that hold a generated example: near 1 - 2⁻ᵏ for as many real examples


def fidelity(generated: Array, real: Array, *, num_neighbours: int = 5) -> Fidelity:
    """Density and coverage: are draws like the data, and is all of the data among the draws?

    The ball of a real example reaches to its k-th neighbour among the real ones, and includes points at that distance
    up to float32 rounding. Distances are Euclidean, on the entries themselves.

    Args:
      generated: [M, *event], without NaN.
      real: [N, *event], N > k, without NaN.
      num_neighbours: k, at least 1.

    Raises:
      ValueError: the events differ in shape, there is no generated example, there are not more than k real ones, or k
        is below 1.
    """
    require(num_neighbours >= 1, f"num_neighbours is {num_neighbours}; write a whole number of at least 1")
    require(generated.shape[1:] == real.shape[1:], f"generated {generated.shape} and real {real.shape} differ in shape")
    require(len(generated) > 0, "there are no generated examples")
    require(len(real) > num_neighbours, f"{len(real)} real examples are too few for {num_neighbours} neighbours")
    # The first neighbour is the example itself. The factor allows for the rounding of distances.
    reach = (1.0 + 1e-6) * nearest(real, real, num=num_neighbours + 1).distances[:, -1]
    made = Distances.of(generated)
    actual = made.flat(real)

    def inside(args: tuple[Array, Array]) -> tuple[Array, Array]:
        """How many generated examples lie in the ball, and whether the count is certain."""
        least, most = made.squared(args[0])
        square = jnp.square(args[1])
        return jnp.sum(most <= square), jnp.all((most <= square) | (least > square))

    def finish(args: tuple[Array, Array, Array, Array]) -> Array:
        x, r, count, certain = args
        return jax.lax.cond(
            certain, lambda: count, lambda: jnp.sum(made.exactly_squared(x) <= jnp.square(r)).astype(count.dtype)
        )

    counts = jax.lax.map(finish, (actual, reach, *jax.lax.map(inside, (actual, reach), batch_size=128)))
    # The mean is summed in float32: the sum of all counts may be larger than 32 bits hold.
    density = jnp.mean(counts) * (len(real) / (num_neighbours * len(made.points)))
    return Fidelity(density, jnp.mean(counts > 0))
