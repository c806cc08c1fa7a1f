"""The source of the training step's examples: the device if they fit there, else blocks that are read ahead.

The batch of a step depends on the step alone, so a run resumes anywhere without saving the state of its feed.
"""

import collections
import functools
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.parallel import OnOneDevice, Placement
from jaxvae.training import Batches, Block, Examples, Resident
from jaxvae.typing import Array, Key, Rows

# The size of a block: long to compute on compared with a dispatch's overhead, and quick to read.
_BLOCK_BYTES = 2**23
# Blocks that are read concurrently: one suffices for files cached in memory, but disks are faster with many requests.
_READ_AHEAD = 8


class Feed(Protocol):
    """The batches of training, from any step on."""

    def __call__(self, step: int) -> tuple[Batches, int]:
        """Batches that begin at a training step, and the number of steps that they hold from there, at least one.

        All these steps are in one epoch.

        Raises:
          OSError: the examples can no longer be read.
        """
        ...


def make_feed(
    x: Rows,
    key: Key,
    *,
    batch_size: int,
    memory: float,
    placement: Placement = OnOneDevice(),
) -> Feed:
    """Makes the feed of x, in an order drawn from `key` for each epoch; it is the same for resident and streamed x.

    Args:
      x: [N, *event], as stored.
      key: the key of the orders.
      batch_size: B, the examples in a step.
      memory: the bytes that examples may take on the device. If x takes more, it is streamed in blocks. The blocks
        being read, those in transit and the one in use together take no more than that; if that holds less than two
        steps, there is only one block of one step at a time.
      placement: where they are placed. Each of P processes reads only its own B / P rows of each batch, in order.
    """
    rows_of_epoch = jax.jit(functools.partial(epoch_order, key, num=len(x), batch_size=batch_size))
    count, index = jax.process_count(), jax.process_index()
    mine = slice(index * batch_size // count, (index + 1) * batch_size // count)

    def order(epoch: int) -> Array:
        return rows_of_epoch(epoch)[:, mine]

    steps = len(x) // batch_size
    if Examples.num_bytes(x.shape, x.dtype) <= memory and count == 1:
        return _Resident(Examples.of(x[:], placement.put_data), lambda epoch: placement.put_order(order(epoch)), steps)
    plan = _Plan.of(x.nbytes // len(x) * (batch_size // count), min(memory, x.nbytes))
    return _Streamed(_Reader(x, order, steps, plan.block_steps), plan, placement.put_block)


class _Plan(NamedTuple):
    """The number and the size of the blocks in flight."""

    block_steps: int
    on_device: int  # the block in use, and one in transit if there is room for it
    ahead: int  # blocks being read, or read and waiting

    @classmethod
    def of(cls, step_bytes: int, memory: float) -> "_Plan":
        """Fills the memory, first with more blocks, then with larger ones."""
        blocks = max(1, min(2 + _READ_AHEAD, int(memory // step_bytes)))
        on_device = min(2, blocks)
        block_bytes = min(memory / blocks, _BLOCK_BYTES)
        return cls(max(1, int(block_bytes // step_bytes)), on_device, blocks - on_device)


class _Resident:
    def __init__(self, x: Examples, order: Callable[[int], Array], steps: int) -> None:
        self._x, self._steps = x, steps
        self._order = functools.lru_cache(maxsize=1)(order)

    def __call__(self, step: int) -> tuple[Resident, int]:
        epoch, done = divmod(step, self._steps)
        return Resident(self._x, self._order(epoch)), self._steps - done


class _Streamed:
    """Blocks of a fixed number of steps, one after the other; a block may span epochs."""

    def __init__(self, reader: "_Reader", plan: _Plan, put: Callable[[np.ndarray], Array]) -> None:
        self._reader, self._plan, self._put = reader, plan, put
        self._number = 0  # of the first of the blocks
        self._blocks: collections.deque[Block] = collections.deque()
        self._coming: Iterator[np.ndarray] = iter(())

    def __call__(self, step: int) -> tuple[Block, int]:
        size, epoch_steps = self._plan.block_steps, self._reader.epoch_steps
        number, done = divmod(step, size)
        if not self._blocks or number not in (self._number, self._number + 1):
            self._blocks.clear()
            self._number, self._coming = number, self._read_ahead(number)
        elif number > self._number:
            self._blocks.popleft()
            self._number = number
        while len(self._blocks) < self._plan.on_device:
            first = (self._number + len(self._blocks)) * size
            self._blocks.append(Block(self._put(next(self._coming)), jnp.int32(first)))
        return self._blocks[0], min(size - done, epoch_steps - step % epoch_steps)

    def _read_ahead(self, number: int) -> Iterator[np.ndarray]:
        import grain

        blocks = grain.MapDataset.range(number, 2**31 // self._plan.block_steps).map(self._reader)
        ahead = self._plan.ahead
        return iter(blocks.to_iter_dataset(grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)))


class _Reader:
    """Reads blocks, from any thread."""

    def __init__(self, x: Rows, order: Callable[[int], Array], epoch_steps: int, block_steps: int) -> None:
        self.epoch_steps = epoch_steps
        self._x, self._block_steps, self._lock = x, block_steps, threading.Lock()
        # Two epochs, since a block may span two.
        self._order = functools.lru_cache(maxsize=2)(lambda epoch: np.asarray(order(epoch)))

    def __call__(self, number: int) -> np.ndarray:
        """Block `number`, [S, B, *event]."""
        first = number * self._block_steps
        stop = first + self._block_steps
        rows = []
        for epoch in range(first // self.epoch_steps, -(-stop // self.epoch_steps)):
            start = epoch * self.epoch_steps
            with self._lock:  # so that threads that need the same order draw it once
                order = self._order(epoch)
            rows.append(order[max(0, first - start) : stop - start])
        return self._x[np.concatenate(rows)]


def epoch_order(key: Key, epoch: int | Array, *, num: int, batch_size: int) -> Array:
    """The rows of each step of an epoch, [S, B]."""
    steps = num // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num)
    return order[: steps * batch_size].reshape(steps, batch_size)
