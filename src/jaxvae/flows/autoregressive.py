"""Autoregressive flows, which transform each entry given the entries before it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import numerics
from jaxvae.checks import require_number
from jaxvae.distributions.base import pytree, static
from jaxvae.flows.base import MOST_LAYERS, Flow, beside, dense
from jaxvae.typing import Array, Key, Params


@pytree
@dataclasses.dataclass(frozen=True)
class AutoregressiveMap:
    """σ z + (1 - σ) m, where σ and m of an entry depend on the entries before it; Kingma et al. (2016), eq. 14.

    The forward map takes one pass of the network, the inverse one pass per entry.
    """

    params: Params  # of a masked network
    context: Array  # [*batch, C]
    reverse: bool = static(False)  # whether the order of the entries is reversed

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z [..., *batch, D] -> its image, and log |det| [..., *batch]."""
        (z,) = numerics.aligned(z)
        gate, shift = self._network(z)
        keep = jax.nn.sigmoid(gate)
        return keep * z + (1.0 - keep) * shift, numerics.sum_last(jax.nn.log_sigmoid(gate), 1)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """The preimage z [..., *batch, D] of y, and log |det| of the inverse there."""
        (y,) = numerics.aligned(y)
        y = y.astype(jnp.result_type(y, self.params["w0"], self.context))  # that of the preimage

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
        h = jax.nn.elu(
            z @ jnp.where(into, self.params["w0"], 0.0) + beside(z, self.params["b0"]) + self._of_context(z, "c0")
        )
        outputs = h @ jnp.where(np.tile(out, (1, 2)), self.params["w1"], 0.0) + beside(z, self.params["b1"])
        # The context also bypasses the hidden units, since none of them leads to the first entry.
        outputs = outputs + self._of_context(z, "c1")
        gate, shift = jnp.split(outputs, 2, axis=-1)
        return numerics.bounded(gate, 15.0), numerics.bounded(shift, 1e3)

    def _of_context(self, z: Array, name: str) -> Array:
        of_context = self.context @ self.params[name]
        return of_context[(None,) * (z.ndim - of_context.ndim)]


@dataclasses.dataclass(frozen=True)
class InverseAutoregressive(Flow):
    """Layers that scale and shift each entry given the entries before it; Kingma et al. (2016).

    Each layer is a network with one hidden layer (Germain et al., 2015), and the order of the entries is reversed from
    one layer to the next. At first each shrinks its input to about σ(2) = 0.88 of it, plus what the encoder adds. A
    draw with its density is cheap. The density at any other point takes as many passes as z has entries.
    """

    num_layers: int = 4
    """The number of layers."""
    hidden: int = 320
    """The hidden width of each layer's network."""
    context: int = 64
    """The size of the context vector that each layer sees."""

    def __post_init__(self) -> None:
        require_number(self, "num_layers", low=1, high=MOST_LAYERS, integer=True)
        for name in ("hidden", "context"):
            require_number(self, name, low=1, integer=True)

    def context_size(self, latent_dim: int) -> int:
        return self.context

    def init(self, key: Key, latent_dim: int) -> Params:
        def layer(key: Key) -> Params:
            keys = jax.random.split(key, 4)
            gates = jnp.full(latent_dim, _OPEN, jnp.float32)
            return {
                "w0": dense(keys[0], latent_dim, self.hidden),
                "b0": jnp.zeros(self.hidden, jnp.float32),
                "c0": dense(keys[1], self.context, self.hidden),
                "w1": dense(keys[2], self.hidden, 2 * latent_dim, 0.1),
                "c1": dense(keys[3], self.context, 2 * latent_dim, 0.1),
                "b1": jnp.concatenate([gates, jnp.zeros(latent_dim, jnp.float32)]),
            }

        return {f"layer_{i}": layer(k) for i, k in enumerate(jax.random.split(key, self.num_layers))}

    def maps(self, params: Params, context: Array, latent_dim: int) -> tuple[AutoregressiveMap, ...]:
        layers = range(self.num_layers)
        return tuple(AutoregressiveMap(params[f"layer_{i}"], context, reverse=i % 2 == 1) for i in layers)


_OPEN = 2.0  # the initial gates; Kingma et al. (2016) advise +1 or +2
