"""What a run is made of: its keys, what it carries from step to step, and what stays the same."""

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
    stale: Array  # (), int32: validations since

    @classmethod
    def none(cls) -> "Best":
        return cls(jnp.float32(-jnp.inf), jnp.int32(0), jnp.int32(0))


class Session(NamedTuple):
    """All that a run carries from step to step, and so all that is saved."""

    state: TrainState
    totals: Totals
    best: Best

    @classmethod
    def start(cls, experiment: Experiment, optimizer: optax.GradientTransformation, params: Params) -> "Session":
        """Before the first step."""
        averages, objective = experiment.ema_decay is not None, experiment.objective
        state = TrainState.create(params, optimizer, ema=averages, objective=objective)
        return cls(state, Totals.zero(), Best.none())


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
        """For an experiment that was fitted to its data."""
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
        return jax.jit(self.session_maker())(self.keys.init)  # as one program: op by op, this would be a dozen

    def session_maker(self) -> Callable[[Key], Session]:
        """From the key for the parameters to a run before its first step."""
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
        """The shapes and types of a session; the data is not looked at."""
        return jax.eval_shape(self.drawn, self.keys.init)

    def drawn(self, key: Key, **moments: Array) -> Session:
        """A run before its first step, with parameters drawn from `key`; `moments` are those of `VAE.init`."""
        params = self.experiment.model.init(key, **moments)
        return Session.start(self.experiment, self.optimizer, params)

    def make_step(self, objective: Objective | None = None) -> training.TrainStep:
        """The training step that the config describes, or that with another objective."""
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
        """Many of these steps, where the run's arrays lie; in one dispatch where that pays, or as `fused` says."""
        fused = training.fusing_pays(self.experiment.model) if fused is None else fused
        return self.placement.make_advance(self.make_step(), fused=fused)

    def is_over(self, session: Session) -> bool:
        patience = self.experiment.patience
        stopped_early = patience is not None and int(session.best.stale) >= patience
        return int(session.state.step) >= self.num_steps or stopped_early
