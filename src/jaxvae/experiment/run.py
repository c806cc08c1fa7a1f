"""One run, from a config to a trained model, its numbers and its pictures; stopped and resumed at any step."""

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import data, evaluation, training
from jaxvae.checkpoints import Checkpoints, digest
from jaxvae.data import Dataset, Split
from jaxvae.experiment import console, figures, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.numerics import require
from jaxvae.training import Totals, TrainState
from jaxvae.typing import Array, Key, Params

# How long the device works before the host looks at it: often enough for Ctrl-C, a bar and a failure to be seen at
# once, seldom enough to cost nothing.
_DISPATCH_SECONDS = 0.2


class Interrupted(Exception):
    """A signal stopped the run, and it was saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name} and saved at step {step}; the same command goes on from there"
        )
        self.signum = signum


class Diverged(Exception):
    """A term of the loss became NaN or infinite."""


class Best(NamedTuple):
    """Model selection so far, always on the unit-weight ELBO of the validation split."""

    elbo: Array  # (), nats per example
    step: Array  # (), int32
    stale: Array  # (), int32: validations since


class Session(NamedTuple):
    """All that a run carries from step to step, and so all that is saved."""

    state: TrainState
    totals: Totals
    best: Best


class Keys(NamedTuple):
    """One key for each use of randomness, all from the seed."""

    init: Key
    order: Key
    train: Key
    evaluate: Key
    figures: Key

    @classmethod
    def of(cls, experiment: Experiment) -> "Keys":
        return cls(*jax.random.split(jax.random.key(experiment.seed), len(cls._fields)))


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What stays the same during a run: the config, the data, and the compiled functions made from them."""

    experiment: Experiment
    dataset: Dataset
    keys: Keys
    optimizer: optax.GradientTransformation
    evaluate: evaluation.Evaluate

    @classmethod
    def of(cls, experiment: Experiment, dataset: Dataset) -> "Trainer":
        """For an experiment that was fitted to its data."""
        return cls(
            experiment,
            dataset,
            Keys.of(experiment),
            experiment.build_optimizer(dataset),
            make_evaluator(experiment, dataset),
        )

    @property
    def steps_per_epoch(self) -> int:
        return self.experiment.steps_per_epoch(self.dataset)

    @property
    def num_steps(self) -> int:
        return self.experiment.num_epochs * self.steps_per_epoch

    def new_session(self) -> Session:
        experiment, train = self.experiment, self.dataset.train
        mean = None
        if experiment.uses_data_mean:
            raw = train.x.mean(axis=0, dtype=np.float64)
            mean = jnp.asarray(experiment.data.preprocess.expectation(raw, self.dataset.values.high), jnp.float32)
        params = experiment.model.init(self.keys.init, data_mean=mean)
        state = TrainState.create(params, self.optimizer, ema=experiment.ema_decay is not None)
        return Session(state, Totals.zero(), Best(jnp.float32(-jnp.inf), jnp.int32(0), jnp.int32(0)))

    def is_over(self, session: Session) -> bool:
        patience = self.experiment.patience
        stopped_early = patience is not None and int(session.best.stale) >= patience
        return int(session.state.step) >= self.num_steps or stopped_early


def preprocessing(experiment: Experiment, dataset: Dataset) -> training.Preprocessing:
    return partial(_preprocess, experiment.data.preprocess, dataset.values.high)


def _preprocess(preprocess: data.Preprocess, high: float, key: Key, x: Array) -> Array:
    return preprocess(key, x, high)


def make_evaluator(experiment: Experiment, dataset: Dataset) -> evaluation.Evaluate:
    return evaluation.make_evaluator(experiment.model, preprocess=preprocessing(experiment, dataset))


def train(experiment: Experiment, folder: pathlib.Path) -> dict[str, Any]:
    """Trains from the config, or goes on where the folder's run was stopped, and leaves everything in the folder.

    Args:
      experiment: the config.
      folder: the run's folder; it is made if it is not there.

    Returns:
      The summary of the test split (empty if the set has none), with `params_sha256` and `step`.

    Raises:
      ValueError: the config, the data or the folder are not usable. Nothing was compiled, and nothing in the folder
      changed.
      Interrupted: SIGINT or SIGTERM came; the run was saved.
      Diverged: a term became NaN or infinite; the last good checkpoint is the newest.
    """
    dataset = data.load(experiment.data, progress=console.say)
    experiment = experiment.fit_to(dataset)
    workdir.check(folder, experiment)
    workdir.create(folder, experiment)
    trainer = Trainer.of(experiment, dataset)
    with (
        contextlib.closing(Checkpoints(folder / "checkpoints" / "latest")) as latest,
        contextlib.closing(Checkpoints(folder / "checkpoints" / "best", keep=1)) as best,
    ):
        session = _restore_or_start(trainer, latest)
        log = workdir.MetricsLog(folder, int(session.state.step))
        session = _train(trainer, session, latest, best, log)
    return _finish(trainer, session, folder, log)


def _restore_or_start(trainer: Trainer, latest: Checkpoints) -> Session:
    num = {name: len(s.x) for name, s in zip(Dataset._fields, trainer.dataset[:3], strict=False) if s is not None}
    shape = "×".join(map(str, trainer.dataset.event_shape))
    counts = ", ".join(f"{n:,} {name}" for name, n in num.items())
    console.say(f"{trainer.experiment.data.name}: {counts} examples of {shape}, values in {trainer.dataset.values}")
    if latest.latest_step is None:
        session = trainer.new_session()
    else:
        session = latest.restore(jax.eval_shape(trainer.new_session))
        console.say(f"resumed at step {int(session.state.step):,} of {trainer.num_steps:,}")
    size = sum(leaf.size for leaf in jax.tree.leaves(session.state.params))
    console.say(f"{size:,} parameters, {trainer.num_steps:,} steps of {trainer.experiment.batch_size} examples")
    return session


def _train(
    trainer: Trainer, session: Session, latest: Checkpoints, best: Checkpoints, log: workdir.MetricsLog
) -> Session:
    """From wherever the session stands to the end of training."""
    experiment, per_epoch = trainer.experiment, trainer.steps_per_epoch
    if trainer.is_over(session):
        return session
    advance = _Advance(trainer, session.state.params)
    step = int(session.state.step)
    bar = console.start(trainer.num_steps, initial=step, title="train", unit="step")
    with contextlib.closing(bar), _signals() as received:
        while not trainer.is_over(session):
            session = advance(session, step)
            step = int(session.state.step)
            failure = session.totals.failure()
            if failure is not None:
                raise Diverged(
                    f"{failure}; the newest checkpoint is of step {latest.latest_step or 0}. "
                    "Lower optimizer.learning_rate, or set optimizer.clip_norm"
                )
            if step % per_epoch == 0:
                session = _end_epoch(trainer, session, best, log)
                if (step // per_epoch) % experiment.checkpoint_every_epochs == 0:
                    latest.save(step, session)
            bar.update(step, advance.describe(log, session.totals), force=step == trainer.num_steps)
            if received:
                latest.save(step, session)
                raise Interrupted(received[0], step)
        latest.save(step, session)
    return session


class _Advance:
    """As many steps as the host can wait for, but not beyond the epoch."""

    def __init__(self, trainer: Trainer, params: Params) -> None:
        experiment = trainer.experiment
        fused = training.fusing_pays(experiment.model, params)
        step = training.make_train_step(
            experiment.model,
            experiment.build_objective(trainer.dataset),
            trainer.optimizer,
            ema_decay=experiment.ema_decay,
        )
        self._advance = training.make_advance(
            step, preprocessing(experiment, trainer.dataset), batch_size=experiment.batch_size, fused=fused
        )
        self._key, self._batch_size, self._per_epoch = (
            trainer.keys.train,
            experiment.batch_size,
            trainer.steps_per_epoch,
        )
        self._x = jax.device_put(trainer.dataset.train.x)
        num = len(trainer.dataset.train.x)
        self._order_of = jax.jit(
            lambda epoch: jax.random.permutation(jax.random.fold_in(trainer.keys.order, epoch), num)
        )
        self._epoch, self._order = -1, jnp.arange(0)
        self._dispatch, self._rate, self._warm = 1, 0.0, False

    def __call__(self, session: Session, step: int) -> Session:
        epoch, done = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        num = min(self._dispatch, self._per_epoch - done)
        start = time.perf_counter()
        state, totals = self._advance(session.state, session.totals, self._x, self._order, self._key, num)
        jax.block_until_ready(totals)
        self._adapt(num, time.perf_counter() - start)
        return session._replace(state=state, totals=totals)

    def _adapt(self, num: int, seconds: float) -> None:
        if self._warm:  # the first call compiled
            rate = num / seconds
            self._rate = rate if self._rate == 0.0 else 0.8 * self._rate + 0.2 * rate
            self._dispatch = max(1, min(2 * self._dispatch, round(self._rate * _DISPATCH_SECONDS)))
        self._warm = True

    def describe(self, log: workdir.MetricsLog, totals: Totals) -> str:
        values = (
            totals.means()
            if int(totals.num_steps)
            else next((r for r in reversed(log.records) if r["split"] == "train"), {})
        )
        terms = [f"{n} {values[n]:.2f}" for n in ("elbo", "rate", "distortion") if values.get(n) is not None]
        return "  ".join([*terms, f"{self._rate * self._batch_size:,.0f} images/s"])


def _end_epoch(trainer: Trainer, session: Session, best: Checkpoints, log: workdir.MetricsLog) -> Session:
    """Reports the epoch, validates if it is time to, and keeps the model if it is the best."""
    experiment, step = trainer.experiment, int(session.state.step)
    epoch = step // trainer.steps_per_epoch
    log.write(step, "train", {"epoch": epoch} | _only_bounds(experiment, session.totals.means()))
    session = session._replace(totals=Totals.zero())
    validation = trainer.dataset.validation
    due = epoch % experiment.eval_every_epochs == 0 or epoch == experiment.num_epochs
    if validation is None or not due:
        return session
    terms = trainer.evaluate(session.state.eval_params, trainer.keys.evaluate, validation.x)
    elbo = float(terms.elbo.mean())
    values = {"elbo": elbo, "distortion": float(terms.distortion.mean()), "rate": float(terms.rate.mean())}
    log.write(step, "validation", {"epoch": epoch} | _only_bounds(experiment, values))
    if elbo > float(session.best.elbo):
        best.save(step, session.state.eval_params)
        return session._replace(best=Best(jnp.float32(elbo), jnp.int32(step), jnp.int32(0)))
    return session._replace(best=session.best._replace(stale=session.best.stale + 1))


def _only_bounds(experiment: Experiment, values: dict[str, float]) -> dict[str, float | None]:
    """Without the numbers that do not exist for a posterior without a density: it has no rate, and bounds nothing."""
    missing = () if experiment.model.posterior.has_density else ("elbo", "rate")
    return {name: None if name in missing else value for name, value in values.items()}


def _finish(trainer: Trainer, session: Session, folder: pathlib.Path, log: workdir.MetricsLog) -> dict[str, Any]:
    """The test numbers and the pictures of a trained model."""
    experiment, dataset = trainer.experiment, trainer.dataset
    params, step = restore_params(experiment, folder)
    result: dict[str, Any] = {}
    if dataset.test is not None:
        result = evaluate_split(trainer.evaluate, experiment, dataset, dataset.test, params)
        names = ("elbo", "elbo_stderr", "distortion", "rate", "active_units")
        log.write(int(session.state.step), "test", {"model_step": step} | {n: result[n] for n in names})
    figures.draw(experiment, dataset, params, trainer.keys.figures, log.records, folder / "figures")
    return result | {"step": step, "params_sha256": digest(session.state.params)}


def evaluate_split(
    evaluate: evaluation.Evaluate,
    experiment: Experiment,
    dataset: Dataset,
    split: Split,
    params: Params,
    *,
    num_importance_samples: int = 1,
    seed: int | None = None,
    tick: evaluation.Tick = lambda num: None,
) -> dict[str, Any]:
    """The summary of a split, as `evaluation.summarize` makes it."""
    key = Keys.of(experiment).evaluate if seed is None else jax.random.key(seed)
    terms = evaluate(params, key, split.x, num_importance_samples=num_importance_samples, tick=tick)
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
    abstract = jax.eval_shape(experiment.model.init, jax.random.key(0))
    with contextlib.closing(Checkpoints(folder / "checkpoints" / "best", keep=1)) as best:
        if best.latest_step is not None:
            return best.restore(abstract), best.latest_step
    optimizer = experiment.optimizer.build(num_steps=1, steps_per_epoch=1)
    state = jax.eval_shape(
        partial(TrainState.create, optimizer=optimizer, ema=experiment.ema_decay is not None), abstract
    )
    empty = Best(jnp.float32(0), jnp.int32(0), jnp.int32(0))
    with contextlib.closing(Checkpoints(folder / "checkpoints" / "latest")) as latest:
        require(latest.latest_step is not None, f"{folder} has no checkpoint yet; train it first")
        session = latest.restore(jax.eval_shape(lambda: Session(state, Totals.zero(), empty)))
    return session.state.eval_params, int(session.state.step)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the second one is answered as always."""
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        for s, handler in before.items():
            signal.signal(s, handler)
        console.say(f"{signal.Signals(signum).name}: saving; once more to leave at once")

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
