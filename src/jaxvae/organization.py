"""How a latent space is organized: what the lecture asks of it, as numbers.

*Memorization*: do similar inputs get similar codes? *Continuity*: does the decoded image change evenly along a path?
*Completeness*: does a random draw decode into something like the data, and all of the data? Each is free of scale: it
does not change when all latents, or all pixels, are multiplied by a number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.latents import Distances, nearest
from jaxvae.typing import Array


def spread(x: Array) -> Array:
    """(), the root of the mean squared distance between two of the examples x [N, *event], N of at least 2."""
    return jnp.sqrt(2.0 * jnp.sum(jnp.var(x, axis=0, ddof=1)))


def memorization(z: Array, z_near: Array) -> Array:
    """The distance between the codes of near-duplicates, as a share of the `spread` of all codes: [N].

    0: the same code. The squares of examples that have nothing to do with each other have a mean of 1; they themselves
    one a little below (of normal codes 0.80 with one latent, 0.97 with eight).

    Args:
      z: [N, D], the codes of examples.
      z_near: [N, D], those of their near-duplicates.

    Raises:
      ValueError: the shapes differ.
    """
    require(z.shape == z_near.shape, f"z {z.shape} and z_near {z_near.shape} must have one shape, [N, D]")
    return jnp.linalg.norm(z - z_near, axis=-1) / spread(z)


def speeds(decode: Callable[[Array], Array], start: Array, end: Array, *, num: int = 32) -> Array:
    """How fast the decoded image changes on the straight path from `start` to `end`: [num, B].

    The norm of d decode(z(t)) / dt at the middles of `num` equal parts of t in [0, 1], as an exact derivative, over the
    distance |decode(end) - decode(start)|. A change at one rate on the shortest way is 1 throughout; the largest is
    how abrupt the most abrupt moment is, the mean over t how much longer the way is than it had to be. NaN where
    both ends decode to the same.

    Args:
      decode: from z [B, D] to images [B, *event].
      start: [B, D].
      end: [B, D].
      num: the parts.

    Raises:
      ValueError: the shapes differ.
    """
    require(start.shape == end.shape, f"start {start.shape} and end {end.shape} must have one shape, [B, D]")

    def norm(x: Array) -> Array:
        return jnp.linalg.norm(x.reshape(len(x), -1), axis=-1)

    def speed(t: Array) -> Array:
        return norm(jax.jvp(decode, (start + t * (end - start),), (end - start,))[1])

    change = norm(decode(end) - decode(start))
    return jax.lax.map(speed, (jnp.arange(num) + 0.5) / num) / jnp.where(change == 0.0, jnp.nan, change)[None]


class Fidelity(NamedTuple):
    """Two sets of examples compared by their neighbours; Naeem et al. (2020), eq. 3 and 4.

    Where many distances are equal, as of binary images, a ball holds more than k, and both are larger.
    """

    density: Array  # (), how many balls of real examples a generated one lies in, over k: near 1 for a second real set
    coverage: Array  # (), the share of the real examples whose ball holds a generated one: for as many near 1 - 2⁻ᵏ


def fidelity(generated: Array, real: Array, *, num_neighbours: int = 5) -> Fidelity:
    """Density and coverage: are draws like the data, and is all of the data among the draws?

    The ball of a real example reaches to its k-th neighbour among the real ones, and holds what is as far to the
    rounding of float32. Euclidean, on the entries themselves.

    Args:
      generated: [M, *event].
      real: [N, *event], N > k.
      num_neighbours: k.

    Raises:
      ValueError: the events differ in shape, or there are not more than k real examples.
    """
    require(generated.shape[1:] == real.shape[1:], f"generated {generated.shape} and real {real.shape} differ in shape")
    require(len(real) > num_neighbours, f"{len(real)} real examples are too few for {num_neighbours} neighbours")
    # The first neighbour is itself. A distance is known to the rounding of its sum.
    reach = (1.0 + 1e-6) * nearest(real, real, num=num_neighbours + 1).distances[:, -1]
    made, actual = Distances.of(generated), real.reshape(len(real), -1).astype(jnp.float32)

    def inside(args: tuple[Array, Array]) -> tuple[Array, Array]:
        """How many lie in the ball, and whether that is certain."""
        least, most = made.squared(args[0])
        square = jnp.square(args[1])
        return jnp.sum(most <= square), jnp.all((most <= square) | (least > square))

    def finish(args: tuple[Array, Array, Array, Array]) -> Array:
        x, r, count, certain = args
        return jax.lax.cond(
            certain, lambda: count, lambda: jnp.sum(made.exactly_squared(x) <= jnp.square(r)).astype(count.dtype)
        )

    counts = jax.lax.map(finish, (actual, reach, *jax.lax.map(inside, (actual, reach), batch_size=128)))
    return Fidelity(jnp.sum(counts) / (num_neighbours * len(made.points)), jnp.mean(counts > 0))
