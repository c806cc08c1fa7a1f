"""Checkpoints: Orbax's, saved at once and in order, with a line where one can't be saved or read."""

import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.quiet import quiet_absl
from jaxvae.typing import Params


class Checkpoints:
    """The newest `keep` checkpoints of one folder, each a pytree of arrays saved at a step."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2, read_only: bool = False) -> None:
        """Opens the folder; `read_only` neither makes it nor touches what another process is saving in it."""
        import orbax.checkpoint as ocp

        self._ocp = ocp
        with quiet_absl():
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, tree: Any) -> None:
        """Saves a pytree at a step; the same step again is kept as it is, being the same tree.

        Raises:
          OSError: Orbax did not save it.
        """
        if self.latest_step == step:
            return
        # As NumPy's arrays: what is saved says nothing of the devices that it was on.
        arrays = jax.tree.map(np.asarray, tree)
        saved = self._manager.save(step, args=self._ocp.args.StandardSave(arrays), force=True)
        self._manager.wait_until_finished()
        if not saved:
            raise OSError(f"no checkpoint was saved at step {step} in {self._manager.directory}")

    def restore(self, abstract: Any) -> Any:
        """The newest tree, in the structure, shapes and types of `abstract` (made by `jax.eval_shape`).

        On the default device and not bound to it, as if it had just been computed: what is compiled for one serves the
        other.

        Raises:
          OSError: it can't be read, or is not of that structure.
        """
        step = self.latest_step
        try:
            arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
            tree = self._manager.restore(step, args=self._ocp.args.StandardRestore(arrays))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise OSError(
                f"the checkpoint of step {step} in {self._manager.directory} can't be read "
                f"({type(error).__name__}: {reason[:200]}); remove its folder to go on from the one before it, or "
                "start a new --workdir if another version of the library wrote it"
            ) from error
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)

    def close(self) -> None:
        self._manager.close()


def digest(params: Params) -> str:
    """The SHA-256 of a pytree of arrays: names, shapes, types and bits."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
