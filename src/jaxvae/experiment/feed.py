"""Where the training step finds its examples: on the device if they fit there, else in blocks from the host."""

import functools
import math
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np

from jaxvae.typing import Array, Key

# Of a block that is sent to the device: long to compute on beside the call, small beside any accelerator's memory.
_BLOCK_BYTES = 2**26


class Feed(Protocol):
    """For some steps of an epoch, arrays `x` and `order` such that each step finds its rows at `x[order[...]]`."""

    @property
    def max_steps(self) -> int: ...

    def __call__(self, epoch: int, first: int, num_steps: int) -> tuple[Array, Array]: ...


def make_feed(x: np.ndarray, key: Key, *, batch_size: int) -> Feed:
    """The examples x [N, *event] in an order for each epoch, drawn from `key`: the same from either place."""
    budget = memory_for_data()
    return _Resident(x, key) if x.nbytes <= budget else _Streamed(x, key, batch_size, budget)


def memory_for_data() -> float:
    """The bytes of the device that the examples may fill: half of it. On a CPU the examples lie there already."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return 0.5 * stats.get("bytes_limit", float("inf"))


class _Resident:
    def __init__(self, x: np.ndarray, key: Key) -> None:
        self.max_steps = 2**30
        self._x, self._draw = jax.device_put(x), _order_of(key, len(x))

    def __call__(self, epoch: int, first: int, num_steps: int) -> tuple[Array, Array]:
        return self._x, self._draw(epoch)


class _Streamed:
    """The rows of the coming steps as one block, and an order that points into it."""

    def __init__(self, x: np.ndarray, key: Key, batch_size: int, budget: float) -> None:
        self._x, self._batch_size = x, batch_size
        self.max_steps = max(1, int(min(budget / 4, _BLOCK_BYTES) // x[:batch_size].nbytes))
        self._draw = functools.lru_cache(maxsize=1)(lambda epoch: np.asarray(_order_of(key, len(x))(epoch)))

    def __call__(self, epoch: int, first: int, num_steps: int) -> tuple[Array, Array]:
        start, num = first * self._batch_size, num_steps * self._batch_size
        order = self._draw(epoch).copy()
        rows = order[start : start + num]
        # A power of two of steps, so that few sizes are compiled for.
        size = min(self.max_steps, 2 ** math.ceil(math.log2(num_steps))) * self._batch_size
        block = np.zeros((size, *self._x.shape[1:]), self._x.dtype)
        block[:num] = self._x[rows]
        order[start : start + num] = np.arange(num)
        return jax.device_put(block), jax.device_put(order)


def _order_of(key: Key, num: int) -> Callable[[int], Array]:
    draw = jax.jit(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), num))
    return functools.lru_cache(maxsize=1)(draw)
