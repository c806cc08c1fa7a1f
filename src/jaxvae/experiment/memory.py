"""The memory that this process may use: whether a run fits into it, and how much of it examples may take."""

import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from jaxvae.checks import require
from jaxvae.data import Dataset
from jaxvae.experiment.config import Experiment

_MEMBERSHIP, _GROUPS = pathlib.Path("/proc/self/cgroup"), pathlib.Path("/sys/fs/cgroup")


def check(experiment: Experiment, dataset: Dataset, *, copies: int = 1) -> None:
    """Refuses a run on a CPU that does not fit into the host's memory; the system would kill it without a message.

    Raises:
      ValueError: `copies` of the parameters, their gradients and the optimizer's state do not fit.
    """
    params = experiment.model.param_shapes()
    kept = jax.eval_shape(experiment.build_optimizer(dataset).init, params)
    needed, there = copies * (2 * _num_bytes(params) + _num_bytes(kept)), available()
    require(
        jax.default_backend() != "cpu" or needed <= there,
        f"{copies * sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters, their gradients and the "
        f"optimizer's state take {needed / 2**30:,.1f} GiB, but this process may use {there / 2**30:,.1f}; "
        "write a smaller model.encoder and model.decoder",
    )


def available() -> float:
    """The available bytes: the machine's memory, or the lower limit of a container or job; infinite if unknown."""
    return min([math.inf, *_of_the_machine(), *_of_the_groups(_MEMBERSHIP, _GROUPS)])


def for_examples() -> float:
    """The bytes that examples may fill: half of the device's memory or of the host's, whichever is less.

    On a CPU it is a quarter of the host's, which then holds the training examples twice: as read, and on the device.
    """
    device = jax.local_devices()[0]
    of_device = (device.memory_stats() or {}).get("bytes_limit", math.inf)
    return 0.5 * min(of_device, available() * (0.5 if device.platform == "cpu" else 1.0))


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _of_the_machine() -> Iterator[float]:
    try:
        yield float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return


def _of_the_groups(membership: pathlib.Path, groups: pathlib.Path) -> Iterator[float]:
    """The limits of Linux's control groups, of both versions: the process's own group and all its parents."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = root / group.lstrip("/")  # in a container it may not exist, and the root has the limit
        for folder in (own, *own.parents):
            try:
                yield float((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):  # no limit: no file, or "max"
                continue
