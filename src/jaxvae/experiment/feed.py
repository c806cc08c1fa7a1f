"""Where the training step finds its examples: on the device if they fit there, else in blocks from the host."""

import functools
import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.training import Batches, Block, Resident
from jaxvae.typing import Array, Key

# Of a block that is sent to the device: long to compute on beside the call, small beside any accelerator's memory.
_BLOCK_BYTES = 2**26


class Feed(Protocol):
    """The batches of some steps of an epoch, `first` being counted from its start."""

    @property
    def max_steps(self) -> int: ...

    def __call__(self, epoch: int, first: int, num_steps: int) -> Batches: ...


def make_feed(x: np.ndarray, key: Key, *, batch_size: int) -> Feed:
    """The examples x [N, *event] in an order for each epoch, drawn from `key`: the same from either place."""
    budget = memory_for_data()
    return _Resident(x, key, batch_size) if x.nbytes <= budget else _Streamed(x, key, batch_size, budget)


def memory_for_data() -> float:
    """The bytes of the device that the examples may fill: half of it. On a CPU the examples lie there already."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return 0.5 * stats.get("bytes_limit", float("inf"))


class _Resident:
    def __init__(self, x: np.ndarray, key: Key, batch_size: int) -> None:
        self.max_steps = 2**30
        self._x, self._draw = jax.device_put(x), _order_of(key, len(x), batch_size)

    def __call__(self, epoch: int, first: int, num_steps: int) -> Resident:
        return Resident(self._x, self._draw(epoch))


class _Streamed:
    """The rows of the coming steps as one block."""

    def __init__(self, x: np.ndarray, key: Key, batch_size: int, budget: float) -> None:
        self._x = x
        self.max_steps = max(1, int(min(budget / 4, _BLOCK_BYTES) // x[:batch_size].nbytes))
        draw = _order_of(key, len(x), batch_size)
        self._draw = functools.lru_cache(maxsize=1)(lambda epoch: np.asarray(draw(epoch)))

    def __call__(self, epoch: int, first: int, num_steps: int) -> Block:
        order = self._draw(epoch)
        rows = order[first : first + num_steps]
        # A power of two of steps, so that few sizes are compiled for.
        size = min(self.max_steps, 2 ** math.ceil(math.log2(num_steps)))
        block = np.zeros((size, rows.shape[1], *self._x.shape[1:]), self._x.dtype)
        block[:num_steps] = self._x[rows]
        return Block(jax.device_put(block), jnp.int32(epoch * len(order) + first))


def _order_of(key: Key, num: int, batch_size: int) -> Callable[[int], Array]:
    """`epoch_order` of an epoch, compiled; that of the last one asked for is kept."""

    @jax.jit
    def draw(epoch: int) -> Array:
        return epoch_order(key, epoch, num=num, batch_size=batch_size)

    return functools.lru_cache(maxsize=1)(draw)


def epoch_order(key: Key, epoch: int | Array, *, num: int, batch_size: int) -> Array:
    """The rows of each step of an epoch, [S, B]."""
    steps = num // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num)
    return order[: steps * batch_size].reshape(steps, batch_size)
