"""One run, from a config to a trained model, its numbers and its figures; it can be stopped and resumed at any step."""

import contextlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxvae import data
from jaxvae.checkpoints import Checkpoints
from jaxvae.checks import require
from jaxvae.experiment import (
    cluster,
    console,
    loop,
    memory,
    outcome,
    remarks,
    restoring,
    starting,
    stopping,
    workdir,
)
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Session, Trainer
from jaxvae.fingerprints import digest
from jaxvae.parallel import OnOneDevice, Placement


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
      folder: the run's folder.
      data_memory: the bytes of the device that training examples may fill. A larger set is streamed, which changes no
        number. None: `memory.for_examples()`.
      placement: the devices to train on.

    Raises:
      ValueError: they do not go together. Nothing was compiled, and nothing in the folder changed, unless another
        process began in it at the same time.
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
      ValueError: see `prepare`.
    """
    for folder, experiment in experiments.items():
        workdir.check(folder)
        workdir.check_apart(folder)
        placement.check(batch_size=experiment.batch_size, num_parts=experiment.num_parts)
    absolute = {folder: experiment.absolute() for folder, experiment in experiments.items()}
    sources = {each: data.find(each) for each in {e.data for e in absolute.values()}}
    require(len(sources) == 1, "these runs have different data")
    ((_, source),) = sources.items()
    starts = {}
    for folder, experiment in absolute.items():
        found = experiment.fit_to(source)
        workdir.check_config(folder, found)
        starts[folder] = starting.known_by(found, folder / "checkpoints" / "latest")
    room = memory.for_examples() if data_memory is None else data_memory
    dataset = source.read(console.say, room)
    fitted = {folder: experiment.fit_to(dataset) for folder, experiment in absolute.items()}
    of_data = dataset.known_by()
    known_by = {folder: of_data | start for folder, start in starts.items()}
    for folder, experiment in fitted.items():
        workdir.check_data(folder, known_by[folder])
        memory.check(experiment, dataset)
    for remark in dict.fromkeys(filter(None, (remarks.remark(e, dataset) for e in fitted.values()))):
        console.say(f"note: {remark}")
    if cluster.is_first():
        for folder, experiment in fitted.items():
            workdir.create(folder, experiment, known_by[folder])
    cluster.wait("folders")
    return [Trainer.of(e, dataset, data_memory=room, placement=placement) for e in fitted.values()]


def fit(trainer: Trainer, folder: pathlib.Path, *, pictures: bool = True) -> dict[str, Any]:
    """Trains a run or resumes a stopped one, and writes all its results into the folder.

    Without `pictures` it writes no figures and no report; `scripts/report.py` makes them.

    Returns:
      The summary of the test split (empty if the set has none), the `model_step` of the model that was measured, and
      `params_sha256` and the `step` of the newest parameters. Of several processes, only the first returns it; the
      others return {}.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGHUP came; the run was saved.
      Stopped: a signal came after the last step, which was saved, while the model was measured and drawn.
      Diverged: a term became NaN or infinite. In training, the last good checkpoint is the newest; for an example of
        the test split, the trained model is kept.
      OSError: a checkpoint can't be read or saved, or another process is at work in the folder.
    """
    stopping.keep("")
    with contextlib.ExitStack() as stack:
        if cluster.is_first():
            stack.enter_context(workdir.locked(folder))
            workdir.require_config(folder, trainer.experiment)
        return _fit(trainer, folder, pictures=pictures)


def _fit(trainer: Trainer, folder: pathlib.Path, *, pictures: bool) -> dict[str, Any]:
    with (
        stopping.collected() as received,
        contextlib.closing(restoring.open_checkpoints(folder, "latest", trainer.experiment)) as latest,
        contextlib.closing(restoring.open_checkpoints(folder, "best", trainer.experiment)) as best,
    ):
        session = _restore_or_start(trainer, latest, folder)
        log = workdir.MetricsLog(folder, int(session.state.step), writes=cluster.is_first())
        session = loop.run_to_the_end(trainer, session, latest, best, log, received)
        kept = stopping.kept_at(f"step {int(session.state.step)}")
        stopping.keep(kept)
    with stopping.at_once():
        if received:  # since the loop last checked
            raise stopping.Stopped(received[0], kept)
        result = _finish(trainer, session, folder, log, pictures=pictures)
        cluster.wait("the end")
    return result


def train(
    experiment: Experiment,
    folder: str | os.PathLike[str],
    *,
    data_memory: float | None = None,
    placement: Placement = OnOneDevice(),
    pictures: bool = True,
) -> dict[str, Any]:
    """`prepare` and `fit`: trains one run from a config, or resumes it, as `scripts/train.py` does."""
    path = pathlib.Path(folder)
    return fit(prepare(experiment, path, data_memory=data_memory, placement=placement), path, pictures=pictures)


def _restore_or_start(trainer: Trainer, latest: Checkpoints, folder: pathlib.Path) -> Session:
    shape = "×".join(map(str, trainer.dataset.event_shape))
    counts = ", ".join(f"{n:,} {name}" for name, n in trainer.dataset.sizes.items())
    console.say(f"{trainer.experiment.data.name}: {counts} examples of {shape}, values in {trainer.dataset.values}")
    if latest.latest_step is None:
        if before := workdir.read_metrics(folder):
            console.say(f"metrics.jsonl goes to step {before[-1]['step']:,}, but there is no checkpoint: starting anew")
        session = trainer.new_session()
        if trainer.experiment.start_from is not None:
            console.say(f"starting from the parameters of {trainer.experiment.start_from}")
    else:
        session = restoring.restore(latest, trainer.session_shapes(), trainer.experiment).tree
        console.say(f"resumed at step {int(session.state.step):,} of {trainer.num_steps:,}")
    size = sum(leaf.size for leaf in jax.tree.leaves(session.state.params))
    console.say(f"{size:,} parameters, {trainer.num_steps:,} steps of {trainer.experiment.batch_size} examples")
    return session


def _finish(
    trainer: Trainer, session: Session, folder: pathlib.Path, log: workdir.MetricsLog, *, pictures: bool
) -> dict[str, Any]:
    """Measures a trained model on the test split and draws its figures."""
    experiment, dataset = trainer.experiment, trainer.dataset
    params, step = restoring.restore_params(experiment, folder, read_only=False)  # in all processes: Orbax requires it
    result: dict[str, Any] = {}
    if not cluster.is_first():
        return result
    terms = trainer.evaluate(params, trainer.keys.evaluate, dataset.held_out[1].x)
    if dataset.test is not None:
        outcome.require_finite(experiment, "test", terms)
        result = outcome.summarize(trainer, terms) | {"num_importance_samples": 1}
        outcome.log_test(log, int(session.state.step), step, result)
    if pictures:
        outcome.picture(trainer, params, terms, folder, folder / "report.html")
    after = {"step": int(session.state.step), "params_sha256": digest(session.state.params)}
    return result | after | {"model_step": step}
