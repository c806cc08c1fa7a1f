"""Coupling flows, which transform one half of the entries given the other half."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require_number
from jaxvae.distributions.base import pytree, static
from jaxvae.flows.base import MOST_LAYERS, Flow, beside, dense
from jaxvae.typing import Array, Key, Params


@pytree
@dataclasses.dataclass(frozen=True)
class CouplingMap:
    """Passes half of the entries through splines made from the other half and the context; Durkan et al. (2019).

    Each spline is monotone, with rational quadratic pieces between -B and B, and the identity beyond.
    """

    params: Params
    context: Array  # [*batch, C]
    last: bool = static(False)  # whether the last half is moved, or the first
    bins: int = static(8)
    bound: float = static(5.0)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z [..., *batch, D] -> its image, and log |det| [..., *batch]."""
        return self._apply(z, inverse=False)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """The preimage z [..., *batch, D] of y, and log |det| of the inverse there."""
        return self._apply(y, inverse=True)

    def _apply(self, x: Array, *, inverse: bool) -> tuple[Array, Array]:
        (x,) = numerics.aligned(x)
        kept, moved = self._halves(x)
        knots = self._knots(kept, moved.shape[-1])
        image, log_slope = rational_quadratic(moved, *knots, inverse=inverse)
        whole = (kept, image) if self.last else (image, kept)
        return jnp.concatenate(whole, axis=-1), numerics.sum_last(log_slope, 1)

    def _halves(self, x: Array) -> tuple[Array, Array]:
        first, last = jnp.split(x, (x.shape[-1] // 2,), axis=-1)
        return (first, last) if self.last else (last, first)

    def _knots(self, kept: Array, num: int) -> tuple[Array, Array, Array]:
        p = self.params
        of_context = (self.context @ p["c0"])[(None,) * (kept.ndim - self.context.ndim)]
        # If nothing is kept, only the context is an input. An empty `w0` could not be saved.
        of_kept = kept @ p["w0"] if "w0" in p else jnp.zeros((*kept.shape[:-1], p["b0"].shape[0]), kept.dtype)
        h = jax.nn.elu(of_kept + beside(of_kept, p["b0"]) + of_context)
        h = jax.nn.elu(h @ p["w1"] + beside(h, p["b1"]))
        out = (h @ p["w2"] + beside(h, p["b2"])).reshape(*h.shape[:-1], num, 3 * self.bins - 1)
        widths, heights, slopes = jnp.split(out, (self.bins, 2 * self.bins), axis=-1)
        inner = _LEAST + jax.nn.softplus(numerics.bounded(slopes, 30.0) + _SLOPE_OF_1)
        ends = jnp.ones((*inner.shape[:-1], 1))
        return (
            _places(widths, self.bound),
            _places(heights, self.bound),
            jnp.concatenate([ends, inner, ends], axis=-1),
        )


_LEAST = 1e-3  # the smallest share of a bin, and the smallest slope
_SLOPE_OF_1 = math.log(math.expm1(1.0 - _LEAST))


def _places(logits: Array, bound: float) -> Array:
    """Knots from -bound to bound, [..., bins + 1], from the logits of the bins' shares."""
    bins = logits.shape[-1]
    shares = _LEAST + (1.0 - _LEAST * bins) * jax.nn.softmax(logits, axis=-1)
    inner = jnp.cumsum(shares, axis=-1)[..., :-1]
    ends = jnp.zeros((*inner.shape[:-1], 1))
    return bound * (2.0 * jnp.concatenate([ends, inner, ends + 1.0], axis=-1) - 1.0)


def rational_quadratic(
    x: Array, x_knots: Array, y_knots: Array, slopes: Array, *, inverse: bool
) -> tuple[Array, Array]:
    """A monotone spline and its log-slope; Gregory and Delbourgo (1982), as in Durkan et al. (2019), section 3.1.

    Args:
      x: [...], the inputs; with `inverse`, the images.
      x_knots: [..., bins + 1], increasing.
      y_knots: [..., bins + 1], increasing, with the same ends.
      slopes: [..., bins + 1], positive.
      inverse: whether to compute the inverse and its log-slope.

    Returns:
      Image and log-slope, both [...]; the identity beyond the ends.
    """
    knots = y_knots if inverse else x_knots
    within = (x > knots[..., 0]) & (x < knots[..., -1])
    safe = jnp.where(within, x, 0.5 * (knots[..., 0] + knots[..., -1]))
    # The piece that contains x, one-hot: on a CPU a gather and its gradient take longer.
    beyond = (safe[..., None] >= knots[..., 1:-1]).astype(x.dtype)
    ends = jnp.ones((*beyond.shape[:-1], 1), x.dtype)
    piece = jnp.concatenate([ends, beyond], axis=-1) - jnp.concatenate([beyond, 0.0 * ends], axis=-1)

    def at(values: Array, offset: int) -> Array:
        return jnp.sum(values[..., offset : offset + piece.shape[-1]] * piece, axis=-1)

    x0, y0, d0, d1 = at(x_knots, 0), at(y_knots, 0), at(slopes, 0), at(slopes, 1)
    width, height = at(x_knots, 1) - x0, at(y_knots, 1) - y0
    s = height / width
    excess = d0 + d1 - 2.0 * s
    if inverse:
        rise = safe - y0
        a, b, c = height * (s - d0) + rise * excess, height * d0 - rise * excess, -s * rise
        root = jnp.sqrt(jnp.maximum(jnp.square(b) - 4.0 * a * c, 1e-20))
        # Of the root's two forms, the one without cancellation; where b is negative, a is not 0.
        negative = b < 0.0
        over, under = jnp.where(negative, root - b, 2.0 * c), jnp.where(negative, 2.0 * a, -b - root)
        t = jnp.clip(over / under, 0.0, 1.0)
    else:
        t = (safe - x0) / width
    product = t * (1.0 - t)
    below = s + excess * product
    log_slope = (
        2.0 * jnp.log(s)
        + jnp.log(d1 * jnp.square(t) + 2.0 * s * product + d0 * jnp.square(1.0 - t))
        - 2.0 * jnp.log(below)
    )
    image = x0 + t * width if inverse else y0 + height * (s * jnp.square(t) + d0 * product) / below
    return jnp.where(within, image, x), jnp.where(within, -log_slope if inverse else log_slope, 0.0)


@dataclasses.dataclass(frozen=True)
class SplineCoupling(Flow):
    """Layers that pass one half of the entries through splines made from the other half; Durkan et al. (2019).

    Each layer has a network with two hidden layers, and begins near the identity. A map and its inverse cost the same.
    """

    num_layers: int = 4
    """The number of layers, which transform the two halves in turn."""
    hidden: int = 128
    """The width of the hidden layers of each network."""
    context: int = 32
    """The size of the context vector that each layer sees."""
    bins: int = 8
    """The number of pieces of each spline."""
    bound: float = 5.0
    """The splines cover -bound to bound; entries beyond that are not changed."""

    def __post_init__(self) -> None:
        require_number(self, "num_layers", low=1, high=MOST_LAYERS, integer=True)
        for name in ("hidden", "context"):
            require_number(self, name, low=1, integer=True)
        require_number(self, "bins", low=2, high=100, integer=True)
        require_number(self, "bound", low=0.0, strict=True)

    def context_size(self, latent_dim: int) -> int:
        return self.context

    def init(self, key: Key, latent_dim: int) -> Params:
        def layer(key: Key, moved: int) -> Params:
            keys, out = jax.random.split(key, 4), moved * (3 * self.bins - 1)
            kept = latent_dim - moved
            return ({"w0": dense(keys[0], kept, self.hidden)} if kept else {}) | {
                "c0": dense(keys[1], self.context, self.hidden),
                "b0": jnp.zeros(self.hidden, jnp.float32),
                "w1": dense(keys[2], self.hidden, self.hidden),
                "b1": jnp.zeros(self.hidden, jnp.float32),
                "w2": dense(keys[3], self.hidden, out, 0.01),
                "b2": jnp.zeros(out, jnp.float32),
            }

        sizes = (latent_dim - latent_dim // 2, latent_dim // 2)  # the last half, the first half
        keys = jax.random.split(key, self.num_layers)
        return {f"layer_{i}": layer(k, sizes[i % 2]) for i, k in enumerate(keys) if sizes[i % 2]}

    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[CouplingMap, ...]:
        def one(i: int) -> CouplingMap:
            return CouplingMap(params[f"layer_{i}"], context, last=i % 2 == 0, bins=self.bins, bound=self.bound)

        # With one latent every other layer would move nothing, and is left out.
        return tuple(one(i) for i in range(self.num_layers) if f"layer_{i}" in params)
