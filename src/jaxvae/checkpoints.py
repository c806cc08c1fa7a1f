"""Checkpoints: Orbax's, saved at once and in order, and each believed only as far as its manifest bears it out."""

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

from jaxvae.checks import reason
from jaxvae.fingerprints import SUMS, describe, differences, seal, unlike_sums, write_sums
from jaxvae.quiet import quiet_absl, quiet_writers

_FULL = os.strerror(errno.ENOSPC)
FORMAT = 1  # of what is saved; a checkpoint of a later one is refused by name


class Mismatch(OSError):
    """A sound checkpoint, but of something else."""


class Restored(NamedTuple):
    """A checkpoint that was read, and found to be what was saved."""

    tree: Any
    step: int
    config: Any  # as it was given to the `Checkpoints` that saved it


class _Damaged(Exception):
    pass


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps of which there is something in a folder of `Checkpoints`, the newest first; nothing is opened."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


class Checkpoints:
    """The newest `keep` checkpoints of one folder, each a pytree of arrays saved at a step.

    Beside the arrays each has a manifest: the SHA-256, shape and type of every one of them, the config and the
    versions. It is a part of the same Orbax checkpoint, and so there if and only if the arrays are. A file SHA256SUMS
    of all its files, for `sha256sum -c` too, also finds damage that has not reached an array yet.
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
          folder: where the checkpoints lie, or will.
          keep: how many of the newest are kept.
          read_only: neither makes the folder nor touches what another process is saving in it.
          config: what the manifests are to hold, of JSON's types.
          say: is given a line about each damaged checkpoint.
        """
        import orbax.checkpoint as ocp

        self._ocp, self._folder, self._read_only = ocp, pathlib.Path(folder).absolute(), read_only
        self._config, self._say = config, say
        self._sound: int | None = None  # the step that was last saved or read here
        with quiet_absl(errors=True):  # of damaged ones, which `restore` names
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            )
            # An array a file: with Orbax's other format memory is lost for each array that is written (in TensorStore's
            # `to_json`), and a run may save many thousand times.
            handlers = {
                "default": ocp.StandardCheckpointHandler(use_ocdbt=False),
                "manifest": ocp.JsonCheckpointHandler(),
            }
            self._manager = ocp.CheckpointManager(
                self._folder, options=options, item_names=tuple(handlers), item_handlers=handlers
            )

    @property
    def steps(self) -> list[int]:
        """The steps of which there is something, the newest first; Orbax leaves out some of the damaged ones."""
        return steps_in(self._folder)

    @property
    def latest_step(self) -> int | None:
        return next(iter(self.steps), None)

    def save(self, step: int, tree: Any) -> None:
        """Saves a pytree at a step; what was saved or read here at this step already is kept as it is.

        Raises:
          OSError: it could not be saved. The older checkpoints are as they were.
        """
        if step == self._sound:
            return
        # As NumPy's arrays: what is saved says nothing of the devices that it was on.
        arrays, args = jax.tree.map(np.asarray, tree), self._ocp.args
        items = args.Composite(
            default=args.StandardSave(arrays), manifest=args.JsonSave(_manifest(step, arrays, self._config))
        )
        try:
            if step in self.steps:  # of an earlier process, and not known to be sound
                self._manager.delete(step)
            with quiet_writers():
                saved = self._manager.save(step, args=items, force=True)
                self._manager.wait_until_finished()
            if saved and jax.process_index() == 0:
                write_sums(self._folder / str(step))
        except Exception as error:
            why = _FULL if _FULL in str(error) else reason(error)  # TensorStore says it late in a long line
            raise OSError(f"no checkpoint could be saved at step {step} in {self._folder} ({why})") from error
        if not saved:
            raise OSError(f"no checkpoint was saved at step {step} in {self._folder}")
        self._sound = step

    def restore(self, abstract: Any) -> Restored:
        """The newest sound tree, in the structure, shapes and types of `abstract` (made by `jax.eval_shape`).

        A damaged checkpoint is named in a line, and the one before it is taken. Unless `read_only`, it is moved to the
        folder `damaged` beside this one. The arrays are on the default device and not bound to it, as if they had just
        been computed: what is compiled for one serves the other.

        Raises:
          Mismatch: the newest sound one has another structure, other shapes or types, or a later format.
          OSError: there is none, or all of them are damaged.
        """
        damaged: list[int] = []
        steps = self.steps
        for step in steps:
            try:
                with quiet_absl(errors=True):
                    restored = self._read(step, abstract)
            except _Damaged as error:
                if self._read_only and self.latest_step != steps[0]:  # its run went on, and may have deleted this one
                    return self.restore(abstract)
                damaged.append(step)
                self._say(f"warning: the checkpoint of step {step} in {self._folder} is damaged: {error}")
                continue
            if damaged:
                self._say(f"warning: going on from the checkpoint of step {step}")
                self._move_aside(damaged)
            self._sound = step
            return restored
        if damaged:
            raise OSError(
                f"all checkpoints in {self._folder} are damaged (steps {', '.join(map(str, damaged))}), or of a "
                "version of the library that wrote no manifests; put a copy of one there, or start a new --workdir"
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
                f"the checkpoint of step {step} in {self._folder} has the format {manifest['format']}, and this "
                f"version of the library reads up to {FORMAT}; install jaxvae {manifest['versions']['jaxvae']} or later"
            )
        wanted, saved = describe(abstract), manifest["leaves"]
        different = differences(saved, wanted)
        if different:
            raise Mismatch(
                f"the checkpoint of step {step} in {self._folder} is of something else: {'; '.join(different[:3])}"
            )
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
        """Out of the way of the steps that will be saved again; nothing that the user had is deleted."""
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
        """Deletes what was saved after a step."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        self._manager.close()


def _check_sums(folder: pathlib.Path) -> None:
    """Without the file, as when the process was killed before it was written, the manifest alone must do."""
    if not (folder / SUMS).exists():
        return
    try:
        wrong = unlike_sums(folder)
    except (OSError, ValueError) as error:
        raise _Damaged(f"its files can't be read ({reason(error)})") from error
    if wrong:
        raise _Damaged(f"{wrong[0]} is not what was saved")


def versions() -> dict[str, str]:
    """Of this package, and of those that decide what its numbers and its files are."""
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
