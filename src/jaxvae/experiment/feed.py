"""Where the training step finds its examples: on the device if they fit there, else in blocks from the host."""

from typing import Protocol

import jax
import numpy as np

from jaxvae.typing import Array, Key


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


class _Orders:
    """The order of the current epoch."""

    def __init__(self, key: Key, num: int) -> None:
        self._draw = jax.jit(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), num))
        self._epoch, self._order = -1, jax.device_put(np.arange(0))

    def __call__(self, epoch: int) -> Array:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch)
        return self._order


class _Resident:
    def __init__(self, x: np.ndarray, key: Key) -> None:
        self.max_steps = 2**30
        self._x, self._orders = jax.device_put(x), _Orders(key, len(x))

    def __call__(self, epoch: int, first: int, num_steps: int) -> tuple[Array, Array]:
        return self._x, self._orders(epoch)


class _Streamed:
    """The rows of the coming steps as one block, and an order that points into it."""

    def __init__(self, x: np.ndarray, key: Key, batch_size: int, budget: float) -> None:
        batch = x[:batch_size].nbytes
        self.max_steps = max(1, int(budget // (4 * batch)))
        self._x, self._batch_size, self._orders = x, batch_size, _Orders(key, len(x))

    def __call__(self, epoch: int, first: int, num_steps: int) -> tuple[Array, Array]:
        start, num = first * self._batch_size, num_steps * self._batch_size
        order = np.array(self._orders(epoch))
        block = np.zeros(
            (self.max_steps * self._batch_size, *self._x.shape[1:]), self._x.dtype
        )  # of one size: compiled once
        block[:num] = self._x[order[start : start + num]]
        order[start : start + num] = np.arange(num)
        return jax.device_put(block), jax.device_put(order)
