"""A sweep from its first step to the folders of its runs."""

import contextlib
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxvae.checkpoints import Checkpoints
from jaxvae.evaluation import PerExample
from jaxvae.experiment import console, outcome, restoring, stopping, workdir
from jaxvae.experiment.session import Best, Session
from jaxvae.experiment.sweep.replicas import Sweep, replica
from jaxvae.experiment.sweep.training import Ended, train
from jaxvae.training import Totals


class Finished(NamedTuple):
    """The results of a sweep."""

    sweep: Sweep
    results: dict[str, dict[str, Any]]  # from `outcome.summarize`, by the name of the run; without those that diverged
    diverged: dict[str, str]  # the runs that diverged, with the step and the term
    train_seconds: float | None  # None: training was resumed


def finish(sweep: Sweep, folder: pathlib.Path) -> Finished:
    """Trains a sweep or resumes a stopped one, measures it, and writes each run into its folder.

    Its checkpoints are kept until `clear`, so that the same command can resume it until then.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGHUP came; the sweep was saved.
      OSError: a checkpoint can't be read or saved, or another process is at work in the folder.
    """
    partial = sweep.unfinished(folder)
    with workdir.locked(folder), stopping.collected() as received:
        if (folder / "sweep.json").exists() and not partial.is_dir():
            raise workdir.InUse(f"the sweep in --workdir={folder} is finished already")
        with contextlib.closing(Checkpoints(partial, say=console.say)) as latest:
            trained = train(sweep, folder, latest, received)
        terms = measure(sweep, trained, received)
        stopping.keep(stopping.kept_at(f"step {sweep.first.num_steps}"))
    results = {
        name: outcome.summarize(trainer, terms[name]) for name, trainer in sweep.trainers.items() if name in terms
    }
    leave(sweep, trained, results, folder)
    return Finished(sweep, results, trained.diverged, trained.seconds)


def clear(sweep: Sweep, folder: pathlib.Path) -> None:
    """Removes a finished sweep's checkpoints; they are renamed first, since half removed they would look damaged."""
    partial = sweep.unfinished(folder)
    done = partial.with_suffix(".done")
    with stopping.collected():
        shutil.rmtree(done, ignore_errors=True)
        partial.rename(done)
        shutil.rmtree(done)


def measure(sweep: Sweep, trained: Ended, received: list[int]) -> dict[str, PerExample]:
    """The terms of each replica for the examples of `Dataset.held_out`; a replica with non-finite terms has diverged.

    Raises:
      Interrupted: `received` has a signal; the trained replicas are saved.
    """
    name_of_split, split = sweep.first.dataset.held_out
    terms: dict[str, PerExample] = {}
    with console.Count(len(sweep.trainers), title="evaluate", unit="run") as bar:
        for i, (name, trainer) in enumerate(sweep.trainers.items()):
            if name not in trained.diverged:
                params = replica(trained.states, i).eval_params
                found = trainer.evaluate(params, trainer.keys.evaluate, split.x)
                if np.isfinite(found.elbo).all():
                    terms[name] = found
                else:
                    term = "rate" if np.isfinite(found.distortion).all() else "distortion"
                    trained.diverged[name] = f"the end: the {term} of the {name_of_split} split is not finite"
            bar.add(1)
            if received:
                raise stopping.Interrupted(received[0], f"step {sweep.first.num_steps}")
    return terms


def leave(sweep: Sweep, trained: Ended, results: Mapping[str, Mapping[str, Any]], folder: pathlib.Path) -> None:
    """Makes each replica's folder that of a finished run without figures; one that diverged has no checkpoint."""
    for i, (name, trainer) in enumerate(sweep.trainers.items()):
        if name not in results:
            continue
        state = replica(trained.states, i)
        with contextlib.closing(restoring.open_checkpoints(folder / name, "latest", trainer.experiment)) as latest:
            latest.save(trainer.num_steps, Session(state, Totals.zero(), Best.none()))
        if trainer.dataset.test is not None:
            outcome.log_test(trained.logs[name], trainer.num_steps, trainer.num_steps, dict(results[name]))
