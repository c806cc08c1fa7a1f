"""One training step: a pure function of `(state, batch, key)`."""

import numbers
from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxvae.checks import require, require_kind
from jaxvae.estimators import Estimator, Pathwise
from jaxvae.model import VAE
from jaxvae.numerics import flat_on_tpu, global_norm
from jaxvae.objectives import Objective
from jaxvae.typing import Array, Key, Params, Preprocessing


class TrainState(NamedTuple):
    """The state that one training step passes to the next."""

    step: Array  # (), int32: steps taken
    params: Params
    opt_state: Any  # optax's
    ema: Params | None  # an exponential moving average of `params`, if asked for
    adaptation: Any = None  # the state of an objective that adapts during training

    @classmethod
    def create(
        cls,
        params: Params,
        optimizer: optax.GradientTransformation,
        *,
        ema: bool = False,
        objective: Objective | None = None,
    ) -> "TrainState":
        """The state before the first step. It holds copies, so that donating it leaves the caller's arrays intact.

        Args:
          params: the model's parameters.
          optimizer: the step's optimizer.
          ema: whether the parameters are averaged.
          objective: the step's objective; needed only if it adapts during training, as `GECO` does.

        Raises:
          ValueError: `optimizer` is not an optax optimizer.
        """

        def copy(tree: Any) -> Any:
            return jax.tree.map(jnp.copy, tree)

        _require_optax(optimizer)
        adaptation = None if objective is None else objective.start()
        # Copied, because some optimizers keep the given parameters themselves, or one array twice.
        opt_state = copy(optimizer.init(_without_units(params)))
        return cls(jnp.int32(0), copy(params), opt_state, copy(params) if ema else None, adaptation)

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate and to use: their average if there is one."""
        return self.params if self.ema is None else self.ema


class Metrics(NamedTuple):
    """The metrics of one step: means over the batch, in nats."""

    loss: Array  # (), minus the objective, with the β of this step
    elbo: Array  # (), -(distortion + rate), with unit weights whatever the objective
    distortion: Array  # (), -E_q[log p(x|z)], the reconstruction term
    rate: Array  # (), KL(q(z|x) || p(z))
    grad_norm: Array  # (), the global norm of the gradient before any clipping


class TrainStep(Protocol):
    def __call__(self, state: TrainState, batch: Array, key: Key) -> tuple[TrainState, Metrics]: ...


def make_train_step(
    model: VAE,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator = Pathwise(),
    preprocess: Preprocessing | None = None,
    ema_decay: float | None = None,
    num_parts: int = 1,
    axis_name: str | None = None,
) -> TrainStep:
    """Makes a jitted step of gradient ascent on an objective; the step donates its state.

    Args:
      model: the model, with its `event_shape`.
      objective: what is maximised, averaged over the batch.
      optimizer: any optax optimizer that needs no more than the gradient and, as `value`, the loss (a line search, such
        as that of L-BFGS, needs more).
      estimator: how the gradient reaches the parameters of q(z|x).
      preprocess: `(key, stored [B, *event]) -> [B, *event]`, from the batch to what the likelihood takes; None: the
        batch is what it takes. The step can't check the values: outside the likelihood's support its numbers have no
        meaning (an evaluator refuses them).
      ema_decay: the decay of the average of the parameters; the state must have been created with `ema=True`.
      num_parts: the number of equal parts into which the batch is cut, each with its own draws. Their gradients are
        averaged, with one part in memory at a time (gradient accumulation).
      axis_name: the axis of an enclosing `jax.pmap` (or `shard_map`), whose devices share the parts evenly. Each gets
        the whole state and its own rows of the batch, in order; the results are those of one device with as many parts.

    Returns:
      `step(state, batch, key) -> (state, metrics)`, where `batch` is [B, *event]. The key is the same at every step:
      the step folds `state.step` into it. The placement of a batch on devices changes results only by rounding.

    Raises:
      ValueError: `ema_decay` is not in [0, 1), the estimator does not fit the objective, or another argument is
        invalid; on the first call, the state has no average or is another optimizer's, the batch is no array, is empty
        or can't be cut into these parts, or `preprocess` or the objective does not give one event or one number for
        each example.
    """
    require_kind("model", model, VAE, "a VAE")
    require_kind("objective", objective, Objective, "an Objective, such as ELBO()")
    require_kind("estimator", estimator, Estimator, "an Estimator, such as Pathwise()")
    _require_optax(optimizer)
    estimator.check(objective, model.posterior)
    require(ema_decay is None or 0 <= ema_decay < 1, f"ema_decay is {ema_decay}; write a number in [0, 1), or None")
    whole = isinstance(num_parts, numbers.Integral) and not isinstance(num_parts, bool)
    require(whole and num_parts >= 1, f"num_parts is {num_parts}; write a whole number of at least 1")
    bound = preprocess is None or not hasattr(preprocess, "bind") or "high" not in signature(preprocess).parameters
    require(bound, f"preprocess is {preprocess!r}; write its .bind(dataset.values)")

    def loss_fn(params: Params, keys: _StepKeys, stored: Array, objective: Objective) -> tuple[Array, _Terms]:
        batch = stored if preprocess is None else preprocess(keys.preprocess, stored)
        require(
            batch.shape[:1] == stored.shape[:1],
            f"preprocess makes the shape {batch.shape} of {stored.shape[0]} examples; write one event for each",
        )
        # The barrier makes XLA compute the batch once. Without it, every fusion that reads the batch would gather and
        # preprocess it again, entry by entry. What it keeps is flat, because a TPU would store images padded.
        batch = jax.lax.optimization_barrier(flat_on_tpu(batch, batch.ndim - 1)).reshape(batch.shape)
        bound, evidence = estimator(model, objective, params, keys.step, batch)
        require(
            bound.shape == batch.shape[:1],
            f"{type(objective).__name__} gives the shape {bound.shape} for {len(batch)} examples; write one number for "
            f"each, ({len(batch)},)",
        )
        return -jnp.mean(bound), (jnp.mean(evidence.distortion), jnp.mean(evidence.rate))

    def of_part(params: Params, keys: _StepKeys, stored: Array, objective: Objective) -> tuple[_Terms, Params]:
        (loss, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, keys, stored, objective)
        return (loss, *terms), grads

    alone = num_parts == 1 and axis_name is None
    of_batch = of_part if alone else _mean_over_parts(of_part, num_parts=num_parts, axis_name=axis_name)

    def train_step(state: TrainState, batch: Array, key: Key) -> tuple[TrainState, Metrics]:
        _check_state(state, optimizer, averages=ema_decay is not None)
        _check_batch(batch)
        now = objective.at(state.step, state.adaptation)
        keys = _StepKeys(None, key) if preprocess is None else _StepKeys(*jax.random.split(key))
        keys = _StepKeys(*(None if k is None else jax.random.fold_in(k, state.step) for k in keys))
        (loss, distortion, rate), grads = of_batch(state.params, keys, batch, now)
        adaptation = objective.adapt(state.adaptation, distortion, rate)
        updates, opt_state = _update(optimizer, grads, state.opt_state, _without_units(state.params), loss)
        params = optax.apply_updates(state.params, _without_units(updates))
        ema = None if ema_decay is None else optax.incremental_update(params, state.ema, 1.0 - ema_decay)
        metrics = Metrics(loss, -(distortion + rate), distortion, rate, global_norm(grads))
        return TrainState(state.step + 1, params, opt_state, ema, adaptation), metrics

    return jax.jit(train_step, donate_argnums=0)


def _require_optax(optimizer: object) -> None:
    require(
        hasattr(optimizer, "update"),
        f"optimizer is {type(optimizer).__name__}(...), which is not one of optax's; write optax.adam(1e-3), say",
    )


def _check_state(state: TrainState, optimizer: optax.GradientTransformation, *, averages: bool) -> None:
    require(
        isinstance(state, TrainState),
        f"the state is a {type(state).__name__}; write TrainState.create(params, optimizer)",
    )
    require(
        (state.ema is not None) == averages,
        "an average needs both TrainState.create(..., ema=True) and make_train_step(..., ema_decay=...)",
    )
    its: Any = jax.tree.structure(jax.eval_shape(optimizer.init, state.params))
    require(
        its == jax.tree.structure(state.opt_state),
        "the state is not this optimizer's (a schedule is part of it); write TrainState.create(params, optimizer) with "
        "the optimizer of the step",
    )


def _check_batch(batch: Array) -> None:
    require(
        hasattr(batch, "shape") and len(batch.shape) > 0,
        f"the batch is a {type(batch).__name__} without axes; write step(state, batch, key), with an array [B, *event]",
    )
    require(batch.shape[0] > 0, f"the batch has the shape {batch.shape}; write one or more examples")


def _update(
    optimizer: optax.GradientTransformation, grads: Params, opt_state: Any, params: Params, loss: Array
) -> tuple[Params, Any]:
    try:
        return optax.with_extra_args_support(optimizer).update(grads, opt_state, params, value=loss)
    except TypeError as error:
        if "unexpected keyword argument 'value'" not in str(error):  # some of optax's take arguments, but not this one
            raise
        return optimizer.update(grads, opt_state, params)


def _without_units(params: Params) -> Params:
    """`params` with the data's units set to zero, so that the optimizer neither moves nor counts them in a norm."""

    def of_model(path: tuple[Any, ...], leaf: Array) -> Array:
        is_unit = [getattr(step, "key", None) for step in path[:2]] == ["likelihood", "units"]
        return jnp.zeros_like(leaf) if is_unit else leaf

    return jax.tree_util.tree_map_with_path(of_model, params)


_Terms = tuple[Array, ...]  # scalars: means over the examples


class _StepKeys(NamedTuple):
    preprocess: Key | None
    step: Key


def _of_each_device(tree: Any, axis_name: str) -> Any:
    """The same arrays, marked as each device's own where `jax.shard_map` tells them from those of all devices."""
    if axis_name not in jax.sharding.get_abstract_mesh().manual_axes:  # of `jax.vmap`
        return tree
    return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), tree)


_Gradient = Callable[[Params, _StepKeys, Array, Objective], tuple[_Terms, Params]]


def _mean_over_parts(of_part: _Gradient, *, num_parts: int, axis_name: str | None) -> _Gradient:
    """Averages terms and gradients over the parts of a batch, one in memory at a time; see `make_train_step`."""

    def of_batch(params: Params, keys: _StepKeys, stored: Array, objective: Objective) -> tuple[_Terms, Params]:
        num_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        require(
            num_parts % num_devices == 0 and stored.shape[0] * num_devices % num_parts == 0,
            f"a batch of {stored.shape[0] * num_devices} examples can't be cut into {num_parts} equal parts on "
            f"{num_devices} devices; write a num_parts that divides the batch and is a multiple of the devices",
        )
        if axis_name is not None:  # else each device's gradient would be the sum over all of them
            params = _of_each_device(params, axis_name)
        mine = num_parts // num_devices
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * mine

        def add(sums: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
            i, rows = part
            its = _StepKeys(*(None if key is None else jax.random.fold_in(key, first + i) for key in keys))
            return jax.tree.map(jnp.add, sums, of_part(params, its, rows, objective)), None

        parts = stored.reshape(mine, -1, *stored.shape[1:])
        shapes = jax.eval_shape(lambda: of_part(params, keys, parts[0], objective))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        if axis_name is not None:
            zeros = _of_each_device(zeros, axis_name)
        sums, _ = jax.lax.scan(add, zeros, (jnp.arange(mine), parts))
        means = jax.tree.map(lambda total: total / mine, sums)
        return means if axis_name is None else jax.lax.pmean(means, axis_name)

    return of_batch
