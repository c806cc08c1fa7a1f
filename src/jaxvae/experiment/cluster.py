"""Several processes: how they find each other and agree on values. With one process, nothing here does anything."""

import contextlib
import os
import re
import signal
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvae.checks import require

# How long a process may be silent before the others end with an error.
HEARTBEAT_SECONDS = 30
# How long the main thread may take to end after a signal when there is nothing to save. In XLA's compiler, or while it
# waits for another process, it would learn of the signal only afterwards.
GRACE_SECONDS = 1.0


def initialize(coordinator: str, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Makes this process one of several; call it before anything is computed.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" on a cluster that JAX knows (Slurm, Cloud TPU, ...).
      num_processes: the number of processes; detected with "auto".
      process_id: the number of this one, from 0; detected with "auto".

    Raises:
      ValueError: the three arguments do not go together.
      OSError: the others did not connect within five minutes.
    """
    auto = coordinator == "auto"
    port = re.fullmatch(r".+:(\d+)", coordinator)
    require(
        auto or (port is not None and 1 <= int(port[1]) <= 65535),
        f"--coordinator={coordinator} is not an address; write HOST:PORT, the same for all processes, or auto",
    )
    require(
        (num_processes is None) == (process_id is None) and (auto or num_processes is not None),
        "--coordinator=HOST:PORT needs both --num-processes=N and --process-id=0, 1, ...",
    )
    if num_processes is not None and process_id is not None:
        require(
            0 <= process_id < num_processes,
            f"--process-id is {process_id}, but --num-processes is {num_processes}; write a number from 0 to "
            f"{num_processes - 1}",
        )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            None if auto else coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        require(
            "coordinator_address" not in str(error),
            "--coordinator=auto: JAX finds no cluster here; write --coordinator=HOST:PORT --num-processes=N "
            "--process-id=I",
        )
        raise OSError(f"--coordinator={coordinator}: {str(error).splitlines()[0]}") from error
    signal.signal(signal.SIGTERM, handler)  # JAX replaced it with its own


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def least(number: int) -> int:
    """The least of the processes' numbers."""
    return number if jax.process_count() == 1 else int(_all(number).min())


def greatest(number: int) -> int:
    """The greatest of the processes' numbers."""
    return number if jax.process_count() == 1 else int(_all(number).max())


def of_first(tree: Any) -> Any:
    """Gives the first process's numbers to all processes, so that all decide alike."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def wait(what: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def is_shared() -> bool:
    """Whether this process is one of several."""
    return bool(jax.distributed.is_initialized() and jax.process_count() > 1)


def leave(code: int) -> None:
    """Ends this process, which failed, at once if it is one of several; JAX would first wait for the others.

    The others notice, and end with an error. If a signal stopped this one, they have likely received it too.
    """
    if is_shared():
        if code > 128 and is_first():
            time.sleep(2 * GRACE_SECONDS)  # the end of its service would end the others before they can report why
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # of a stream that is None, broken or closed
                stream.flush()
        os._exit(code)


def _all(number: int) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(np.int32(number)))
