"""One run, from a config to a trained model, its numbers and its pictures; stopped and resumed at any step."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae import data, evaluation
from jaxvae.checkpoints import Checkpoints, Mismatch, Restored, digest
from jaxvae.data import Dataset
from jaxvae.experiment import cluster, console, feed, figures, loop, report, serialization, stopping, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Best, Session, Trainer
from jaxvae.numerics import require
from jaxvae.parallel import OnOneDevice, Placement
from jaxvae.training import Totals, TrainState
from jaxvae.typing import Params


def prepare(
    experiment: Experiment,
    folder: pathlib.Path,
    *,
    data_memory: float | None = None,
    placement: Placement = OnOneDevice(),
) -> Trainer:
    """Reads the data and checks that config, data and folder go together; then makes the folder, with its config.

    Args:
      experiment: the config.
      folder: the run's.
      data_memory: the bytes of the device that training examples may fill: a larger set is streamed, and no number
        changes. None: `feed.default_memory()`.
      placement: the devices to train on.

    Raises:
      ValueError: they do not. Nothing was compiled, and nothing in the folder changed.
    """
    (trainer,) = prepare_all({folder: experiment}, data_memory=data_memory, placement=placement)
    return trainer


def prepare_all(
    experiments: Mapping[pathlib.Path, Experiment],
    *,
    data_memory: float | None = None,
    placement: Placement = OnOneDevice(),
) -> list[Trainer]:
    """`prepare` for several runs on the same data, which is read once.

    Raises:
      ValueError: see `prepare`; nothing in any of the folders changed.
    """
    for folder, experiment in experiments.items():
        workdir.check(folder, None)
        placement.check(batch_size=experiment.batch_size, num_parts=experiment.num_parts)
    absolute = {f: dataclasses.replace(e, data=e.data.absolute()) for f, e in experiments.items()}
    sources = {e.data: data.find(e.data) for e in absolute.values()}
    require(len(sources) == 1, "these runs have different data")
    ((_, source),) = sources.items()
    for folder, experiment in absolute.items():
        workdir.check(folder, experiment.fit_to(source))
    memory = feed.default_memory() if data_memory is None else data_memory
    dataset = source.read(console.say, memory)
    fitted = {folder: experiment.fit_to(dataset) for folder, experiment in absolute.items()}
    if cluster.is_first():
        for folder, experiment in fitted.items():
            workdir.create(folder, experiment)
    cluster.wait("folders")
    return [Trainer.of(e, dataset, data_memory=memory, placement=placement) for e in fitted.values()]


def fit(trainer: Trainer, folder: pathlib.Path, *, pictures: bool = True) -> dict[str, Any]:
    """Trains, or goes on where the folder's run was stopped, and leaves everything in the folder.

    Without `pictures` it leaves no pictures and no report; `scripts/report.py` makes them.

    Returns:
      The summary of the test split (empty if the set has none), with `params_sha256` and the `step` they are of. Of
      several processes, only the first has one; the others get {}.

    Raises:
      Interrupted: SIGINT or SIGTERM came; the run was saved.
      Stopped: one came after the last step, which was saved, and while the model was measured and drawn.
      Diverged: a term became NaN or infinite. In training, the last good checkpoint is the newest; for an example of
        the test split, the trained model is kept.
      OSError: a checkpoint can't be read or saved, or another process is at work in the folder.
    """
    stopping.keep("")
    with contextlib.ExitStack() as stack:
        if cluster.is_first():
            stack.enter_context(workdir.locked(folder))
        return _fit(trainer, folder, pictures=pictures)


def _fit(trainer: Trainer, folder: pathlib.Path, *, pictures: bool) -> dict[str, Any]:
    with (
        stopping.collected() as received,
        contextlib.closing(open_checkpoints(folder, "latest", trainer.experiment)) as latest,
        contextlib.closing(open_checkpoints(folder, "best", trainer.experiment)) as best,
    ):
        session = _restore_or_start(trainer, latest)
        log = workdir.MetricsLog(folder, int(session.state.step), writes=cluster.is_first())
        session = loop.run_to_the_end(trainer, session, latest, best, log, received)
        kept = stopping.kept_at(f"step {int(session.state.step)}")
        stopping.keep(kept)
    with stopping.at_once():
        if received:  # since the loop looked
            raise stopping.Stopped(received[0], kept)
        result = _finish(trainer, session, folder, log, pictures=pictures)
        cluster.wait("the end")
    return result


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
        session = _restore(latest, trainer.session_shapes(), trainer.experiment).tree
        console.say(f"resumed at step {int(session.state.step):,} of {trainer.num_steps:,}")
    size = sum(leaf.size for leaf in jax.tree.leaves(session.state.params))
    console.say(f"{size:,} parameters, {trainer.num_steps:,} steps of {trainer.experiment.batch_size} examples")
    return session


def _finish(
    trainer: Trainer, session: Session, folder: pathlib.Path, log: workdir.MetricsLog, *, pictures: bool
) -> dict[str, Any]:
    """The test numbers and the pictures of a trained model."""
    experiment, dataset = trainer.experiment, trainer.dataset
    params, step = restore_params(experiment, folder)  # by all processes: Orbax wants them together
    result: dict[str, Any] = {}
    if not cluster.is_first():
        return result
    terms = trainer.evaluate(params, trainer.keys.evaluate, figures.shown_split(dataset)[1].x)
    if dataset.test is not None:
        require_finite(experiment, "test", terms)
        result = summarize(experiment, dataset, terms)
        log_test(log, int(session.state.step), step, result)
    if pictures:
        picture(trainer, params, terms, folder, folder / "report.html")
    return result | {"step": int(session.state.step), "params_sha256": digest(session.state.params)}


def log_test(log: workdir.MetricsLog, step: int, model_step: int, result: dict[str, Any]) -> None:
    """The line of a finished run: its test numbers, of the parameters of `model_step`."""
    names = [f"{n}{e}" for n in ("elbo", "distortion", "rate") for e in ("", "_stderr")]
    names += ["kl_per_dimension", "active_units", "num_examples"]
    log.write(step, "test", {"model_step": model_step} | {n: result[n] for n in names})


def picture(
    trainer: Trainer, params: Params, terms: evaluation.PerExample, folder: pathlib.Path, page: pathlib.Path
) -> None:
    """Draws a trained model into the folder of its run, and writes the report; `terms` are of `figures.shown_split`."""
    (folder / "figures").mkdir(exist_ok=True)
    records = workdir.read_metrics(folder)
    drawn = figures.draw(
        trainer.experiment, trainer.dataset, params, terms, trainer.keys.figures, records, folder / "figures"
    )
    report.write([report.read(folder, figures=drawn)], page)


def require_finite(experiment: Experiment, split: str, terms: evaluation.PerExample) -> None:
    """Holds the terms of a split to be numbers.

    Raises:
      Diverged: one of them is NaN or infinite; the message names it and the first example.
    """
    for name in ("distortion", "rate", "log_evidence") if experiment.model.posterior.has_density else ("distortion",):
        finite = np.isfinite(getattr(terms, name))
        if not finite.all():
            raise loop.Diverged(
                f"the {name} of {np.count_nonzero(~finite):,} of {len(finite):,} {split} examples is not finite, first "
                f"of example {finite.argmin()}; look at its values. The trained model is kept"
            )


def summarize(experiment: Experiment, dataset: Dataset, terms: evaluation.PerExample) -> dict[str, Any]:
    """What `evaluation.summarize` makes of an evaluator's terms, for this posterior, likelihood and preprocessing."""
    return evaluation.summarize(
        terms,
        has_density=experiment.model.posterior.has_density,
        log_bins=log_bins(experiment, dataset),
        event_size=int(np.prod(dataset.event_shape)),
    )


def log_bins(experiment: Experiment, dataset: Dataset) -> float | None:
    """What turns the model's log p(x) into one of the discrete data, for each entry; None: nothing does."""
    if dataset.values.missing:  # an example has as many entries as were observed
        return None
    discrete = experiment.model.likelihood.support.integer
    return 0.0 if discrete else experiment.data.preprocess.log_bins(dataset.values)


class Trained(NamedTuple):
    """A finished or unfinished run, opened again."""

    trainer: Trainer
    params: Params
    step: int  # that of the parameters


def reopen(folder: pathlib.Path, *, data_dir: str | None = None, split: str | None = None) -> Trained:
    """A run with its data and its parameters.

    Args:
      folder: the run's.
      data_dir: where the TFDS sets lie, if not where they lay in training.
      split: one that the data must have.

    Raises:
      ValueError: the folder holds no run or no checkpoint, or the data is not there or has no such split.
    """
    experiment = workdir.read_config(folder)
    source = experiment.data
    if data_dir is not None:
        source = dataclasses.replace(source, data_dir=data_dir)
    params, step = restore_params(experiment, folder)
    found = data.find(source)
    require(split is None or split in found.sizes, f"{source.name} has no {split} split, but {', '.join(found.sizes)}")
    experiment.fit_to(found)
    dataset = found.read(console.say, feed.default_memory())
    return Trained(Trainer.of(experiment.fit_to(dataset), dataset), params, step)


def restore_params(experiment: Experiment, folder: pathlib.Path) -> tuple[Params, int]:
    """A run's best parameters, if it validates, else its newest, and their step.

    Raises:
      ValueError: the run has no checkpoint yet.
    """
    _require_checkpoints(folder)
    with contextlib.closing(open_checkpoints(folder, "best", experiment, read_only=True)) as best:
        if best.latest_step is not None:
            restored = _restore(best, _abstract_params(experiment), experiment)
            return restored.tree, restored.step
    return restore_last_params(experiment, folder)


def restore_last_params(experiment: Experiment, folder: pathlib.Path) -> tuple[Params, int]:
    """A run's newest parameters, whether it validates or not, and their step.

    Raises:
      ValueError: the run has no checkpoint yet.
    """
    _require_checkpoints(folder)
    optimizer = experiment.optimizer.build(num_steps=1, steps_per_epoch=1)
    state = jax.eval_shape(
        partial(
            TrainState.create,
            optimizer=optimizer,
            ema=experiment.ema_decay is not None,
            objective=experiment.objective,
        ),
        _abstract_params(experiment),
    )
    with contextlib.closing(open_checkpoints(folder, "latest", experiment, read_only=True)) as latest:
        require(latest.latest_step is not None, f"{folder} has no checkpoint yet; train it first")
        session = _restore(latest, jax.eval_shape(lambda: Session(state, Totals.zero(), Best.none())), experiment).tree
    return session.state.eval_params, int(session.state.step)


def open_checkpoints(
    folder: pathlib.Path, kind: str, experiment: Experiment, *, read_only: bool = False
) -> Checkpoints:
    """Those of a run: `latest`, from which it goes on, or `best`, on its validation split."""
    return Checkpoints(
        folder / "checkpoints" / kind, read_only=read_only, config=workdir.identity(experiment), say=console.say
    )


def _restore(checkpoints: Checkpoints, abstract: Any, experiment: Experiment) -> Restored:
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


def _abstract_params(experiment: Experiment) -> Params:
    return jax.eval_shape(lambda: experiment.model.init(jax.random.key(0)))
