"""Orbax checkpoints, saved synchronously and in order; each is verified against its manifest before it is used."""

import errno
import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxvae.checks import reason, require
from jaxvae.fingerprints import SUMS, describe, differences, seal, unlike_sums, write_sums
from jaxvae.quiet import quiet_absl, quiet_writers

_FULL = os.strerror(errno.ENOSPC)
FORMAT = 1  # of the checkpoints; one of a later format is refused, and the message names it


class Mismatch(OSError):
    """The checkpoint is sound, but of something else."""


class Restored(NamedTuple):
    """A checkpoint that was read and verified."""

    tree: Any
    step: int
    config: Any  # as it was given to the `Checkpoints` that saved it


class _Damaged(Exception):
    pass


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in a folder, sound or not, the newest first; none is opened."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


class Checkpoints:
    """The newest `keep` checkpoints of one folder, each a pytree of arrays saved at a step.

    Beside its arrays, each checkpoint has a manifest: the SHA-256, shape and type of every array, the config and the
    versions. The manifest is part of the same Orbax checkpoint, so it exists if and only if the arrays do. A file
    SHA256SUMS of all the checkpoint's files, which `sha256sum -c` reads too, also detects damage that does not change
    an array.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 2,
        read_only: bool = False,
        config: Any = None,
        say: Callable[[str], None] = _to_stderr,
    ) -> None:
        """Opens the folder.

        Args:
          folder: the folder of the checkpoints.
          keep: how many of the newest are kept.
          read_only: whether to neither make the folder nor touch what another process is saving in it.
          config: recorded in the manifests; of JSON's types.
          say: called with a line about each damaged checkpoint.
        """
        import orbax.checkpoint as ocp

        self._ocp, self._folder, self._read_only = ocp, pathlib.Path(folder).absolute(), read_only
        self._config, self._say = config, say
        self._sound: int | None = None  # the step that was last saved or read here
        with quiet_absl(errors=True):  # about damaged checkpoints, which `restore` names
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            )
            # One file for each array: Orbax's other format leaks memory for each array that is written (in
            # TensorStore's `to_json`), and a run may save many thousand times.
            handlers = {
                "default": ocp.StandardCheckpointHandler(use_ocdbt=False),
                "manifest": ocp.JsonCheckpointHandler(),
            }
            self._manager = ocp.CheckpointManager(
                self._folder, options=options, item_names=tuple(handlers), item_handlers=handlers
            )

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, the newest first, with the damaged ones that Orbax leaves out."""
        return steps_in(self._folder)

    @property
    def latest_step(self) -> int | None:
        return next(iter(self.steps), None)

    def save(self, step: int, tree: Any) -> None:
        """Saves a pytree at a step; does nothing if this object saved or restored that step last.

        Raises:
          ValueError: they were opened with `read_only`.
          OSError: it could not be saved. The older checkpoints are unchanged.
        """
        require(not self._read_only, f"{self._folder} was opened with read_only=True; open it without, to save in it")
        if step == self._sound:
            return
        # NumPy arrays, so that the checkpoint does not record the devices.
        arrays, args = jax.tree.map(np.asarray, tree), self._ocp.args
        items = args.Composite(
            default=args.StandardSave(arrays), manifest=args.JsonSave(_manifest(step, arrays, self._config))
        )
        try:
            if _as_the_first_says(step in self.steps):  # by an earlier process, and perhaps damaged
                self._manager.delete(step)
            with quiet_writers():
                saved = self._manager.save(step, args=items, force=True)
                self._manager.wait_until_finished()
            if saved and jax.process_index() == 0:
                write_sums(self._folder / str(step))
        except Exception as error:
            why = _FULL if _FULL in str(error) else reason(error)  # TensorStore says it at the end of a long line
            raise OSError(f"no checkpoint could be saved at step {step} in {self._folder} ({why})") from error
        if not saved:
            raise OSError(f"no checkpoint was saved at step {step} in {self._folder}")
        self._sound = step

    def restore(self, abstract: Any) -> Restored:
        """The newest sound tree, in the structure, shapes and types of `abstract` (made by `jax.eval_shape`).

        A warning names each damaged checkpoint, and the one before it is tried. Unless `read_only`, the damaged one is
        moved to the folder `damaged` beside this one. The arrays are on the default device but not committed to it, as
        if they had just been computed, so a function compiled for computed arrays is not compiled again.

        Raises:
          Mismatch: the newest sound checkpoint has another structure, other shapes or types, or a later format.
          OSError: there is no checkpoint, or all of them are damaged.
        """
        damaged: list[int] = []
        steps = self.steps
        for step in steps:
            try:
                with quiet_absl(errors=True):
                    restored = self._read(step, abstract)
            except _Damaged as error:
                if self._read_only and self.latest_step != steps[0]:  # its run continued, and may have deleted this one
                    return self.restore(abstract)
                damaged.append(step)
                self._say(f"warning: the checkpoint of step {step} in {self._folder} is damaged: {error}")
                continue
            if damaged:
                self._say(f"warning: the checkpoint of step {step} is used instead")
                self._move_aside(damaged)
            self._sound = step
            return restored
        if damaged:
            raise OSError(
                f"all checkpoints in {self._folder} are damaged (steps {', '.join(map(str, damaged))}), or from a "
                "version of the library that wrote no manifests; restore one from a copy, or start a new --workdir"
            )
        raise OSError(f"there is no checkpoint in {self._folder}")

    def _read(self, step: int, abstract: Any) -> Restored:
        args = self._ocp.args
        _check_sums(self._folder / str(step))
        try:
            manifest = self._manager.restore(step, args=args.Composite(manifest=args.JsonRestore()))["manifest"]
            sealed = manifest.pop("sha256") == seal(manifest)
        except Exception as error:
            raise _Damaged(f"its manifest can't be read ({reason(error)})") from error
        if not sealed or manifest["step"] != step:
            raise _Damaged("its manifest is not what was saved")
        if manifest["format"] > FORMAT:
            raise Mismatch(
                f"the checkpoint of step {step} in {self._folder} has the format {manifest['format']}, but this "
                f"version of the library reads up to {FORMAT}; install jaxvae {manifest['versions']['jaxvae']} or later"
            )
        wanted, saved = describe(abstract), manifest["leaves"]
        different = differences(saved, wanted)
        if different:
            words = "; ".join(different[:3])
            if "float64" in words:
                words += "; set JAX_ENABLE_X64 as when it was saved"
            raise Mismatch(f"the checkpoint of step {step} in {self._folder} does not fit this run: {words}")
        try:
            like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
            tree = self._manager.restore(step, args=args.Composite(default=args.StandardRestore(like)))["default"]
            found = describe(jax.tree.map(np.asarray, tree))
        except Exception as error:
            raise _Damaged(f"its arrays can't be read ({reason(error)})") from error
        wrong = [name for name in saved if found.get(name) != saved[name]]
        if wrong:
            raise _Damaged(f"{wrong[0]}{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''} is not what was saved")
        return Restored(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree), step, manifest["config"])

    def _move_aside(self, damaged: list[int]) -> None:
        """Moves damaged checkpoints aside, since their steps will be saved again; nothing of the user's is deleted."""
        if self._read_only:
            return
        several = jax.process_count() > 1
        if several:
            multihost_utils.sync_global_devices("damaged checkpoints were read")
        if jax.process_index() == 0:
            aside = self._folder.parent / "damaged"
            aside.mkdir(exist_ok=True)
            for step in damaged:
                name, taken = f"{self._folder.name}-{step}", {path.name for path in aside.iterdir()}
                free = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
                (self._folder / str(step)).rename(aside / free)
                self._say(f"warning: the damaged checkpoint of step {step} is now {aside / free}")
        if several:
            multihost_utils.sync_global_devices("damaged checkpoints were moved")
        self._manager.reload()

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints after a step."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)
        if self._sound is not None and self._sound > step:
            self._sound = None

    def close(self) -> None:
        self._manager.close()


def _as_the_first_says(answer: bool) -> bool:
    """The first process's answer, in all: Orbax deletes in all or none, and others may see that it is gone already."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.int32(answer)))


def _check_sums(folder: pathlib.Path) -> None:
    """Checks the files against SHA256SUMS. If a killed process did not write it, only the manifest is checked."""
    if not (folder / SUMS).exists():
        return
    try:
        wrong = unlike_sums(folder)
    except (OSError, ValueError) as error:
        raise _Damaged(f"its files can't be read ({reason(error)})") from error
    if wrong:
        raise _Damaged(f"{wrong[0]} is not what was saved")


def versions() -> dict[str, str]:
    """The versions of this package and of those that its numbers and files depend on."""
    names = ("jaxvae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    return {name: importlib.metadata.version(name) for name in names}


def _manifest(step: int, arrays: Any, config: Any) -> dict[str, Any]:
    manifest = {
        "format": FORMAT,
        "step": step,
        "versions": versions(),
        "config": config,
        "leaves": describe(arrays),
    }
    return manifest | {"sha256": seal(manifest)}
