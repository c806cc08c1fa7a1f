"""A sweep: runs that differ in their seed or in their β, trained side by side in one compiled program.

What differs between these replicas (parameters, order, draws, β) has a leading axis [R]; the examples lie on the device
once. Each replica ends where the single run with its seed or β ends, but for rounding: at the last step. Nothing is
selected on the validation split.

On an accelerator a step is taken for all replicas at once, by `jax.vmap`. On a CPU they take some steps each in turn
(`jax.lax.map` within the one program): of 16 replicas of configs/mnist.py one took 4.3 ms for a step so, 4.9 ms by
`vmap`, and 4.0 ms by the program of a single run (`python .ci/sweep.py`, two shared cores); of configs/digits.py 2.3,
2.2 and 2.2 ms (with --config=configs/digits.py --shape 8 8 1).
"""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import data, training
from jaxvae.evaluation import PerExample
from jaxvae.experiment import console, feed, loop, run, stopping, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.figures import shown_split
from jaxvae.experiment.session import Best, Keys, Session, Trainer
from jaxvae.numerics import global_norm, require
from jaxvae.objectives import ELBO
from jaxvae.training import Resident, Totals, TrainState
from jaxvae.typing import Array, Key

# Longer than a single run's, since it is of all replicas together, and on a CPU they share it in turn.
_DISPATCH_SECONDS = 1.0


class Sweep(NamedTuple):
    """The runs of a sweep, by the names of their folders; they share data, optimizer and evaluator."""

    trainers: dict[str, Trainer]
    betas: tuple[float, ...] | None  # one for each, if that is what differs; None: the seeds differ

    @property
    def first(self) -> Trainer:
        return next(iter(self.trainers.values()))


class Trained(NamedTuple):
    """Where training ended."""

    states: TrainState  # every array has a leading axis [R]; on the host
    logs: dict[str, workdir.MetricsLog]
    diverged: dict[str, str]  # the names of the replicas that did, with the step and the term
    seconds: float


def over_seeds(config: Experiment, num: int) -> dict[str, Experiment]:
    """The config with `num` seeds, from its own upwards, by the names of their folders."""
    seeds = range(config.seed, config.seed + num)
    return {f"seed-{seed}": dataclasses.replace(config, seed=seed) for seed in seeds}


def over_betas(config: Experiment, betas: Sequence[float]) -> dict[str, Experiment]:
    """The config with each of some weights of the KL, in their order, by the names of their folders.

    Raises:
      ValueError: its objective has no such weight, or one is not finite, negative, or there twice.
    """
    objective = config.objective
    require(
        isinstance(objective, ELBO),
        f"--betas are weights of the ELBO's KL, and {type(objective).__name__} has none; write objective=ELBO() or "
        "--num-seeds=N",
    )
    assert isinstance(objective, ELBO)
    experiments = {
        f"beta-{beta:.15g}": dataclasses.replace(config, objective=dataclasses.replace(objective, beta=beta))
        for beta in sorted(betas)
    }
    require(len(experiments) == len(betas), f"--betas={','.join(map(str, betas))} has a value twice; write each once")
    return experiments


def prepare(experiments: Mapping[str, Experiment], folder: pathlib.Path) -> Sweep:
    """Reads the data, checks that all goes together, and makes the folder with one for each run in it.

    Args:
      experiments: by the names of their folders; they differ in their seed or their β alone.
      folder: the sweep's.

    Raises:
      ValueError: a run can't be part of a sweep, or does not fit its data or its folder. Nothing in them changed.
    """
    one = next(iter(experiments.values()))
    _check(one)
    workdir.check(folder, None)
    one = dataclasses.replace(one, data=one.data.absolute())
    source = data.find(one.data)
    one.fit_to(source)
    room = feed.default_memory()
    dataset = source.read(console.say, room)
    require(
        dataset.train.x.nbytes <= room,
        f"the training examples take {dataset.train.x.nbytes:,} bytes and a sweep keeps them on the device, which has "
        f"{room:,.0f} for them; write single runs, with scripts/train.py",
    )
    fitted = one.fit_to(dataset)
    own = {
        name: dataclasses.replace(fitted, seed=experiment.seed, objective=experiment.objective)
        for name, experiment in experiments.items()
    }
    for name, experiment in own.items():
        workdir.check(folder / name, experiment)
        checkpoints = folder / name / "checkpoints"
        require(not checkpoints.exists(), f"{checkpoints} is there already; remove it, or choose another --workdir")
    for name, experiment in own.items():
        workdir.create(folder / name, experiment)
    trainer = Trainer.of(fitted, dataset)
    trainers = {n: dataclasses.replace(trainer, experiment=e, keys=Keys.of(e)) for n, e in own.items()}
    betas = tuple(e.objective.beta for e in own.values() if isinstance(e.objective, ELBO))
    return Sweep(trainers, betas if len(set(betas)) > 1 else None)


def _check(config: Experiment) -> None:
    """Refuses what a sweep can't honour."""
    require(
        config.patience is None,
        f"patience is {config.patience}, and the replicas of a sweep stop together; write patience=None",
    )
    posterior = config.model.posterior
    require(
        posterior.has_density,
        f"the posterior {type(posterior).__name__} has no density, and so no rate; write "
        "model.posterior=DiagonalGaussian()",
    )


def start(sweep: Sweep) -> tuple[TrainState, Totals]:
    """Before the first step: every array has a leading axis [R]."""
    sessions = jax.jit(jax.vmap(sweep.first.session_maker()))(_keys(sweep).init)
    return sessions.state, sessions.totals


Advance = Callable[[TrainState, Totals, Resident, Array | None, Key, int], tuple[TrainState, Totals]]


def make_advance(trainer: Trainer, *, side_by_side: bool) -> Advance:
    """`advance(states, totals, batches, betas, keys, num_steps) -> (states, totals)`, one dispatch; it donates the two.

    All but `batches.x` and `num_steps` have a leading axis [R]: the order of the epoch is [R, S, B]. `betas` None is
    that of the objective, for all. `side_by_side` is by `jax.vmap`, else one replica after the other takes these steps.
    """
    objective = trainer.experiment.build_objective(trainer.dataset)

    def advance(
        state: TrainState, totals: Totals, batches: Resident, beta: Array | None, key: Key, num_steps: Array
    ) -> tuple[TrainState, Totals]:
        # A warm-up is a schedule beside β, and multiplies this one as it does any other.
        mine = objective if beta is None else dataclasses.replace(objective, beta=beta)  # type: ignore[call-arg]
        step = trainer.make_step(mine)
        return training.make_advance(step, fused=True)(state, totals, batches, key, num_steps)  # type: ignore[arg-type]

    def one_by_one(
        states: TrainState, totals: Totals, batches: Resident, betas: Array | None, keys: Key, num_steps: Array
    ) -> tuple[TrainState, Totals]:
        def body(own: tuple[TrainState, Totals, Array, Array | None, Key]) -> tuple[TrainState, Totals]:
            state, total, order, beta, key = own
            return advance(state, total, Resident(batches.x, order), beta, key, num_steps)

        return jax.lax.map(body, (states, totals, batches.order, betas, keys))

    at_once = jax.vmap(advance, in_axes=(0, 0, Resident(x=None, order=0), 0, 0, None))  # type: ignore[arg-type]
    mapped = at_once if side_by_side else one_by_one
    return jax.jit(mapped, donate_argnums=(0, 1))


def train(sweep: Sweep, folder: pathlib.Path, received: list[int]) -> Trained:
    """From the first step to the last. A replica that diverges is named, and the others go on.

    Raises:
      Interrupted: `received` has a signal.
    """
    trainer, keys = sweep.first, _keys(sweep)
    per_epoch, num_steps = trainer.steps_per_epoch, trainer.num_steps
    x, batch_size = jax.device_put(trainer.dataset.train.x), trainer.experiment.batch_size
    betas = None if sweep.betas is None else jnp.asarray(sweep.betas, jnp.float32)
    advance, pace = make_advance(trainer, side_by_side=jax.default_backend() != "cpu"), loop.Pace(_DISPATCH_SECONDS)
    draw = jax.jit(
        jax.vmap(lambda key, epoch: feed.epoch_order(key, epoch, num=len(x), batch_size=batch_size), (0, None))
    )
    logs = {name: workdir.MetricsLog(folder / name, 0) for name in sweep.trainers}
    diverged: dict[str, str] = {}
    states, totals = start(sweep)
    title = f"{len(sweep.trainers)} runs,"
    began = time.monotonic()
    with contextlib.closing(console.start(num_steps, title=title, unit="step")) as bar:
        step = 0
        while step < num_steps:
            epoch, done = divmod(step, per_epoch)
            if done == 0:
                order = draw(keys.order, epoch)
            num = min(pace.num_steps, per_epoch - done)
            before = time.perf_counter()
            states, totals = advance(states, totals, Resident(x, order), betas, keys.train, num)
            jax.block_until_ready(totals)
            pace.add(num, time.perf_counter() - before)
            step += num
            if step % per_epoch == 0:
                totals = _end_epoch(step, epoch + 1, states, totals, logs, diverged)
            speed = pace.rate * batch_size * len(sweep.trainers)
            bar.update(step, f"{speed:,.0f} images/s", force=step == num_steps)
            _stop_if(received)
    return Trained(jax.device_get(states), logs, diverged, time.monotonic() - began)


def _end_epoch(
    step: int,
    epoch: int,
    states: TrainState,
    totals: Totals,
    logs: Mapping[str, workdir.MetricsLog],
    diverged: dict[str, str],
) -> Totals:
    """Writes each replica's line, or notes that it diverged; returns the totals to go on with."""
    norms, each = jax.device_get((_norms(states.params), totals))
    for i, (name, log) in enumerate(logs.items()):
        mine, norm = _replica(each, i), float(norms[i])
        failure = mine.failure()
        if failure is None and not math.isfinite(norm):
            failure = f"step {step}: the parameters are not finite"
        if failure is not None and name not in diverged:
            diverged[name] = failure
            console.say(f"{name} diverged at {failure}; the others go on")
        if name not in diverged:
            log.write(step, "train", {"epoch": epoch} | mine.means() | {"param_norm": norm})
    return _zeros(totals)


_norms = jax.jit(jax.vmap(global_norm))
_zeros = jax.jit(lambda totals: jax.vmap(lambda _: Totals.zero())(totals.num_steps))


def measure(sweep: Sweep, trained: Trained, received: list[int]) -> dict[str, PerExample]:
    """The terms of each replica for the examples of `shown_split`; one whose terms are not finite has diverged.

    Raises:
      Interrupted: `received` has a signal.
    """
    name_of_split, split = shown_split(sweep.first.dataset)
    terms: dict[str, PerExample] = {}
    bar = console.Count(len(sweep.trainers), title="evaluate", unit="run")
    with contextlib.closing(bar):
        for i, (name, trainer) in enumerate(sweep.trainers.items()):
            if name not in trained.diverged:
                params = _replica(trained.states, i).eval_params
                found = trainer.evaluate(params, trainer.keys.evaluate, split.x)
                if np.isfinite(found.elbo).all():
                    terms[name] = found
                else:
                    term = "rate" if np.isfinite(found.distortion).all() else "distortion"
                    trained.diverged[name] = f"the end: the {term} of the {name_of_split} split is not finite"
            bar.add(1)
            _stop_if(received)
    return terms


def leave(sweep: Sweep, trained: Trained, results: Mapping[str, Mapping[str, Any]], folder: pathlib.Path) -> None:
    """Makes each replica's folder that of a finished run, but for its pictures; one that diverged has no checkpoint."""
    for i, (name, trainer) in enumerate(sweep.trainers.items()):
        if name not in results:
            continue
        state = _replica(trained.states, i)
        with contextlib.closing(run.open_checkpoints(folder / name, "latest", trainer.experiment)) as latest:
            latest.save(trainer.num_steps, Session(state, Totals.zero(), Best.none()))
        if trainer.dataset.test is not None:
            run.log_test(trained.logs[name], trainer.num_steps, trainer.num_steps, dict(results[name]))


class Finished(NamedTuple):
    """What came of a sweep."""

    sweep: Sweep
    results: dict[str, dict[str, Any]]  # by the name of the run, what `run.summarize` says; without those that diverged
    diverged: dict[str, str]  # the others, with the step and the term
    train_seconds: float


def finish(sweep: Sweep, folder: pathlib.Path) -> Finished:
    """Trains, measures, and leaves each run in its folder.

    Raises:
      Interrupted: SIGINT or SIGTERM came; nothing was saved.
    """
    with workdir.locked(folder), stopping.collected("stopping") as received:
        trained = train(sweep, folder, received)
        terms = measure(sweep, trained, received)
    results = {
        name: run.summarize(trainer.experiment, trainer.dataset, terms[name])
        for name, trainer in sweep.trainers.items()
        if name in terms
    }
    leave(sweep, trained, results, folder)
    return Finished(sweep, results, trained.diverged, trained.seconds)


def _keys(sweep: Sweep) -> Keys:
    """With a leading axis [R]."""
    return jax.tree.map(lambda *keys: jnp.stack(keys), *(t.keys for t in sweep.trainers.values()))


def _replica(tree: Any, i: int) -> Any:
    """What a tree with a leading axis [R] holds of one replica."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _stop_if(received: list[int]) -> None:
    if received:
        lost = "a sweep is saved at its end only, and the same command starts it anew"
        raise stopping.Interrupted(received[0], "", saved=False, lost=lost)
