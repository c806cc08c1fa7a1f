"""A run opened again: its checkpoints, its parameters, and the data it is of."""

import contextlib
import os
import pathlib
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxvae import data
from jaxvae.checkpoints import Checkpoints, Mismatch, Restored
from jaxvae.checks import require
from jaxvae.experiment import console, memory, serialization, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Session, Trainer
from jaxvae.typing import Params


class Trained(NamedTuple):
    """A finished or unfinished run, opened again."""

    trainer: Trainer
    params: Params
    step: int  # that of the parameters


def reopen(folder: str | os.PathLike[str], *, data_dir: str | None = None, split: str | None = None) -> Trained:
    """A run with its data and its parameters.

    Args:
      folder: the run's.
      data_dir: the folder of the TFDS sets, or of the run's file, if it is another than in training.
      split: one that the data must have.

    Raises:
      ValueError: the folder holds no run or no checkpoint, or the data is not there, is not what the run was
        begun with, or has no such split.
    """
    folder = pathlib.Path(folder)
    experiment = workdir.read_config(folder)
    where = experiment.data if data_dir is None else experiment.data.moved_to(data_dir)
    params, step = restore_params(experiment, folder)
    source = data.find(where)
    require(split is None or split in source.sizes, f"{where.name} has no {split} split, but {', '.join(source.sizes)}")
    experiment.fit_to(source)
    dataset = source.read(console.say, memory.for_examples())
    workdir.check_data(folder, dataset.known_by())
    return Trained(Trainer.of(experiment.fit_to(dataset), dataset), params, step)


def restore_params(experiment: Experiment, folder: pathlib.Path) -> tuple[Params, int]:
    """A run's best parameters, if it validates, else its newest, and their step.

    Raises:
      ValueError: the run has no checkpoint yet.
    """
    _require_checkpoints(folder)
    with contextlib.closing(open_checkpoints(folder, "best", experiment, read_only=True)) as best:
        if best.latest_step is not None:
            restored = restore(best, experiment.model.param_shapes(), experiment)
            return restored.tree, restored.step
    return restore_last_params(experiment, folder)


def restore_last_params(experiment: Experiment, folder: pathlib.Path) -> tuple[Params, int]:
    """A run's newest parameters, whether it validates or not, and their step.

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
    """Those of a run: `latest`, from which it goes on, or `best`, on its validation split."""
    return Checkpoints(
        folder / "checkpoints" / kind, read_only=read_only, config=workdir.identity(experiment), say=console.say
    )


def restore(checkpoints: Checkpoints, abstract: Any, experiment: Experiment) -> Restored:
    """The newest sound checkpoint.

    Raises:
      OSError: there is none, or it is not of this experiment.
    """
    restored = checkpoints.restore(abstract)
    was = workdir.identity(serialization.from_data(restored.config))  # with the defaults of fields that it did not have
    changed = serialization.differences(was, workdir.identity(experiment))
    if changed:
        (path, before, now), *_ = changed
        raise Mismatch(f"the checkpoint of step {restored.step} is of another config: {path} was {before} and is {now}")
    return restored


def _require_checkpoints(folder: pathlib.Path) -> None:
    require((folder / "checkpoints" / "latest").is_dir(), f"{folder} has no checkpoint yet; train it first")
