"""Normalizing flows: invertible maps of z whose Jacobian has a determinant that is cheap to have.

A flow here is a choice, as a network is: how many layers of which kind. It says how many numbers of an example its
maps are made from (`context_size`), and makes the maps: pytrees with `forward` and `inverse`, each of which gives the
image and log |det of its Jacobian|. `posteriors.Flow` takes the context from the encoder, `priors.Flow` learns one.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import numerics
from jaxvae.distributions.base import static
from jaxvae.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Flow(abc.ABC):
    """A family of invertible maps of [D]."""

    @abc.abstractmethod
    def context_size(self, latent_dim: int) -> int:
        """The numbers of an example that its maps are made from."""

    @abc.abstractmethod
    def init(self, key: Key, latent_dim: int) -> Params:
        """The parameters that all examples share; the maps begin near the identity."""

    @abc.abstractmethod
    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[Any, ...]:
        """The maps, in the order of the draws' way through them, from the contexts [*batch, context_size]."""


# --- planar ---------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlanarMap:
    """z + u tanh(wᵀz + b): what is along w is stretched; Rezende and Mohamed (2015), eq. 10."""

    u: Array  # [*batch, D]
    w: Array  # [*batch, D]
    b: Array  # [*batch, 1]

    @property
    def _u(self) -> tuple[Array, Array]:
        """The u that leaves the map invertible, wᵀu ≥ -1, and wᵀu itself: their appendix A.1."""
        along = jnp.sum(self.w * self.u, axis=-1, keepdims=True)
        allowed = -1.0 + jax.nn.softplus(along + _SOFTPLUS_OF_1)
        square = jnp.sum(jnp.square(self.w), axis=-1, keepdims=True)
        return self.u + (allowed - along) * self.w / (square + 1e-12), allowed * square / (square + 1e-12)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z [..., *batch, D] -> its image, and log |det| [..., *batch]."""
        u, w, b, along, z = numerics.aligned(self._u[0], self.w, self.b, self._u[1], z)
        h = jnp.tanh(jnp.sum(w * z, axis=-1, keepdims=True) + b)
        return z + u * h, jnp.log1p(along * (1.0 - jnp.square(h)))[..., 0]

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """The z [..., *batch, D] of an image, and log |det| of the inverse there; one root for each, by bisection."""
        u, w, b, along, y = numerics.aligned(self._u[0], self.w, self.b, self._u[1], y)
        target = jnp.sum(w * y, axis=-1, keepdims=True)

        def image(a: Array, along: Array, b: Array) -> Array:
            return a + along * jnp.tanh(a + b)

        def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = 0.5 * (low + high)
            less = image(middle, *fixed) < wanted
            return jnp.where(less, middle, low), jnp.where(less, high, middle)

        fixed, wanted = jax.lax.stop_gradient(((along, b), target))
        reach = jnp.abs(fixed[0]) + jnp.zeros_like(wanted)
        low, high = jax.lax.fori_loop(0, 40, halve, (wanted - reach, wanted + reach))
        root = jax.lax.stop_gradient(0.5 * (low + high))
        slope = 1.0 + fixed[0] * (1.0 - jnp.square(jnp.tanh(root + fixed[1])))
        a = root - (image(root, along, b) - target) / jnp.maximum(slope, 1e-6)  # has the root's gradient
        h = jnp.tanh(a + b)
        return y - u * h, -jnp.log1p(along * (1.0 - jnp.square(h)))[..., 0]


_SOFTPLUS_OF_1 = math.log(math.expm1(1.0))  # so that a wᵀu of 0 stays 0


@dataclasses.dataclass(frozen=True)
class Planar(Flow):
    """Layers that each stretch z along one direction, all of whose numbers are the example's own.

    Rezende and Mohamed (2015), section 4.1.
    """

    num_layers: int = 8
    """How many."""

    def __post_init__(self) -> None:
        numerics.require_number(self, "num_layers", low=1, integer=True)

    def context_size(self, latent_dim: int) -> int:
        return self.num_layers * (2 * latent_dim + 1)

    def init(self, key: Key, latent_dim: int) -> Params:
        # Directions of their own, without which all layers would be one, and would stay one.
        return {"w": jax.random.normal(key, (self.num_layers, latent_dim)) / math.sqrt(latent_dim)}

    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[PlanarMap, ...]:
        by_layer = context.reshape(*context.shape[:-1], self.num_layers, 2 * latent_dim + 1)
        u, w, b = jnp.split(numerics.bounded(by_layer, 1e3), (latent_dim, 2 * latent_dim), axis=-1)
        w = w + params["w"][(None,) * (w.ndim - 2)]
        return tuple(PlanarMap(u[..., i, :], w[..., i, :], b[..., i, :]) for i in range(self.num_layers))


# --- inverse autoregressive -----------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AutoregressiveMap:
    """σ z + (1 - σ) m, where σ and m of an entry are made from the entries before it; Kingma et al. (2016), eq. 14.

    Forwards it is one pass of the network, backwards one for each entry.
    """

    params: Params  # of a masked network
    context: Array  # [*batch, C]
    reverse: bool = static(False)  # whether the entries before are those after

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z [..., *batch, D] -> its image, and log |det| [..., *batch]."""
        (z,) = numerics.aligned(z)
        gate, shift = self._network(z)
        keep = jax.nn.sigmoid(gate)
        return keep * z + (1.0 - keep) * shift, numerics.sum_last(jax.nn.log_sigmoid(gate), 1)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """The z [..., *batch, D] of an image, and log |det| of the inverse there."""
        (y,) = numerics.aligned(y)

        def next_entry(z: Array, _: None) -> tuple[Array, None]:
            gate, shift = self._network(z)
            # (y - (1 - σ) m) / σ
            return y + jnp.exp(-gate) * (y - shift), None

        z, _ = jax.lax.scan(next_entry, y, None, length=y.shape[-1])
        gate, _ = self._network(z)
        return z, -numerics.sum_last(jax.nn.log_sigmoid(gate), 1)

    def _network(self, z: Array) -> tuple[Array, Array]:
        dim, hidden = z.shape[-1], self.params["b0"].shape[-1]
        entries = np.arange(dim)[::-1] if self.reverse else np.arange(dim)
        units = np.arange(hidden) % max(dim - 1, 1)  # Germain et al. (2015): a unit sees the entries up to this
        into, out = (entries[:, None] <= units[None]), (units[:, None] < entries[None])
        h = jax.nn.elu(z @ (self.params["w0"] * into) + _beside(z, self.params["b0"]) + self._of_context(z))
        outputs = h @ (self.params["w1"] * np.tile(out, (1, 2))) + _beside(z, self.params["b1"])
        gate, shift = jnp.split(numerics.bounded(outputs, 15.0), 2, axis=-1)
        return gate, shift

    def _of_context(self, z: Array) -> Array:
        of_context = self.context @ self.params["c0"]
        return of_context[(None,) * (z.ndim - of_context.ndim)]


def _beside(z: Array, row: Array) -> Array:
    return row[(None,) * (z.ndim - 1)]


def _dense(key: Key, fan_in: int, fan_out: int, scale: float = 1.0) -> Array:
    return jax.random.normal(key, (fan_in, fan_out)) * (scale / math.sqrt(max(fan_in, 1)))


@dataclasses.dataclass(frozen=True)
class InverseAutoregressive(Flow):
    """Layers whose entry i is scaled and moved as the entries before it say; Kingma et al. (2016).

    Each is a network of one hidden layer (Germain et al., 2015), and the order of the entries turns around from one to
    the next. A draw with its density is cheap; the density elsewhere takes as many passes as z has entries.
    """

    num_layers: int = 4
    """How many."""
    hidden: int = 320
    """The width of the network of each."""
    context: int = 64
    """The numbers of an example that each sees."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden", "context"):
            numerics.require_number(self, name, low=1, integer=True)

    def context_size(self, latent_dim: int) -> int:
        return self.context

    def init(self, key: Key, latent_dim: int) -> Params:
        def layer(key: Key) -> Params:
            keys = jax.random.split(key, 3)
            gates = jnp.full(latent_dim, _OPEN)  # so that at first what comes in goes out
            return {
                "w0": _dense(keys[0], latent_dim, self.hidden),
                "b0": jnp.zeros(self.hidden),
                "c0": _dense(keys[1], self.context, self.hidden),
                "w1": _dense(keys[2], self.hidden, 2 * latent_dim, 0.1),
                "b1": jnp.concatenate([gates, jnp.zeros(latent_dim)]),
            }

        return {f"layer_{i}": layer(k) for i, k in enumerate(jax.random.split(key, self.num_layers))}

    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[AutoregressiveMap, ...]:
        layers = range(self.num_layers)
        return tuple(AutoregressiveMap(params[f"layer_{i}"], context, reverse=i % 2 == 1) for i in layers)


_OPEN = 2.0


# --- coupling of splines --------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CouplingMap:
    """Half of the entries go through splines that the other half and the context make; Durkan et al. (2019).

    Each spline is monotone, of rational quadratic pieces between -B and B, and the identity beyond.
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
        """The z [..., *batch, D] of an image, and log |det| of the inverse there."""
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
        h = jax.nn.elu(kept @ p["w0"] + _beside(kept, p["b0"]) + of_context)
        h = jax.nn.elu(h @ p["w1"] + _beside(h, p["b1"]))
        out = (h @ p["w2"] + _beside(h, p["b2"])).reshape(*h.shape[:-1], num, 3 * self.bins - 1)
        widths, heights, slopes = jnp.split(out, (self.bins, 2 * self.bins), axis=-1)
        inner = _LEAST + jax.nn.softplus(numerics.bounded(slopes, 30.0) + _SLOPE_OF_1)
        ends = jnp.ones((*inner.shape[:-1], 1))
        return (
            _places(widths, self.bound),
            _places(heights, self.bound),
            jnp.concatenate([ends, inner, ends], axis=-1),
        )


_LEAST = 1e-3  # of a bin's share and of a slope
_SLOPE_OF_1 = math.log(math.expm1(1.0 - _LEAST))


def _places(logits: Array, bound: float) -> Array:
    """Knots from -bound to bound, [..., bins + 1], from the shares between them."""
    bins = logits.shape[-1]
    shares = _LEAST + (1.0 - _LEAST * bins) * jax.nn.softmax(logits, axis=-1)
    inner = jnp.cumsum(shares, axis=-1)[..., :-1]
    ends = jnp.zeros((*inner.shape[:-1], 1))
    return bound * (2.0 * jnp.concatenate([ends, inner, ends + 1.0], axis=-1) - 1.0)


def rational_quadratic(
    x: Array, x_knots: Array, y_knots: Array, slopes: Array, *, inverse: bool
) -> tuple[Array, Array]:
    """A monotone spline and log of its slope; Gregory and Delbourgo (1982), as in Durkan et al. (2019), section 3.1.

    Args:
      x: [...]; with `inverse` the images.
      x_knots: [..., bins + 1], rising.
      y_knots: [..., bins + 1], rising, with the same ends.
      slopes: [..., bins + 1], positive.
      inverse: whether it is the inverse that is wanted, and its slope.

    Returns:
      Image and log-slope, both [...]; beyond the ends the identity.
    """
    knots = y_knots if inverse else x_knots
    within = (x > knots[..., 0]) & (x < knots[..., -1])
    safe = jnp.where(within, x, 0.5 * (knots[..., 0] + knots[..., -1]))
    place = jnp.sum(safe[..., None] >= knots[..., 1:-1], axis=-1)[..., None]

    def at(values: Array, offset: int) -> Array:
        return jnp.take_along_axis(values, place + offset, axis=-1)[..., 0]

    x0, y0, d0, d1 = at(x_knots, 0), at(y_knots, 0), at(slopes, 0), at(slopes, 1)
    width, height = at(x_knots, 1) - x0, at(y_knots, 1) - y0
    s = height / width
    excess = d0 + d1 - 2.0 * s
    if inverse:
        rise = safe - y0
        a, b, c = height * (s - d0) + rise * excess, height * d0 - rise * excess, -s * rise
        root = jnp.sqrt(jnp.maximum(jnp.square(b) - 4.0 * a * c, 1e-20))
        t = jnp.clip(2.0 * c / (-b - root), 0.0, 1.0)
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
    """Layers that move one half of the entries by splines that the other half makes; Durkan et al. (2019).

    Each has a network of two hidden layers. It and its inverse cost the same.
    """

    num_layers: int = 4
    """How many; the halves take turns."""
    hidden: int = 128
    """The width of the hidden layers of each."""
    context: int = 32
    """The numbers of an example that each sees."""
    bins: int = 8
    """The pieces of a spline."""
    bound: float = 5.0
    """Where the splines end, on both sides of 0; beyond it an entry stays as it is."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden", "context"):
            numerics.require_number(self, name, low=1, integer=True)
        numerics.require_number(self, "bins", low=2, high=100, integer=True)
        numerics.require_number(self, "bound", low=0.0, strict=True)

    def context_size(self, latent_dim: int) -> int:
        return self.context

    def init(self, key: Key, latent_dim: int) -> Params:
        def layer(key: Key, moved: int) -> Params:
            keys, out = jax.random.split(key, 4), moved * (3 * self.bins - 1)
            return {
                "w0": _dense(keys[0], latent_dim - moved, self.hidden),
                "c0": _dense(keys[1], self.context, self.hidden),
                "b0": jnp.zeros(self.hidden),
                "w1": _dense(keys[2], self.hidden, self.hidden),
                "b1": jnp.zeros(self.hidden),
                "w2": _dense(keys[3], self.hidden, out, 0.1),
                "b2": jnp.zeros(out),
            }

        sizes = (latent_dim - latent_dim // 2, latent_dim // 2)  # the last half, the first half
        keys = jax.random.split(key, self.num_layers)
        return {f"layer_{i}": layer(k, sizes[i % 2]) for i, k in enumerate(keys)}

    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[CouplingMap, ...]:
        def one(i: int) -> CouplingMap:
            return CouplingMap(params[f"layer_{i}"], context, last=i % 2 == 0, bins=self.bins, bound=self.bound)

        return tuple(one(i) for i in range(self.num_layers))
