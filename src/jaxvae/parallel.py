"""Many devices: the placement of a state and its batches, and so of a step's computation.

The step itself is the same function everywhere. On a mesh, XLA splits it along the batch and sums the gradients. The
draws are those of one device, so the number of devices changes a result only by rounding.
"""

import abc
import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvae.checks import require
from jaxvae.training import Advance, TrainState, TrainStep, make_advance
from jaxvae.typing import Array

AXIS = "batch"  # the axis of a mesh or a pmap
_SMALL = 1000  # entries: sharding a smaller array costs more than it saves


class Placement(abc.ABC):
    """Where training runs."""

    @property
    @abc.abstractmethod
    def num_devices(self) -> int: ...

    def check(self, *, batch_size: int, num_parts: int) -> None:
        """Refuses a batch that can't be split evenly.

        Raises:
          ValueError: the batch can't be split evenly; the message says what to write.
        """
        require(
            batch_size % (self.num_devices * num_parts) == 0,
            f"batch_size is {batch_size}, and {num_parts} part(s) of it are to be split among {self.num_devices} "
            f"devices; write a multiple of {self.num_devices * num_parts}",
        )

    @property
    def axis_name(self) -> str | None:
        """The `axis_name` to give to `make_train_step`."""
        return None

    @abc.abstractmethod
    def put_state(self, tree: Any) -> Any:
        """Places a pytree of arrays, such as a `TrainState`, for the step."""

    @abc.abstractmethod
    def get(self, tree: Any) -> Any:
        """Inverts `put_state`: gives arrays that this process holds in full."""

    @abc.abstractmethod
    def put_data(self, x: np.ndarray) -> Array:
        """Places the rows [N, D] of `Examples`, for `Resident`."""

    @abc.abstractmethod
    def put_order(self, order: Array) -> Array:
        """Places the rows [S, B] of each step, for `Resident`."""

    @abc.abstractmethod
    def put_block(self, x: np.ndarray) -> Array:
        """Places batches [S, B, *event], for `Block`; each of P processes gives its own rows, [S, B / P, *event]."""

    @abc.abstractmethod
    def make_advance(self, step: TrainStep, *, fused: bool) -> Advance:
        """`training.make_advance` for arrays that this object has placed."""


@dataclasses.dataclass(frozen=True)
class OnOneDevice(Placement):
    """The default device of this process."""

    @property
    def num_devices(self) -> int:
        return 1

    def put_state(self, tree: Any) -> Any:
        return jax.tree.map(jax.numpy.asarray, tree)

    def get(self, tree: Any) -> Any:
        return tree

    def put_data(self, x: np.ndarray) -> Array:
        return jax.device_put(x)

    put_block = put_data

    def put_order(self, order: Array) -> Array:
        return order

    def make_advance(self, step: TrainStep, *, fused: bool) -> Advance:
        return make_advance(step, fused=fused)


@dataclasses.dataclass(frozen=True)
class OnMesh(Placement):
    """One step under `jax.jit` over a device mesh with the axis "batch", which may span several processes."""

    mesh: Mesh
    shard_params: bool = False
    """Whether the parameters and the optimizer's state are sharded too: each array of 1,000 entries or more along its
    longest axis that the number of devices divides. Otherwise each device holds all of them."""

    @classmethod
    def of(cls, devices: Sequence[jax.Device], *, shard_params: bool = False) -> "OnMesh":
        """A mesh of these devices, ordered by process, so that each process's rows of a batch are contiguous.

        Raises:
          ValueError: the processes have different numbers of devices.
        """
        in_order = sorted(devices, key=lambda device: (device.process_index, device.id))
        counts = set(collections.Counter(device.process_index for device in devices).values())
        require(len(counts) == 1, f"the processes have {sorted(counts)} devices each; give each the same number")
        mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=in_order)
        return cls(mesh, shard_params)

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    def check(self, *, batch_size: int, num_parts: int) -> None:
        # With several parts, each device would compute all of each part.
        require(
            num_parts == 1,
            f"num_parts is {num_parts}, but a mesh splits the batch itself; write num_parts=1, or use pmap",
        )
        super().check(batch_size=batch_size, num_parts=num_parts)

    def put_state(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: _put(leaf, self._state_sharding(leaf)), tree)

    def get(self, tree: Any) -> Any:
        return fetch(tree)

    def put_data(self, x: np.ndarray) -> Array:
        return _put(x, self._sharding())

    def put_order(self, order: Array) -> Array:
        return _put(order, self._sharding(None, AXIS))

    def put_block(self, x: np.ndarray) -> Array:
        return jax.make_array_from_process_local_data(self._sharding(None, AXIS), x)

    def make_advance(self, step: TrainStep, *, fused: bool) -> Advance:
        return make_advance(step, fused=fused, constrain=self._constrain)

    def _constrain(self, state: TrainState) -> TrainState:
        shardings = jax.tree.map(self._state_sharding, state)
        return jax.lax.with_sharding_constraint(state, shardings)

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _state_sharding(self, leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        lengths = [n if n % self.mesh.size == 0 else 0 for n in shape]
        if not self.shard_params or np.size(leaf) < _SMALL or max(lengths, default=0) == 0:
            return self._sharding()
        longest = int(np.argmax(lengths))
        return self._sharding(*(AXIS if axis == longest else None for axis in range(len(shape))))


@dataclasses.dataclass(frozen=True)
class ByPmap(Placement):
    """One step under `jax.pmap` over devices of this process, each of which takes its own parts of the batch.

    Each part has its own draws, on one device as on many. The number of parts must be a multiple of the devices.
    """

    devices: tuple[jax.Device, ...]

    @property
    def num_devices(self) -> int:
        return len(self.devices)

    def check(self, *, batch_size: int, num_parts: int) -> None:
        require(
            num_parts % self.num_devices == 0,
            f"pmap gives whole parts of a batch to {self.num_devices} devices, but num_parts is {num_parts}; write "
            f"--config.num_parts={self.num_devices}, or a multiple",
        )
        require(batch_size % num_parts == 0, f"batch_size is {batch_size}; write a multiple of num_parts, {num_parts}")

    @property
    def axis_name(self) -> str | None:
        return AXIS

    def put_state(self, tree: Any) -> Any:
        return jax.tree.map(jax.numpy.asarray, tree)

    def get(self, tree: Any) -> Any:
        return fetch(tree)

    def put_data(self, x: np.ndarray | Array) -> Array:
        # Replicated: from one device, pmap would copy it to the others in each dispatch.
        return jax.device_put(x, NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec()))

    put_block = put_data

    def put_order(self, order: Array) -> Array:
        return self.put_data(order)

    def make_advance(self, step: TrainStep, *, fused: bool) -> Advance:
        def transform(function: Callable[..., Any]) -> Callable[..., Any]:
            # All arguments are replicated, and pmap needs one that is mapped.
            mapped = jax.pmap(
                lambda _, args: function(*args), AXIS, in_axes=(0, None), out_axes=None, devices=self.devices
            )
            return lambda *args: mapped(np.arange(self.num_devices), args)

        return make_advance(step, fused=fused, axis_name=AXIS, transform=transform)


def fetch(tree: Any) -> Any:
    """A pytree of arrays on any devices, as NumPy arrays of this process."""

    def of(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(of, tree)


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    """Places an array that every process holds in full on the mesh."""
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
