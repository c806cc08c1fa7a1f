"""The measured programs of a config: its training step, its bound, its evaluator and its generator."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import training
from jaxvae.evaluation.evaluator import chunk_of
from jaxvae.experiment import feed
from jaxvae.experiment.benchmark.products import products
from jaxvae.experiment.benchmark.timing import Run, repeated
from jaxvae.experiment.session import Session, Trainer
from jaxvae.training import Advance, Batches, Totals, TrainState
from jaxvae.typing import Array, Key, Params

_CHUNK = 64  # the fewest examples that the evaluator is measured with


@dataclasses.dataclass(frozen=True)
class Subject:
    """A measured unit of work, and the program that it runs."""

    name: str
    what: str  # the description of one repetition, for tables
    unit: str  # the unit of its rate
    num_units: int  # units in one repetition
    run: Run
    program: Callable[..., Any]  # the program that is compiled and analysed
    arguments: tuple[Any, ...]  # the shapes of its arguments
    donated: tuple[int, ...]  # the indices of its donated arguments
    num_programs: float  # executions of the program in one repetition
    products: Counter[str]  # floating-point operations of the products in one repetition, by dtype


def subjects(trainer: Trainer, *, num_importance_samples: int) -> list[Subject]:
    """All subjects of a config, each on data of its training split."""
    session = trainer.new_session()
    batches, x = resident(trainer), _batch(trainer)
    params = session.state.eval_params
    return [
        _train(trainer, session, batches),
        *_bounds(trainer, params, x),
        _evaluate(trainer, params, num_importance_samples),
        _generate(trainer, params),
    ]


def resident(trainer: Trainer) -> Batches:
    """The first epoch's batches on the device, or as many as fit there."""
    experiment = trainer.experiment
    found = feed.make_feed(
        trainer.dataset.train.x,
        trainer.keys.order,
        batch_size=experiment.batch_size,
        memory=trainer.data_memory,
        placement=trainer.placement,
    )
    return found(0)[0]


def training_run(
    trainer: Trainer, advance: Advance, session: Session, batches: Batches, *, dispatch: int | None = None
) -> Run:
    """Training without end, over the same batches again and again.

    Returns:
      `run(n)`: n steps by one call of `advance` or, with `dispatch`, n calls of `dispatch` steps each. `session` is not
      changed.
    """
    state, totals = jax.tree.map(jnp.copy, trainer.placement.put_state((session.state, session.totals)))

    def run(num: int) -> None:
        nonlocal state, totals
        for steps in [num] if dispatch is None else [dispatch] * num:
            state, totals = advance(state, totals, batches, trainer.keys.train, steps)
        jax.block_until_ready(totals)

    return run


def _train(trainer: Trainer, session: Session, batches: Batches) -> Subject:
    experiment, step = trainer.experiment, trainer.make_step()
    fused = training.fusing_pays(experiment.model)

    def one(state: TrainState, totals: Totals, batches: Batches, key: Key) -> tuple[TrainState, Totals]:
        new_state, metrics = step(state, batches.at(state.step), key)
        return new_state, totals.add(metrics, state.step)

    # XLA would count every byte of the whole set, but a step reads one batch.
    looked_into = training.Block(batches.at(session.state.step)[None], session.state.step)
    how = "many per dispatch" if fused else "one per dispatch"
    return _subject(
        "train",
        f"a training step of {experiment.batch_size} images, {how}",
        "images",
        experiment.batch_size,
        training_run(trainer, trainer.make_advance(fused=fused), session, batches),
        one,
        (session.state, session.totals, looked_into, trainer.keys.train),
        donated=(0, 1),
    )


def _bounds(trainer: Trainer, params: Params, x: Array) -> list[Subject]:
    """The objective through its estimator for a preprocessed batch: alone, and with its gradient."""
    experiment, key = trainer.experiment, trainer.keys.train
    objective = experiment.build_objective(trainer.dataset)
    name, objective = type(objective).__name__, objective.at(0, objective.start())

    def bound(params: Params, key: Key, x: Array) -> Array:
        return jnp.mean(experiment.estimator(experiment.model, objective, params, key, x)[0])

    def numbered(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda number, params, key, x: f(params, jax.random.fold_in(key, number), x)

    return [
        _subject(subject, what, "images", len(x), repeated(numbered(f), params, key, x), f, (params, key, x))
        for subject, what, f in (
            ("bound", f"the {name} of {len(x)} images", bound),
            ("gradient", f"the {name} of {len(x)} images, with its gradient", jax.value_and_grad(bound)),
        )
    ]


def _evaluate(trainer: Trainer, params: Params, num_importance_samples: int) -> Subject:
    model = trainer.experiment.model
    x = trainer.dataset.train.x[: max(_CHUNK, _CHUNK**2 // num_importance_samples)]
    at_once, draws = chunk_of(model, x.shape, num_importance_samples)
    key, rows = trainer.keys.evaluate, len(x) * num_importance_samples

    def run(num: int) -> None:
        for _ in range(num):
            trainer.evaluate(params, key, x, num_importance_samples=num_importance_samples)

    def chunk(params: Params, key: Key, q: Any, x: Array) -> Array:
        return model.weigh(params, q, q.sample(key, (draws,)), x).log_weights

    def whole(params: Params, key: Key, x: Array) -> Array:
        return model.evidence(params, key, x, num_samples=num_importance_samples).log_weights

    few = jax.ShapeDtypeStruct((at_once, *x.shape[1:]), jnp.float32)
    subject = _subject(
        "evaluate",
        f"{len(x)} examples with {num_importance_samples:,} importance samples each",
        "rows",
        rows,
        run,
        chunk,
        (params, key, jax.eval_shape(model.encode, params, few), few),
        num_programs=rows / (at_once * draws),
    )
    # Products are counted for all examples, not by the chunk, because the encoder runs once for each example.
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    return dataclasses.replace(subject, products=products(whole, params, key, shape))


def _generate(trainer: Trainer, params: Params) -> Subject:
    model, num, key = trainer.experiment.model, trainer.experiment.batch_size, trainer.keys.figures

    def draw(params: Params, key: Key) -> Array:
        return model.generate(params, key, num=num)

    def numbered(number: Array, params: Params, key: Key) -> Array:
        return draw(params, jax.random.fold_in(key, number))

    what = f"the means of p(x|z) for {num} draws of z from p(z)"
    return _subject("generate", what, "images", num, repeated(numbered, params, key), draw, (params, key))


def _subject(
    name: str,
    what: str,
    unit: str,
    num_units: int,
    run: Run,
    program: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    donated: tuple[int, ...] = (),
    num_programs: float = 1.0,
) -> Subject:
    shapes = jax.eval_shape(lambda *args: args, *arguments)
    counted = products(program, *shapes)
    return Subject(name, what, unit, num_units, run, program, shapes, donated, num_programs, counted)


def _batch(trainer: Trainer) -> Array:
    """The first batch, preprocessed."""
    stored = jnp.asarray(trainer.dataset.train.x[: trainer.experiment.batch_size])
    return trainer.preprocess(trainer.keys.train, stored)
