"""Distributions on the unit sphere in D dimensions, with densities with respect to its surface area."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import draws, numerics
from jaxvae.distributions.base import pytree, static
from jaxvae.typing import Array, Key, Shape


def log_area(dim: int) -> float:
    """log of the area of the unit sphere in `dim` dimensions: 2 π^(D/2) / Γ(D/2)."""
    return math.log(2.0) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


@pytree
@dataclasses.dataclass(frozen=True)
class UniformOnSphere:
    """The uniform distribution over directions."""

    dim: int = static(3)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws, [*sample_shape, D]."""
        return _unit(draws.normal(key, (*sample_shape, self.dim)))

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., D], in nats: [...]."""
        return jnp.full(value.shape[:-1], -log_area(self.dim))


@pytree
@dataclasses.dataclass(frozen=True)
class VonMisesFisher:
    """The density proportional to exp(κ μᵀz); Davidson et al. (2018), section 3.1.

    With θ the angle between z and μ, the constant, the mean and the CDF of draws are integrals of exp(κ cos θ)
    sin^(D-2) θ over θ. They are computed by quadrature, since Bessel functions of arbitrary order are not available.
    """

    direction: Array  # [*batch, D], of norm 1: μ
    concentration: Array  # [*batch], κ ≥ 0

    @property
    def mean(self) -> Array:
        """A_D(κ) μ, which lies inside the sphere, not on it."""
        return self.resultant[..., None] * self.direction

    @property
    def resultant(self) -> Array:
        """A_D(κ) = E[cos θ], [*batch]."""
        return 1.0 + self.mean_cosine_less_one

    @property
    def mean_cosine_less_one(self) -> Array:
        """E[cos θ - 1], [*batch], at full precision for large κ."""
        (kappa,) = numerics.aligned(self.concentration)
        widest = _widest(kappa, self._dim)
        theta, weights = _nodes(jnp.zeros_like(widest), widest)
        logs = _log_angular(theta, kappa[..., None], self._dim) + jnp.log(weights)
        return jnp.sum(jax.nn.softmax(logs, axis=-1) * -2.0 * jnp.square(jnp.sin(0.5 * theta)), axis=-1)

    @property
    def log_constant(self) -> Array:
        """log of the normalizing constant of exp(κ (cos θ - 1)), [*batch]."""
        (kappa,) = numerics.aligned(self.concentration)
        return log_area(self._dim - 1) + _log_integral(kappa, self._dim)

    @property
    def _dim(self) -> int:
        return self.direction.shape[-1]

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws, [*sample_shape, *batch, D], with a gradient for μ and an implicit one for κ.

        Second derivatives for κ are not those of the draws.
        """
        angle_key, tangent_key = jax.random.split(key)
        (mu,), (kappa,) = map(numerics.aligned, (self.direction, self.concentration))
        lead = (None,) * len(sample_shape)
        u = jax.random.uniform(angle_key, sample_shape + kappa.shape, kappa.dtype, minval=1e-7, maxval=1.0)
        theta = _angle(u, jnp.broadcast_to(kappa[lead], u.shape), self._dim)[..., None]
        normal = draws.normal(tangent_key, sample_shape + mu.shape, mu.dtype)
        tangent = _unit(normal - jnp.sum(normal * mu[lead], axis=-1, keepdims=True) * mu[lead])
        return _unit(jnp.cos(theta) * mu[lead] + jnp.sin(theta) * tangent)

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., *batch, D], in nats: [..., *batch]."""
        direction, value = numerics.aligned(self.direction, value)
        # cos θ - 1 = -|z - μ|² / 2 keeps the digits that matter when multiplied by a large κ.
        cosine = -0.5 * numerics.sum_last(jnp.square(value - direction), 1)
        (kappa, log_constant) = numerics.aligned(self.concentration, self.log_constant)
        lead = (None,) * (cosine.ndim - kappa.ndim)
        return kappa[lead] * cosine - log_constant[lead]


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-30)


_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def _nodes(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Gauss–Legendre nodes between `lower` and `upper` [...], with their weights: [..., 128]."""
    lead, half = (None,) * upper.ndim, 0.5 * (upper - lower)[..., None]
    points, weights = (jnp.asarray(a, upper.dtype)[lead] for a in (1.0 + _POINTS, _WEIGHTS))
    return lower[..., None] + half * points, half * weights


def _widest(kappa: Array, dim: int) -> Array:
    """An angle beyond which the mass is negligible in float32: [*batch]."""
    reach = (0.5 * math.pi) * (math.sqrt(dim - 1.0) + 7.0)
    return jax.lax.stop_gradient(jnp.minimum(math.pi, reach / jnp.sqrt(jnp.maximum(kappa, 1e-6))))


def _log_angular(theta: Array, kappa: Array, dim: int) -> Array:
    """log of exp(κ (cos θ - 1)) sin^(D-2) θ."""
    log_sine = jnp.log(jnp.maximum(jnp.sin(theta), 1e-30))
    return -2.0 * kappa * jnp.square(jnp.sin(0.5 * theta)) + (dim - 2) * log_sine


def _log_integral(kappa: Array, dim: int) -> Array:
    widest = _widest(kappa, dim)
    theta, weights = _nodes(jnp.zeros_like(widest), widest)
    return jax.nn.logsumexp(_log_angular(theta, kappa[..., None], dim) + jnp.log(weights), axis=-1)


def _angle(u: Array, kappa: Array, dim: int) -> Array:
    """The u-quantile of the angle, [...], by bisection, with its implicit gradient.

    Above the median it is found from the probability beyond it. One minus the probability below has no precision in the
    tail, and a draw there has a weight that dominates all others.
    """
    fixed = jax.lax.stop_gradient(kappa)
    widest, log_whole = _widest(fixed, dim), _log_integral(fixed, dim)
    beyond = u > 0.5
    tail = jnp.where(beyond, 1.0 - u, u)

    def mass(theta: Array, kappa: Array, log_whole: Array) -> Array:
        angles, weights = _nodes(jnp.where(beyond, theta, 0.0), jnp.where(beyond, widest, theta))
        logs = _log_angular(angles, kappa[..., None], dim) - log_whole[..., None]
        return jnp.sum(jnp.exp(logs) * weights, axis=-1)

    def too_near(theta: Array) -> Array:
        return (mass(theta, fixed, log_whole) < tail) != beyond

    theta = numerics.bisect(too_near, jnp.zeros_like(widest), widest, num_halvings=26)
    # ∂θ/∂κ = -∂F/∂κ / f; Figurnov et al. (2018), eq. 5. The value stays that of the bisection.
    slope = jnp.exp(_log_angular(theta, fixed, dim) - log_whole)
    moved = mass(theta, kappa, _log_integral(kappa, dim))
    change = (moved - jax.lax.stop_gradient(moved)) / jnp.maximum(slope, 1e-12)
    return theta + jnp.where(beyond, change, -change)
