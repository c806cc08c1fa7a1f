"""Special functions for arguments where JAX's own lose precision."""

import math

import jax
import jax.numpy as jnp

from jaxvae.typing import Array


def log_one_minus_exp(x: Array) -> Array:
    """log(1 - exp(-x)) for x > 0."""
    near = x < math.log(2.0)
    return jnp.where(near, jnp.log(-jnp.expm1(-jnp.where(near, x, 1.0))), jnp.log1p(-jnp.exp(-jnp.where(near, 1.0, x))))


def log_sinhc(x: Array) -> Array:
    """log(sinh(x) / x)."""
    square, far = jnp.square(x), jnp.abs(x) > 0.3
    large = jnp.where(far, jnp.abs(x), 1.0)
    series = square * (1.0 / 6.0 + square * (-1.0 / 180.0 + square / 2835.0))
    return jnp.where(far, large + jnp.log1p(-jnp.exp(-2.0 * large)) - jnp.log(2.0 * large), series)


def langevin(x: Array) -> Array:
    """coth(x) - 1/x, the derivative of `log_sinhc`."""
    square, far = jnp.square(x), jnp.abs(x) > 0.3
    large = jnp.where(far, x, 1.0)
    series = x * (1.0 / 3.0 + square * (-1.0 / 45.0 + square * 2.0 / 945.0))
    return jnp.where(far, 1.0 / jnp.tanh(large) - 1.0 / large, series)


def log_beta(a: Array, b: Array) -> Array:
    """log B(a, b), without cancellation where one argument is large and the other is not."""
    # Not by minimum and maximum, whose second derivatives are wrong where a = b.
    swap = a > b
    small, large = jnp.where(swap, b, a), jnp.where(swap, a, b)
    gammaln = jax.scipy.special.gammaln
    far = large >= 10.0
    base = jnp.where(far, large, 10.0)
    # log Γ(base + small) - log Γ(base) by Stirling's series.
    total = base + small
    rising = small * jnp.log(base) + (total - 0.5) * jnp.log1p(small / base) - small
    rising = rising + (1.0 / total - 1.0 / base) / 12.0 - (total**-3 - base**-3) / 360.0
    near = jnp.where(far, 1.0, large)
    return gammaln(small) - jnp.where(far, rising, gammaln(near + small) - gammaln(near))


# From this value on, Loader's expansion of a binomial mass is exact to float32's precision.
SADDLE_FROM = 10.0


def log_binomial_mass(a: Array, b: Array, mean_a: Array, mean_b: Array, excess: Array) -> Array:
    """log of C(a+b, a) p^a (1-p)^b for real a, b ≥ `SADDLE_FROM`; Loader (2000), eq. 3.

    A sum of log-gamma functions, each much larger than the result, would lose all its digits. Here no term is larger
    than the result.

    Args:
      a: the successes.
      b: the failures.
      mean_a: (a + b) p.
      mean_b: (a + b) (1 - p).
      excess: a - mean_a, computed as exactly as possible.
    """

    def stirling(n: Array) -> Array:
        """log n! minus Stirling's formula."""
        square = jnp.square(n)
        return (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / 1260.0 / square) / square) / n

    total = a + b
    return (
        stirling(total)
        - stirling(a)
        - stirling(b)
        - _deviance(a, mean_a, excess)
        - _deviance(b, mean_b, -excess)
        + 0.5 * jnp.log(total / (2.0 * math.pi * a * b))
    )


def _deviance(x: Array, mean: Array, excess: Array) -> Array:
    """x log(x / mean) - excess with excess = x - mean: never negative."""
    t = excess / x
    near = jnp.abs(t) < 0.1
    s = jnp.where(near, t, 0.0)
    series = jnp.float32(1.0 / 9.0)
    for power in range(8, 1, -1):
        series = 1.0 / power + s * series
    far = jnp.log(x / jnp.where(near, x, mean)) - jnp.where(near, 0.0, t)
    return x * jnp.where(near, jnp.square(s) * series, far)
