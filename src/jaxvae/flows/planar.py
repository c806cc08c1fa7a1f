"""Planar flows, which stretch z along one direction."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require_number
from jaxvae.distributions.base import pytree
from jaxvae.flows.base import MOST_LAYERS, Flow
from jaxvae.typing import Array, Key, Params


@pytree
@dataclasses.dataclass(frozen=True)
class PlanarMap:
    """z + u tanh(wᵀz + b), which stretches the coordinate along w; Rezende and Mohamed (2015), eq. 10."""

    u: Array  # [*batch, D]
    w: Array  # [*batch, D]
    b: Array  # [*batch, 1]

    @property
    def _u(self) -> tuple[Array, Array]:
        """A u that keeps the map invertible, wᵀu > -1 by a margin, and wᵀu itself; their appendix A.1."""
        along = jnp.sum(self.w * self.u, axis=-1, keepdims=True)
        allowed = (1.0 - _LEAST) * (jax.nn.softplus(along + _SOFTPLUS_OF_1) - 1.0)
        direction = self.w / (jnp.sum(jnp.square(self.w), axis=-1, keepdims=True) + 1e-12)
        aside = self.u - along * direction
        # Projected once more: a long u's remaining part along w would make the map steeper than its determinant says.
        aside = aside - jnp.sum(self.w * aside, axis=-1, keepdims=True) * direction
        return aside + allowed * direction, allowed * jnp.sum(self.w * direction, axis=-1, keepdims=True)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z [..., *batch, D] -> its image, and log |det| [..., *batch]."""
        u, w, b, along, z = numerics.aligned(self._u[0], self.w, self.b, self._u[1], z)
        h = jnp.tanh(jnp.sum(w * z, axis=-1, keepdims=True) + b)
        return z + u * h, _log_slope(along, h)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """The preimage z [..., *batch, D] of y, and log |det| of the inverse there, by bisection along w."""
        u, w, b, along, y = numerics.aligned(self._u[0], self.w, self.b, self._u[1], y)
        target = jnp.sum(w * y, axis=-1, keepdims=True)

        def image(a: Array, along: Array, b: Array) -> Array:
            return a + along * jnp.tanh(a + b)

        fixed, wanted = jax.lax.stop_gradient(((along, b), target))
        reach = jnp.abs(fixed[0]) + jnp.zeros_like(wanted)
        root = numerics.bisect(lambda a: image(a, *fixed) < wanted, wanted - reach, wanted + reach)
        a = root
        for _ in range(2):  # Newton's steps, each of which adds a derivative to those that are the root's own
            slope = 1.0 + along * (1.0 - jnp.square(jnp.tanh(a + b)))
            a = a - (image(a, along, b) - target) / jnp.maximum(slope, 1e-6)
        h = jnp.tanh(a + b)
        return y - u * h, -_log_slope(along, h)


def _log_slope(along: Array, h: Array) -> Array:
    """log(1 + along (1 - h²)), as a sum of positive terms: [..., 1] -> [...]."""
    square = jnp.square(h)
    return jnp.log(square + (1.0 + along) * (1.0 - square))[..., 0]


_LEAST = 1e-3  # the smallest slope along w: at 0 two points would have one image
_LONGEST = 30.0  # for longer u and w the rounding error exceeds that slope
_SOFTPLUS_OF_1 = math.log(math.expm1(1.0))  # so that a wᵀu of 0 stays 0


@dataclasses.dataclass(frozen=True)
class Planar(Flow):
    """Layers that each stretch z along one direction, with separate u, w and b for each example.

    Rezende and Mohamed (2015), section 4.1.
    """

    num_layers: int = 8
    """The number of layers."""

    def __post_init__(self) -> None:
        require_number(self, "num_layers", low=1, high=MOST_LAYERS, integer=True)

    def context_size(self, latent_dim: int) -> int:
        return self.num_layers * (2 * latent_dim + 1)

    def init(self, key: Key, latent_dim: int) -> Params:
        # A different direction for each layer: identical layers would stay identical.
        return {"w": jax.random.normal(key, (self.num_layers, latent_dim), jnp.float32) / math.sqrt(latent_dim)}

    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[PlanarMap, ...]:
        by_layer = context.reshape(*context.shape[:-1], self.num_layers, 2 * latent_dim + 1)
        u, w, b = jnp.split(by_layer, (latent_dim, 2 * latent_dim), axis=-1)
        u, w, b = numerics.bounded(u, _LONGEST), numerics.bounded(w, _LONGEST), numerics.bounded(b, 1e3)
        w = w + params["w"][(None,) * (w.ndim - 2)]
        return tuple(PlanarMap(u[..., i, :], w[..., i, :], b[..., i, :]) for i in range(self.num_layers))
