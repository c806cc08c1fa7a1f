"""One run, from a config to a trained model, its numbers and its pictures; stopped and resumed at any step."""

import contextlib
import dataclasses
import pathlib
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxvae import data, evaluation
from jaxvae.checkpoints import Checkpoints, digest
from jaxvae.data import Dataset
from jaxvae.experiment import console, figures, loop, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Best, Session, Trainer
from jaxvae.numerics import require
from jaxvae.training import Totals, TrainState
from jaxvae.typing import Params


def prepare(experiment: Experiment, folder: pathlib.Path) -> Trainer:
    """Reads the data and checks that config, data and folder go together; then makes the folder, with its config.

    Raises:
      ValueError: they do not. Nothing was compiled, and nothing in the folder changed.
    """
    workdir.check(folder, None)
    experiment = dataclasses.replace(experiment, data=experiment.data.absolute())
    source = data.find(experiment.data)
    workdir.check(folder, experiment.fit_to(source))
    dataset = source.read(console.say)
    experiment = experiment.fit_to(dataset)
    workdir.create(folder, experiment)
    return Trainer.of(experiment, dataset)


def fit(trainer: Trainer, folder: pathlib.Path) -> dict[str, Any]:
    """Trains, or goes on where the folder's run was stopped, and leaves everything in the folder.

    Returns:
      The summary of the test split (empty if the set has none), with `params_sha256` and the `step` they are of.

    Raises:
      Interrupted: SIGINT or SIGTERM came; the run was saved.
      Diverged: a term became NaN or infinite; the last good checkpoint is the newest.
    """
    with (
        loop.signals() as received,
        contextlib.closing(Checkpoints(folder / "checkpoints" / "latest")) as latest,
        contextlib.closing(Checkpoints(folder / "checkpoints" / "best", keep=1)) as best,
    ):
        session = _restore_or_start(trainer, latest)
        log = workdir.MetricsLog(folder, int(session.state.step))
        session = loop.run_to_the_end(trainer, session, latest, best, log, received)
    return _finish(trainer, session, folder, log)


def train(experiment: Experiment, folder: pathlib.Path) -> dict[str, Any]:
    """`prepare` and `fit`: one run from a config, as `scripts/train.py` does it."""
    return fit(prepare(experiment, folder), folder)


def _restore_or_start(trainer: Trainer, latest: Checkpoints) -> Session:
    shape = "×".join(map(str, trainer.dataset.event_shape))
    counts = ", ".join(f"{n:,} {name}" for name, n in trainer.dataset.sizes.items())
    console.say(f"{trainer.experiment.data.name}: {counts} examples of {shape}, values in {trainer.dataset.values}")
    if latest.latest_step is None:
        session = trainer.new_session()
    else:
        session = latest.restore(jax.eval_shape(trainer.new_session))
        console.say(f"resumed at step {int(session.state.step):,} of {trainer.num_steps:,}")
    size = sum(leaf.size for leaf in jax.tree.leaves(session.state.params))
    console.say(f"{size:,} parameters, {trainer.num_steps:,} steps of {trainer.experiment.batch_size} examples")
    return session


def _finish(trainer: Trainer, session: Session, folder: pathlib.Path, log: workdir.MetricsLog) -> dict[str, Any]:
    """The test numbers and the pictures of a trained model."""
    experiment, dataset = trainer.experiment, trainer.dataset
    params, step = restore_params(experiment, folder)
    result: dict[str, Any] = {}
    terms = trainer.evaluate(params, trainer.keys.evaluate, figures.shown_split(dataset).x)
    if dataset.test is not None:
        result = summarize(experiment, dataset, terms)
        names = ("elbo", "elbo_stderr", "distortion", "rate", "active_units")
        log.write(int(session.state.step), "test", {"model_step": step} | {n: result[n] for n in names})
    figures.draw(
        experiment, dataset, params, terms.posterior_mean, trainer.keys.figures, log.records, folder / "figures"
    )
    return result | {"step": int(session.state.step), "params_sha256": digest(session.state.params)}


def summarize(experiment: Experiment, dataset: Dataset, terms: evaluation.PerExample) -> dict[str, Any]:
    """What `evaluation.summarize` makes of an evaluator's terms, for this posterior, likelihood and preprocessing."""
    discrete = experiment.model.likelihood.support.integer
    return evaluation.summarize(
        terms,
        has_density=experiment.model.posterior.has_density,
        log_bins=0.0 if discrete else experiment.data.preprocess.log_bins(dataset.values),
        event_size=int(np.prod(dataset.event_shape)),
    )


def restore_params(experiment: Experiment, folder: pathlib.Path) -> tuple[Params, int]:
    """A run's best parameters, if it validates, else its newest, and their step.

    Raises:
      ValueError: the run has no checkpoint yet.
    """
    abstract = jax.eval_shape(lambda: experiment.model.init(jax.random.key(0)))
    checkpoints = folder / "checkpoints"
    require((checkpoints / "latest").is_dir(), f"{folder} has no checkpoint yet; train it first")
    with contextlib.closing(Checkpoints(checkpoints / "best", read_only=True)) as best:
        if best.latest_step is not None:
            return best.restore(abstract), best.latest_step
    optimizer = experiment.optimizer.build(num_steps=1, steps_per_epoch=1)
    state = jax.eval_shape(
        partial(TrainState.create, optimizer=optimizer, ema=experiment.ema_decay is not None), abstract
    )
    with contextlib.closing(Checkpoints(checkpoints / "latest", read_only=True)) as latest:
        require(latest.latest_step is not None, f"{folder} has no checkpoint yet; train it first")
        session = latest.restore(jax.eval_shape(lambda: Session(state, Totals.zero(), Best.none())))
    return session.state.eval_params, int(session.state.step)
