"""The runs of a sweep, and the check that they can be trained together."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import data
from jaxvae.checks import require
from jaxvae.experiment import console, memory, remarks, starting, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Keys, Trainer
from jaxvae.fingerprints import seal
from jaxvae.objectives import ELBO


class Sweep(NamedTuple):
    """The runs of a sweep, by the names of their folders; they share data, optimizer and evaluator."""

    trainers: dict[str, Trainer]
    betas: tuple[float, ...] | None  # one for each run, if β differs; None: the seeds differ

    @property
    def first(self) -> Trainer:
        return next(iter(self.trainers.values()))

    @property
    def keys(self) -> Keys:
        """The keys of all replicas, with a leading axis [R]."""
        return jax.tree.map(lambda *keys: jnp.stack(keys), *(t.keys for t in self.trainers.values()))

    def unfinished(self, folder: pathlib.Path) -> pathlib.Path:
        """The folder of this sweep's checkpoints until it is finished; another sweep in `folder` has another one."""
        runs = {name: workdir.identity(trainer.experiment) for name, trainer in self.trainers.items()}
        return workdir.sweep_folder(folder, seal(runs)[:12])


def over_seeds(config: Experiment, num: int) -> dict[str, Experiment]:
    """The config with `num` seeds, from its own upwards, by the names of their folders."""
    seeds = range(config.seed, config.seed + num)
    return {f"seed-{seed}": dataclasses.replace(config, seed=seed) for seed in seeds}


def over_betas(config: Experiment, betas: Sequence[float]) -> dict[str, Experiment]:
    """The config with each of several weights of the KL, sorted, by the names of their folders.

    Raises:
      ValueError: the objective is not an ELBO, or a weight is not finite, negative or, in 32 bits, given twice.
    """
    objective = config.objective
    require(
        isinstance(objective, ELBO),
        f"--betas are weights in an ELBO, but the objective is {type(objective).__name__}; write objective=ELBO() "
        "or --num-seeds=N",
    )
    assert isinstance(objective, ELBO)
    experiments = {
        f"beta-{beta:.15g}": dataclasses.replace(config, objective=dataclasses.replace(objective, beta=beta))
        for beta in sorted(betas)
    }
    given = f"--betas={','.join(map(str, betas))}"
    largest = float(np.finfo(np.float32).max)
    require(max(betas) <= largest, f"{given} has a value above float32's largest, {largest:.2g}; write a smaller one")
    different = len({float(np.float32(beta)) for beta in betas})  # as training uses them
    require(different == len(betas) == len(experiments), f"{given} has a value twice; write each once")
    return experiments


def prepare(experiments: Mapping[str, Experiment], folder: pathlib.Path) -> Sweep:
    """Reads the data, checks that everything goes together, and makes the sweep's folder with one for each run in it.

    Args:
      experiments: by the names of their folders; they differ only in their seed or their β.
      folder: the sweep's folder.

    Raises:
      ValueError: a run can't be part of a sweep, or does not fit its data or its folder. Nothing in them changed,
        unless another process began in one of them at the same time.
    """
    one = next(iter(experiments.values()))
    _check(one)
    workdir.check_writable(folder)
    require(not (folder / "config.json").exists(), f"--workdir={folder} holds a run; choose another folder")
    one = one.absolute()
    source = data.find(one.data)
    one.fit_to(source)
    room = memory.for_examples()
    dataset = source.read(console.say, room)
    require(
        dataset.train.x.nbytes <= room,
        f"the training examples take {dataset.train.x.nbytes:,} bytes, but a sweep keeps them on the device, which has "
        f"{room:,.0f} for them; train single runs, with scripts/train.py",
    )
    fitted = one.fit_to(dataset)
    own = {
        name: dataclasses.replace(fitted, seed=experiment.seed, objective=experiment.objective)
        for name, experiment in experiments.items()
    }
    trainer = Trainer.of(fitted, dataset)
    trainers = {n: dataclasses.replace(trainer, experiment=e, keys=Keys.of(e)) for n, e in own.items()}
    betas = tuple(e.objective.beta for e in own.values() if isinstance(e.objective, ELBO))
    sweep = Sweep(trainers, betas if len(set(betas)) > 1 else None)
    memory.check(fitted, dataset, copies=len(own))
    if (remark := remarks.remark(fitted, dataset)) is not None:
        console.say(f"note: {remark}")
    unfinished = sweep.unfinished(folder)
    going_on = unfinished.is_dir()
    for other in workdir.unfinished_sweeps(folder):
        require(other == unfinished, f"{other} belongs to another sweep; resume that, or choose another --workdir")
    summary = folder / "sweep.json"
    require(
        going_on or not summary.exists(),
        f"--workdir={folder} holds a finished sweep, whose results are in sweep.json; choose another folder",
    )
    known_by = dataset.known_by() | starting.known_by(fitted, unfinished)
    for name, experiment in own.items():
        workdir.check(folder / name)
        workdir.check_config(folder / name, experiment)
        workdir.check_data(folder / name, known_by)
        checkpoints = folder / name / "checkpoints"
        require(
            going_on or not checkpoints.exists(),
            f"{folder / name} holds a run that is not of an unfinished sweep; choose another --workdir",
        )
    for name, experiment in own.items():
        workdir.create(folder / name, experiment, known_by)
    return sweep


def _check(config: Experiment) -> None:
    """Refuses a config that a sweep does not support."""
    require(
        config.patience is None,
        f"patience is {config.patience}, but the replicas of a sweep stop together; write patience=None",
    )
    posterior = config.model.posterior
    require(
        posterior.has_density,
        f"the posterior {type(posterior).__name__} has no density, and so no rate; write "
        "model.posterior=DiagonalGaussian()",
    )


def replica(tree: Any, i: int) -> Any:
    """The part of replica i in a tree with a leading axis [R]."""
    return jax.tree.map(lambda leaf: leaf[i], tree)
