"""The memory that this process may have: whether what is to be trained fits into it, and what examples may take."""

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
    """Whether a run on a CPU fits into the host's memory: if not, the system would kill it without a word.

    Raises:
      ValueError: its parameters, their gradients and what the optimizer keeps do not, or not so many `copies` of them.
    """
    params = experiment.model.param_shapes()
    kept = jax.eval_shape(experiment.build_optimizer(dataset).init, params)
    needed, there = copies * (2 * _num_bytes(params) + _num_bytes(kept)), available()
    require(
        jax.default_backend() != "cpu" or needed <= there,
        f"{copies * sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters, their gradients and what the "
        f"optimizer keeps take {needed / 2**30:,.1f} GiB, and this process may have {there / 2**30:,.1f}; "
        "write a smaller model.encoder and model.decoder",
    )


def available() -> float:
    """In bytes: the machine's, or less in a container or a job that may have less; infinite where nothing says."""
    return min([math.inf, *_of_the_machine(), *_of_the_groups(_MEMBERSHIP, _GROUPS)])


def for_examples() -> float:
    """The bytes of the device that examples may fill: half of it. On a CPU, of what this process may have."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return 0.5 * stats.get("bytes_limit", available())


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _of_the_machine() -> Iterator[float]:
    try:
        yield float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return


def _of_the_groups(membership: pathlib.Path, groups: pathlib.Path) -> Iterator[float]:
    """The limits of Linux's control groups, of both versions: that of the process and of all that it lies in."""
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
        own = root / group.lstrip("/")  # in a container there may be no such folder, and its limit be the root's
        for folder in (own, *own.parents):
            try:
                yield float((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):  # there is none, or it is "max"
                continue
