"""The parts of a run: its keys, its state from step to step, and what stays constant."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import data, evaluation, training
from jaxvae.data import Dataset
from jaxvae.experiment import starting
from jaxvae.experiment.config import Experiment
from jaxvae.objectives import Objective
from jaxvae.parallel import OnOneDevice, Placement
from jaxvae.training import Totals, TrainState
from jaxvae.typing import Array, Key, Params, Preprocessing


class Best(NamedTuple):
    """Model selection so far, always on the unit-weight ELBO of the validation split."""

    elbo: Array  # (), nats per example
    step: Array  # (), int32
    stale: Array  # (), int32: the number of validations since

    @classmethod
    def none(cls) -> "Best":
        return cls(jnp.float32(-jnp.inf), jnp.int32(0), jnp.int32(0))


class Session(NamedTuple):
    """The whole state of a run, which is also all that is saved."""

    state: TrainState
    totals: Totals
    best: Best

    @classmethod
    def start(cls, experiment: Experiment, optimizer: optax.GradientTransformation, params: Params) -> "Session":
        """The session before the first step."""
        averages, objective = experiment.ema_decay is not None, experiment.objective
        state = TrainState.create(params, optimizer, ema=averages, objective=objective)
        return cls(state, Totals.zero(), Best.none())


class Keys(NamedTuple):
    """A key for each use of randomness, all derived from the seed."""

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
    """The constants of a run: the config, the data, and the functions made from them."""

    experiment: Experiment
    dataset: Dataset
    keys: Keys
    preprocess: Preprocessing
    optimizer: optax.GradientTransformation
    evaluate: evaluation.Evaluate
    data_memory: float  # the bytes of the device that training examples may fill
    placement: Placement

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        dataset: Dataset,
        *,
        data_memory: float = math.inf,
        placement: Placement = OnOneDevice(),
    ) -> "Trainer":
        """The trainer of an experiment that was fitted to its data."""
        preprocess = experiment.data.preprocess.bind(dataset.values)
        return cls(
            experiment,
            dataset,
            Keys.of(experiment),
            preprocess,
            experiment.build_optimizer(dataset),
            evaluation.make_evaluator(experiment.model, preprocess=preprocess),
            data_memory,
            placement,
        )

    @property
    def steps_per_epoch(self) -> int:
        return self.experiment.steps_per_epoch(self.dataset)

    @property
    def num_steps(self) -> int:
        return self.experiment.num_epochs * self.steps_per_epoch

    def new_session(self) -> Session:
        return jax.jit(self.session_maker())(self.keys.init)  # one compilation; op by op, a dozen

    def session_maker(self) -> Callable[[Key], Session]:
        """A function from the key for the parameters to a session before the first step."""
        experiment, x = self.experiment, self.dataset.train.x
        params = starting.parameters(experiment)
        if params is not None:
            return lambda key: Session.start(experiment, self.optimizer, params)
        expected = partial(experiment.data.preprocess.expectation, high=self.dataset.values.high)
        moments: dict[str, np.ndarray] = {}
        if experiment.model.likelihood.standardizes:
            moments = {"data_mean": data.mean(x, of=expected), "data_std": data.std(x, of=expected)}
        elif experiment.uses_data_mean:
            moments = {"data_mean": expected(data.mean(x))}
        return partial(self.drawn, **{name: jnp.asarray(of, jnp.float32) for name, of in moments.items()})

    def session_shapes(self) -> Session:
        """The shapes and types of a session, without reading the data."""
        return jax.eval_shape(self.drawn, self.keys.init)

    def drawn(self, key: Key, **moments: Array) -> Session:
        """A session before the first step, with parameters drawn from `key`; `moments` are passed to `VAE.init`."""
        params = self.experiment.model.init(key, **moments)
        return Session.start(self.experiment, self.optimizer, params)

    def make_step(self, objective: Objective | None = None) -> training.TrainStep:
        """The training step that the config describes, or the same with another objective."""
        experiment = self.experiment
        return training.make_train_step(
            experiment.model,
            experiment.build_objective(self.dataset) if objective is None else objective,
            self.optimizer,
            estimator=experiment.estimator,
            preprocess=self.preprocess,
            ema_decay=experiment.ema_decay,
            num_parts=experiment.num_parts,
            axis_name=self.placement.axis_name,
        )

    def make_advance(self, *, fused: bool | None = None) -> training.Advance:
        """Makes a function that takes many steps on the run's devices; by default in one dispatch if that is faster."""
        fused = training.fusing_pays(self.experiment.model) if fused is None else fused
        return self.placement.make_advance(self.make_step(), fused=fused)

    def is_over(self, session: Session) -> bool:
        patience = self.experiment.patience
        stopped_early = patience is not None and int(session.best.stale) >= patience
        return int(session.state.step) >= self.num_steps or stopped_early
