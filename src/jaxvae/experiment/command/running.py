"""Running a command: it is prepared, and then does its work; expected failures become a line and an exit code."""

import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from jaxvae.experiment import cluster, console, stopping
from jaxvae.experiment.stopping import Diverged, Interrupted
from jaxvae.experiment.workdir import InUse

Prepare = Callable[[Sequence[str]], Callable[[], None]]


def run_command(prepare: Prepare, argv: Sequence[str] | None) -> int:
    """Prepares a command and then does its work; an expected failure becomes a line and an exit code.

    A `ValueError` during preparation is the user's mistake. A later one is a bug of ours, and its traceback is shown.
    """
    if argv is None:
        _keep_what_is_compiled()
    stopping.keep("")
    try:
        with stopping.at_once():
            code = _run(prepare, argv)
    except stopping.Stopped as stopped:
        console.tell(str(stopped))
        code = 128 + stopped.signum
        cluster.leave(code)
    except Exception:
        if cluster.is_shared():  # `leave` ends the process
            console.tell(traceback.format_exc())
        cluster.leave(1)
        raise
    if code in (1, 2):
        cluster.leave(code)
    return code


def _run(prepare: Prepare, argv: Sequence[str] | None) -> int:
    try:
        try:
            work = prepare(sys.argv[1:] if argv is None else argv)
        except (ValueError, OSError) as error:
            console.tell(f"error: {' '.join(str(error).split())}")
            return 2 if isinstance(error, ValueError | InUse) else 1
        work()
    except (Diverged, OSError) as error:
        console.tell(f"error: {error}")
        return 2 if isinstance(error, InUse) else 1  # InUse: the later of two commands that began at once
    except MemoryError as error:
        console.tell(f"error: there is not enough memory: {error}")
        return 1
    except JaxRuntimeError as error:
        first = str(error).splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in first and "Out of memory" not in first:
            raise
        console.tell(f"error: the device is out of memory; ask for less at once ({first.rstrip('.')})")
        return 1
    except Interrupted as error:
        console.tell(str(error))
        return 128 + error.signum
    return 0


def _keep_what_is_compiled() -> None:
    """Caches XLA's programs in the user's cache folder, so that the same command starts faster the next time.

    `JAX_COMPILATION_CACHE_DIR` names another folder; `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
    """
    import platformdirs

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        folder = pathlib.Path(platformdirs.user_cache_dir("jaxvae")) / "xla"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            return
        if os.access(folder, os.W_OK):
            config.update("jax_compilation_cache_dir", str(folder))
