"""Reopening a run: its checkpoints, its parameters and its data."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import data
from jaxvae.checkpoints import Checkpoints, Mismatch, Restored
from jaxvae.checks import require
from jaxvae.experiment import console, memory, serialization, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Session, Trainer
from jaxvae.training import Totals
from jaxvae.typing import Params


class Trained(NamedTuple):
    """A reopened run, finished or not."""

    trainer: Trainer
    params: Params
    step: int  # of the parameters


def reopen(folder: str | os.PathLike[str], *, data_dir: str | None = None, split: str | None = None) -> Trained:
    """Reopens a run with its data and its parameters.

    Args:
      folder: the run's folder.
      data_dir: the folder of the TFDS sets or of the run's file, if it differs from the one in training.
      split: a split that the data must have.

    Raises:
      ValueError: the folder holds no run or no checkpoint, or the data is missing, is not the data with which the run
        began, or has no such split.
      OSError: no checkpoint can be read, or it is not of this run's config.
    """
    folder = pathlib.Path(folder)
    experiment = workdir.read_config(folder)
    where = experiment.data if data_dir is None else experiment.data.moved_to(data_dir)
    params, step = restore_params(experiment, folder)
    source = data.find(where)
    require(
        split is None or split in source.sizes, f"{where.name} has no {split} split, only {', '.join(source.sizes)}"
    )
    experiment.fit_to(source)
    dataset = source.read(console.say, memory.for_examples())
    workdir.check_data(folder, dataset.known_by())
    return Trained(Trainer.of(experiment.fit_to(dataset), dataset), params, step)


def restore_params(experiment: Experiment, folder: pathlib.Path, *, read_only: bool = True) -> tuple[Params, int]:
    """A run's best parameters on the validation split, or its newest if it does not validate, and their step.

    Unless `read_only`, which only the run's own processes may leave out, damaged ones of the best are moved aside.

    Raises:
      ValueError: the run has no checkpoint yet.
    """
    _require_checkpoints(folder)
    with contextlib.closing(open_checkpoints(folder, "best", experiment, read_only=read_only)) as best:
        if best.latest_step is not None:
            restored = restore(best, experiment.model.param_shapes(), experiment)
            return restored.tree, restored.step
    return restore_last_params(experiment, folder)


def restore_last_params(experiment: Experiment, folder: pathlib.Path) -> tuple[Params, int]:
    """A run's newest parameters and their step, whether or not it validates.

    Raises:
      ValueError: the run has no checkpoint yet.
    """
    _require_checkpoints(folder)
    optimizer = experiment.optimizer.build(num_steps=1, steps_per_epoch=1)
    abstract = jax.eval_shape(partial(Session.start, experiment, optimizer), experiment.model.param_shapes())
    with contextlib.closing(open_checkpoints(folder, "latest", experiment, read_only=True)) as latest:
        require(latest.latest_step is not None, f"{folder} has no checkpoint yet; train it first")
        session = restore(latest, abstract, experiment).tree
    return session.state.eval_params, int(session.state.step)


def open_checkpoints(
    folder: pathlib.Path, kind: str, experiment: Experiment, *, read_only: bool = False
) -> Checkpoints:
    """The checkpoints of a run: `latest`, from which it resumes, or `best`, on its validation split."""
    return Checkpoints(
        folder / "checkpoints" / kind, read_only=read_only, config=workdir.identity(experiment), say=console.say
    )


def restore(checkpoints: Checkpoints, abstract: Any, experiment: Experiment) -> Restored:
    """The newest sound checkpoint.

    Raises:
      OSError: there is no such checkpoint, or it is not of this experiment.
    """
    restored = restore_any(checkpoints, abstract)
    was = serialization.from_data(restored.config)  # newer fields have their defaults
    changed = workdir.obstacles(was, experiment)
    if changed:
        (path, before, now), *_ = changed
        raise Mismatch(f"the checkpoint of step {restored.step} is of another config: {path} was {before} and is {now}")
    return restored


def restore_any(checkpoints: Checkpoints, abstract: Any) -> Restored:
    """The newest sound checkpoint of any version of the library: the earlier ones did not compensate their totals.

    Raises:
      OSError: there is no such checkpoint.
    """

    def with_totals(change: Callable[[Any], Any], tree: Any) -> Any:
        def changed(part: Any) -> Any:
            return part._replace(sums=change(part.sums)) if isinstance(part, Totals) else part

        return jax.tree.map(changed, tree, is_leaf=lambda part: isinstance(part, Totals))

    try:
        return checkpoints.restore(abstract)
    except Mismatch as mismatch:
        before = with_totals(
            lambda sums: jax.ShapeDtypeStruct((*sums.shape[:-2], sums.shape[-1]), sums.dtype), abstract
        )
        try:
            restored = checkpoints.restore(before)
        except Mismatch:
            raise mismatch from None
    tree = with_totals(lambda sums: jnp.stack([sums, jnp.zeros_like(sums)], axis=-2), restored.tree)
    return restored._replace(tree=tree)


def _require_checkpoints(folder: pathlib.Path) -> None:
    if not (folder / "checkpoints" / "latest").is_dir():
        how = "train it first"
        if workdir.unfinished_sweeps(folder.parent):
            how = f"it is part of the sweep in {folder.parent}; let scripts/sweep.py end it"
        elif (folder.parent / "sweep.json").exists():
            how = f"if it was part of a sweep, see {folder.parent / 'sweep.json'}"
        raise ValueError(f"{folder} has no checkpoint yet; {how}")
