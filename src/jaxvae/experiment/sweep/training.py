"""The one program that trains the replicas."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import training
from jaxvae.checkpoints import Checkpoints
from jaxvae.experiment import console, feed, loop, restoring, stopping, workdir
from jaxvae.experiment.session import Trainer
from jaxvae.experiment.sweep.replicas import Sweep, replica
from jaxvae.numerics import all_finite, global_norm
from jaxvae.training import Examples, Metrics, Resident, Totals, TrainState
from jaxvae.typing import Array, Key

# Longer than for a single run, since all replicas share it, on a CPU in turn.
_DISPATCH_SECONDS = 2.0


class Ended(NamedTuple):
    """The state at the end of training."""

    states: TrainState  # every array has a leading axis [R]; on the host
    logs: dict[str, workdir.MetricsLog]
    diverged: dict[str, str]  # the replicas that diverged, by name, with the step and the term
    seconds: float | None  # None: training was resumed


def start(sweep: Sweep) -> tuple[TrainState, Totals]:
    """The states and totals before the first step; every array has a leading axis [R]."""
    sessions = jax.jit(jax.vmap(sweep.first.session_maker()))(sweep.keys.init)
    return sessions.state, sessions.totals


AdvanceAll = Callable[[TrainState, Totals, Resident, Array | None, Key, int], tuple[TrainState, Totals]]


def make_advance(trainer: Trainer, *, side_by_side: bool) -> AdvanceAll:
    """Makes `advance(states, totals, batches, betas, keys, num_steps) -> (states, totals)`; it donates the two.

    All arguments but `batches.x` and `num_steps` have a leading axis [R]; the order of the epoch is [R, S, B]. If
    `betas` is None, all replicas have the objective's own β. With `side_by_side`, `jax.vmap` advances all replicas in
    one dispatch; otherwise the program of one replica takes these steps for each in turn.
    """
    objective = trainer.experiment.build_objective(trainer.dataset)

    def step(state: TrainState, batch: Array, own: tuple[Array | None, Key]) -> tuple[TrainState, Metrics]:
        beta, key = own
        # A warm-up is a separate schedule, which multiplies this β as any other.
        mine = objective if beta is None else dataclasses.replace(objective, beta=beta)  # type: ignore[call-arg]
        return trainer.make_step(mine)(state, batch, key)

    if side_by_side:
        of_one = training.make_advance(step, fused=True, transform=lambda function: function)
        in_axes = (0, 0, Resident(x=None, order=0), 0, None)  # type: ignore[arg-type]
        at_once = jax.jit(jax.vmap(of_one, in_axes), donate_argnums=(0, 1))
        return lambda states, totals, batches, betas, keys, num: at_once(states, totals, batches, (betas, keys), num)
    advance = training.make_advance(step, fused=training.fusing_pays(trainer.experiment.model))

    def in_turn(
        states: TrainState, totals: Totals, batches: Resident, betas: Array | None, keys: Key, num_steps: int
    ) -> tuple[TrainState, Totals]:
        carry = states, totals
        for i in range(len(keys)):
            state, total, order, own = _taken((*carry, batches.order, (betas, keys)), i)
            carry = _put(carry, advance(state, total, Resident(batches.x, order), own, num_steps), i)
        return carry

    return in_turn


_taken = jax.jit(replica)


@partial(jax.jit, donate_argnums=0)
def _put(tree: Any, own: Any, i: int) -> Any:
    """Replaces the part of replica i in a tree with a leading axis [R]."""
    return jax.tree.map(lambda leaf, new: leaf.at[i].set(new), tree, own)


def train(sweep: Sweep, folder: pathlib.Path, latest: Checkpoints, received: list[int]) -> Ended:
    """Trains from the first step or the newest checkpoint to the last step.

    A replica that diverges is reported, and the others continue.

    Raises:
      Interrupted: `received` has a signal; the sweep was saved.
      OSError: a checkpoint can't be read or saved.
    """
    trainer, keys = sweep.first, sweep.keys
    per_epoch, num_steps = trainer.steps_per_epoch, trainer.num_steps
    stored, batch_size = trainer.dataset.train.x, trainer.experiment.batch_size
    x = Examples.of(stored[:])
    betas = None if sweep.betas is None else jnp.asarray(sweep.betas, jnp.float32)
    advance, pace = make_advance(trainer, side_by_side=jax.default_backend() != "cpu"), loop.Pace(_DISPATCH_SECONDS)
    draw = jax.jit(
        jax.vmap(lambda key, epoch: feed.epoch_order(key, epoch, num=len(stored), batch_size=batch_size), (0, None))
    )
    states, totals = _restore_or_start(sweep, latest)
    began, step = time.monotonic(), int(states.step[0])
    logs = {name: workdir.MetricsLog(folder / name, step) for name in sweep.trainers}
    diverged: dict[str, str] = {}
    if step:
        console.say(f"resumed at step {step:,} of {num_steps:,}")
        _note_failures(step, states, totals, list(logs), diverged)
    resumed, order = step > 0, None
    bar = console.start(num_steps, initial=step, title=f"{len(sweep.trainers)} runs,", unit="step")
    with contextlib.closing(bar):
        while step < num_steps:
            epoch, done = divmod(step, per_epoch)
            if order is None or done == 0:
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
            bar.update(step, f"{speed:,.0f} examples/s", force=step == num_steps)
            signum = next(iter(received), None)  # read once: a later signal stops the next step
            due = step % (per_epoch * trainer.experiment.checkpoint_every_epochs) == 0
            if due or signum is not None or step == num_steps:
                latest.save(step, (states, totals))
            if signum is not None:
                raise stopping.Interrupted(signum, f"step {step}")
    return Ended(jax.device_get(states), logs, diverged, None if resumed else time.monotonic() - began)


def _restore_or_start(sweep: Sweep, latest: Checkpoints) -> tuple[TrainState, Totals]:
    if latest.latest_step is None:
        return start(sweep)
    abstract = jax.eval_shape(jax.vmap(sweep.first.drawn), sweep.keys.init)
    states, totals = restoring.restore_any(latest, (abstract.state, abstract.totals)).tree
    return states, totals


def _end_epoch(
    step: int,
    epoch: int,
    states: TrainState,
    totals: Totals,
    logs: Mapping[str, workdir.MetricsLog],
    diverged: dict[str, str],
) -> Totals:
    """Writes each replica's line, or notes that it diverged; returns the totals to go on with."""
    norms, each = _note_failures(step, states, totals, list(logs), diverged)
    for i, (name, log) in enumerate(logs.items()):
        if name not in diverged:
            log.write(step, "train", {"epoch": epoch} | replica(each, i).means() | {"param_norm": float(norms[i])})
    return _restarted(totals)


def _note_failures(
    step: int, states: TrainState, totals: Totals, names: Sequence[str], diverged: dict[str, str]
) -> tuple[np.ndarray, Totals]:
    """Adds replicas that are not finite to `diverged`; returns the norms of their parameters [R], and the totals."""
    norms, finite, each = jax.device_get((_norms(states.params), _finite(states), totals))
    for i, name in enumerate(names):
        failure = replica(each, i).failure()
        if failure is None and not finite[i]:
            what = "optimizer's state is" if math.isfinite(norms[i]) else "parameters are"
            failure = f"step {step}: the {what} not finite"
        if failure is not None and name not in diverged:
            diverged[name] = failure
            console.say(f"{name} diverged at {failure}; the others go on")
    return norms, each


_norms, _finite = jax.jit(jax.vmap(global_norm)), jax.jit(jax.vmap(all_finite))


@jax.jit
@jax.vmap
def _restarted(totals: Totals) -> Totals:
    """The totals from zero, but with the first step that was not finite, which a resumed sweep must know."""
    return Totals.zero()._replace(bad_step=totals.bad_step, bad=totals.bad)
