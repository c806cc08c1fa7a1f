"""The training loop: dispatches of many steps, the end of an epoch, and stopping by a signal."""

import contextlib
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.checkpoints import Checkpoints
from jaxvae.experiment import cluster, console, feed
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Best, Session, Trainer
from jaxvae.experiment.stopping import Diverged, Interrupted
from jaxvae.experiment.workdir import MetricsLog
from jaxvae.numerics import all_finite, global_norm
from jaxvae.training import Totals

# The time of a dispatch: short enough for Ctrl-C, the bar and a failure to be handled at once, long enough for the
# host's work to cost nothing.
_DISPATCH_SECONDS = 0.5
# On a CPU the first step of a dispatch allocates its memory anew, which takes long for hundreds of megabytes. So a few
# such steps share a dispatch, as many as fit into the time after which Ctrl-C seems to be ignored.
_FEW_STEPS, _LONGEST_SECONDS = 4, 4.0

_LOOK_AT_THE_DATA = (
    "no parameter had moved yet, so no learning rate would help. Look at the values of the data: a Gaussian of grey "
    "levels needs data.preprocess=Dequantization() or Scaling(); for what is no image, nor around 0 and 1, write "
    "model.likelihood=Standardized(likelihood=Gaussian()), say, inside Incomplete(likelihood=...) where entries are "
    "missing"
)


def run_to_the_end(
    trainer: Trainer, session: Session, latest: Checkpoints, best: Checkpoints, log: MetricsLog, received: list[int]
) -> Session:
    """Trains from the session's step to the end of training.

    Raises:
      Interrupted: `received` has a signal; the session was saved.
    """
    experiment, per_epoch = trainer.experiment, trainer.steps_per_epoch
    if trainer.is_over(session):
        return session
    dispatch = Dispatcher(trainer)
    step = int(session.state.step)
    state, totals = trainer.placement.put_state((session.state, session.totals))
    session = session._replace(state=state, totals=totals)
    bar = console.start(trainer.num_steps, initial=step, title="train", unit="step")
    with contextlib.closing(bar):
        while not trainer.is_over(session):
            session = dispatch(session, step)
            step = int(session.state.step)
            failure = session.totals.failure()
            if failure is not None:
                untouched = int(session.totals.bad_step) == 0
                raise Diverged(f"{failure}; {_LOOK_AT_THE_DATA if untouched else _what_is_left(latest)}")
            if step % per_epoch == 0:
                session = _end_epoch(trainer, session, latest, best, log)
                if (step // per_epoch) % experiment.checkpoint_every_epochs == 0:
                    _save(trainer, latest, step, session)
            bar.update(step, dispatch.describe(log, session.totals), force=step == trainer.num_steps)
            stopped_by = cluster.greatest(received[0] if received else 0)
            if stopped_by:
                _save(trainer, latest, step, session)
                raise Interrupted(stopped_by, f"step {step}")
        _save(trainer, latest, step, session)
    stopped_by = cluster.greatest(received[0] if received else 0)
    if stopped_by:  # it came in the last steps, or while they were saved
        raise Interrupted(stopped_by, f"step {step}")
    return trainer.placement.get(session)


class Dispatcher:
    """Dispatches as many steps as the host can wait for, within the epoch."""

    def __init__(self, trainer: Trainer) -> None:
        self._experiment, self._advance = trainer.experiment, trainer.make_advance()
        self._key, self._batch_size = trainer.keys.train, trainer.experiment.batch_size
        self._feed = feed.make_feed(
            trainer.dataset.train.x,
            trainer.keys.order,
            batch_size=self._batch_size,
            memory=trainer.data_memory,
            placement=trainer.placement,
        )
        self._pace = Pace(_DISPATCH_SECONDS)

    def __call__(self, session: Session, step: int) -> Session:
        start = time.perf_counter()
        batches, available = self._feed(step)
        num = cluster.least(min(self._pace.num_steps, available))
        state, totals = self._advance(session.state, session.totals, batches, self._key, num)
        jax.block_until_ready(totals)
        self._pace.add(num, time.perf_counter() - start)
        return session._replace(state=state, totals=totals)

    def describe(self, log: MetricsLog, totals: Totals) -> str:
        values = (
            _only_bounds(self._experiment, totals.means())
            if int(totals.num_steps)
            else next((r for r in reversed(log.records) if r["split"] == "train"), {})
        )
        terms = [f"{n} {values[n]:.2f}" for n in ("elbo", "rate", "distortion") if values.get(n) is not None]
        speed = [f"{self._pace.rate * self._batch_size:,.0f} examples/s"] if self._pace.rate else []  # not yet known
        return "  ".join([*terms, *speed])


class Pace:
    """The number of steps in the next dispatch, from the time that the last ones took."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.num_steps, self.rate = 1, 0.0  # steps, and steps per second
        self._warm = False

    def add(self, num: int, seconds: float) -> None:
        if self._warm:  # the first call compiled
            rate = num / seconds
            self.rate = rate if self.rate == 0.0 else 0.8 * self.rate + 0.2 * rate
            few = min(_FEW_STEPS, int(self.rate * _LONGEST_SECONDS))
            self.num_steps = max(1, min(2 * self.num_steps, max(few, round(self.rate * self._seconds))))
        self._warm = True


def _save(trainer: Trainer, latest: Checkpoints, step: int, session: Session) -> None:
    _param_norm(session, step, latest)
    if not jax.jit(all_finite)(session.state):
        raise Diverged(f"step {step}: the optimizer's state is not finite; {_what_is_left(latest)}")
    latest.save(step, trainer.placement.get(session))


def _param_norm(session: Session, step: int, latest: Checkpoints) -> float:
    norm = float(jax.jit(global_norm)(session.state.params))
    if not math.isfinite(norm):
        raise Diverged(f"step {step}: the parameters are not finite; {_what_is_left(latest)}")
    return norm


def _what_is_left(latest: Checkpoints) -> str:
    saved = latest.latest_step
    left = "no checkpoint was saved" if saved is None else f"the newest checkpoint is of step {saved}"
    return f"{left}. In a new --workdir, lower optimizer.learning_rate or set optimizer.clip_norm"


def _end_epoch(trainer: Trainer, session: Session, latest: Checkpoints, best: Checkpoints, log: MetricsLog) -> Session:
    """Reports the epoch, validates if that is due, and keeps the model if it is the best."""
    experiment, step = trainer.experiment, int(session.state.step)
    epoch = step // trainer.steps_per_epoch
    means = session.totals.means() | {"param_norm": _param_norm(session, step, latest)}
    log.write(step, "train", {"epoch": epoch} | _only_bounds(experiment, means))
    session = session._replace(totals=trainer.placement.put_state(Totals.zero()))
    validation = trainer.dataset.validation
    due = epoch % experiment.eval_every_epochs == 0 or epoch == experiment.num_epochs
    if validation is None or not due:
        return session
    eval_params = trainer.placement.get(session.state.eval_params)
    terms = trainer.evaluate(eval_params, trainer.keys.evaluate, validation.x)
    means = cluster.of_first([np.mean(term) for term in (terms.elbo, terms.distortion, terms.rate)])
    values = dict(zip(("elbo", "distortion", "rate"), map(float, means), strict=True))
    elbo = values["elbo"]
    if not math.isfinite(elbo):
        term = "rate" if math.isfinite(values["distortion"]) else "distortion"
        raise Diverged(f"step {step}: the {term} of the validation split is not finite; {_what_is_left(latest)}")
    log.write(step, "validation", {"epoch": epoch} | _only_bounds(experiment, values))
    if elbo > float(session.best.elbo):
        best.drop_after(step)  # left by a run that once got further; the newest has to be the best
        best.save(step, eval_params)
        return session._replace(best=Best(jnp.float32(elbo), jnp.int32(step), jnp.int32(0)))
    return session._replace(best=session.best._replace(stale=session.best.stale + 1))


def _only_bounds(experiment: Experiment, values: dict[str, float]) -> dict[str, float | None]:
    """`values` with None for the rate and the ELBO if the posterior has no density, and so neither of them."""
    missing = () if experiment.model.posterior.has_density else ("elbo", "rate")
    return {name: None if name in missing else value for name, value in values.items()}
