"""Training: a state, a jitted step, and many steps in one dispatch. Pure functions of `(state, batch, key)`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae.estimators import Estimator, Pathwise
from jaxvae.model import VAE
from jaxvae.numerics import global_norm, require
from jaxvae.objectives import Adaptive, Objective
from jaxvae.typing import Array, Key, Params, Preprocessing


class TrainState(NamedTuple):
    """What one step hands to the next."""

    step: Array  # (), int32: steps taken
    params: Params
    opt_state: Any  # optax's
    ema: Params | None  # an exponential moving average of `params`, if asked for
    adaptation: Any = None  # of an objective that follows from what training has seen

    @classmethod
    def create(
        cls,
        params: Params,
        optimizer: optax.GradientTransformation,
        *,
        ema: bool = False,
        objective: Objective | None = None,
    ) -> "TrainState":
        """The state before the first step. It holds copies: a step donates its state, never what the caller keeps.

        Args:
          params: the model's.
          optimizer: that of the step.
          ema: whether the parameters are averaged.
          objective: that of the step, where it is an adaptive one.
        """

        def copy() -> Params:
            return jax.tree.map(jnp.copy, params)

        adaptation = objective.start() if isinstance(objective, Adaptive) else None
        return cls(jnp.int32(0), copy(), optimizer.init(params), copy() if ema else None, adaptation)

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate and to use: the average where there is one."""
        return self.params if self.ema is None else self.ema


class Metrics(NamedTuple):
    """What one step says of its batch: means over the examples, in nats."""

    loss: Array  # (), minus the objective, with the β of this step
    elbo: Array  # (), -(distortion + rate): unit weights, whatever the objective
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
    """One step of gradient ascent on an objective, jitted; it donates its state.

    Args:
      model: the model, with its `event_shape`.
      objective: what is maximised, averaged over the batch.
      optimizer: any optax optimizer.
      estimator: how the gradient reaches the parameters of q(z|x).
      preprocess: `(key, stored [B, *event]) -> [B, *event]`, from what the batch holds to what the likelihood takes;
        None: it holds that.
      ema_decay: the decay of the average of the parameters; the state must have been created with `ema=True`.
      num_parts: into how many equal parts the batch is cut, each with draws of its own. Their gradients are averaged,
        one part in memory at a time (gradient accumulation).
      axis_name: the axis of an enclosing `jax.pmap` (or `shard_map`), whose devices share the parts evenly: each is
        given its own rows of the batch, in order, and the numbers are those of one device with as many parts.

    Returns:
      `step(state, batch, key) -> (state, metrics)`, where `batch` is [B, *event]. The key is the same at every step:
      the step folds `state.step` into it. How a batch is placed on devices changes no number but by rounding.

    Raises:
      ValueError: `ema_decay` is not in [0, 1), the estimator is none of this objective's, or one of the arguments is
      something else; on the first call, the state has no average, or the batch can't be cut into such parts.
    """
    for name, value in (("objective", objective), ("estimator", estimator)):
        called = getattr(value, "__name__", "")
        require(not isinstance(value, type), f"{name} is the class {called}; write {called}()")
    require(
        hasattr(optimizer, "update"),
        f"optimizer is {type(optimizer).__name__}(...), which is none of optax's; write optax.adam(1e-3), say",
    )
    estimator.check(objective, model.posterior)
    require(ema_decay is None or 0 <= ema_decay < 1, f"ema_decay is {ema_decay}; write a number in [0, 1), or None")
    require(num_parts >= 1, f"num_parts is {num_parts}; write a whole number of at least 1")

    def loss_fn(params: Params, keys: _StepKeys, stored: Array, objective: Objective) -> tuple[Array, _Terms]:
        batch = stored if preprocess is None else preprocess(keys.preprocess, stored)
        bound, evidence = estimator(model, objective, params, keys.step, batch)
        return -jnp.mean(bound), (jnp.mean(evidence.distortion), jnp.mean(evidence.rate))

    def of_part(params: Params, keys: _StepKeys, stored: Array, objective: Objective) -> tuple[_Terms, Params]:
        (loss, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, keys, stored, objective)
        return (loss, *terms), grads

    def of_batch(params: Params, keys: _StepKeys, stored: Array, objective: Objective) -> tuple[_Terms, Params]:
        if num_parts == 1 and axis_name is None:
            return of_part(params, keys, stored, objective)
        num_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        require(
            num_parts % num_devices == 0 and stored.shape[0] * num_devices % num_parts == 0,
            f"a batch of {stored.shape[0] * num_devices} examples can't be cut into {num_parts} equal parts on "
            f"{num_devices} devices; write a num_parts that divides the batch and is a multiple of the devices",
        )
        mine = num_parts // num_devices
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * mine

        def add(sums: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
            i, rows = part
            its = _StepKeys(*(None if key is None else jax.random.fold_in(key, first + i) for key in keys))
            return jax.tree.map(jnp.add, sums, of_part(params, its, rows, objective)), None

        parts = stored.reshape(mine, -1, *stored.shape[1:])
        shapes = jax.eval_shape(lambda: of_part(params, keys, parts[0], objective))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        sums, _ = jax.lax.scan(add, zeros, (jnp.arange(mine), parts))
        means = jax.tree.map(lambda total: total / mine, sums)
        return means if axis_name is None else jax.lax.pmean(means, axis_name)

    def train_step(state: TrainState, batch: Array, key: Key) -> tuple[TrainState, Metrics]:
        require(
            (state.ema is None) == (ema_decay is None),
            "an average needs both TrainState.create(..., ema=True) and make_train_step(..., ema_decay=...)",
        )
        now, adaptation = objective.at(state.step), state.adaptation
        if isinstance(now, Adaptive):
            require(
                adaptation is not None,
                f"{type(now).__name__} adapts itself; write TrainState.create(..., objective=objective)",
            )
            now = now.given(adaptation)
        keys = _StepKeys(None, key) if preprocess is None else _StepKeys(*jax.random.split(key))
        keys = _StepKeys(*(None if k is None else jax.random.fold_in(k, state.step) for k in keys))
        (loss, distortion, rate), grads = of_batch(state.params, keys, batch, now)
        if isinstance(objective, Adaptive):
            adaptation = objective.adapt(adaptation, distortion, rate)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if ema_decay is None else optax.incremental_update(params, state.ema, 1.0 - ema_decay)
        metrics = Metrics(loss, -(distortion + rate), distortion, rate, global_norm(grads))
        return TrainState(state.step + 1, params, opt_state, ema, adaptation), metrics

    return jax.jit(train_step, donate_argnums=0)


_Terms = tuple[Array, ...]  # scalars: means over the examples


class _StepKeys(NamedTuple):
    preprocess: Key | None
    step: Key


class Totals(NamedTuple):
    """What the steps since the last report add up to, and the first of them that was not finite.

    The M metrics are one array here: on a CPU, each operation has a price, however small it is.
    """

    sums: Array  # [M], the sums of the steps' metrics
    num_steps: Array  # (), int32: how many they are
    bad_step: Array  # (), int32: the first step with a metric NaN or infinite, or -1
    bad: Array  # [M], the metrics of that step

    @classmethod
    def zero(cls) -> "Totals":
        def zeros() -> Array:  # each its own buffer: they are donated
            return jnp.zeros(len(Metrics._fields))

        return cls(zeros(), jnp.int32(0), jnp.int32(-1), zeros())

    def add(self, metrics: Metrics, step: Array) -> "Totals":
        values = jnp.stack(metrics)
        first = ~jnp.all(jnp.isfinite(values)) & (self.bad_step < 0)
        return Totals(
            self.sums + values,
            self.num_steps + 1,
            jnp.where(first, step, self.bad_step),
            jnp.where(first, values, self.bad),
        )

    def means(self) -> dict[str, float]:
        """The mean of each metric since the last report."""
        num = max(1, int(self.num_steps))
        return {name: float(total) / num for name, total in zip(Metrics._fields, np.asarray(self.sums), strict=True)}

    def failure(self) -> str | None:
        """A line that names the step and the terms that were not finite, or None."""
        step = int(self.bad_step)
        if step < 0:
            return None
        bad = zip(Metrics._fields, np.asarray(self.bad), strict=True)
        terms = {name: float(value) for name, value in bad if not np.isfinite(value)}
        # The sums follow from the two terms: they are named only where nothing smaller is to blame.
        causes: list[str] = [k for k in ("distortion", "rate") if k in terms] or list(terms)
        return f"step {step}: " + " and ".join(f"the {k.replace('_', ' ')} is {terms[k]}" for k in causes)


class Batches(Protocol):
    """The batches of some steps, as a pytree: on the device, whole or as a stretch of the epoch."""

    def at(self, step: Array, part: int | Array = 0, num_parts: int = 1) -> Array:
        """[B / num_parts, *event], as stored: one of the equal parts of the batch."""
        ...


class Resident(NamedTuple):
    """A set that lies on the device whole, and the order of this epoch."""

    x: Array  # [N, *event], as stored
    order: Array  # [S, B], int32: the rows of each step of the epoch

    def at(self, step: Array, part: int | Array = 0, num_parts: int = 1) -> Array:
        rows = _part(self.order[step % self.order.shape[0]], part, num_parts)
        # XLA's CPU backend copies a row of one axis three times as fast as one of several.
        return self.x.reshape(self.x.shape[0], -1)[rows].reshape(*rows.shape, *self.x.shape[1:])


class Block(NamedTuple):
    """The batches of a stretch of steps."""

    x: Array  # [S, B, *event], as stored
    first: Array  # (), int32: the step that the first of them is for

    def at(self, step: Array, part: int | Array = 0, num_parts: int = 1) -> Array:
        return _part(self.x[step - self.first], part, num_parts)


def _part(batch: Array, part: int | Array, num_parts: int) -> Array:
    return batch if num_parts == 1 else batch.reshape(num_parts, -1, *batch.shape[1:])[part]


_jit_donating = partial(jax.jit, donate_argnums=(0, 1))

Advance = Callable[[TrainState, Totals, Any, Key, int], tuple[TrainState, Totals]]


def make_advance(
    step: TrainStep,
    *,
    fused: bool,
    constrain: Callable[[TrainState], TrainState] = lambda state: state,
    axis_name: str | None = None,
    transform: Callable[..., Any] = _jit_donating,
) -> Advance:
    """Many steps over data that lies on the device, with no word to the host in between.

    Args:
      step: a step of `make_train_step`.
      fused: whether the steps are one dispatch (a loop on the device) or one each. The numbers are the same.
      constrain: is applied to the state after each step, to hold its placement on devices.
      axis_name: that of the step, if it has one; each of the axis's devices takes its own part of the batch.
      transform: makes a compiled function of a pure one; `jax.pmap` where there is such an axis.

    Returns:
      `advance(state, totals, batches, key, num_steps) -> (state, totals)`; by default it donates `state` and `totals`.
      `batches` is `Resident` or `Block`, and has those of all these steps.
    """

    def one(state: TrainState, totals: Totals, batches: Batches, key: Key) -> tuple[TrainState, Totals]:
        mine = () if axis_name is None else (jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name))
        new_state, metrics = step(state, batches.at(state.step, *mine), key)
        return constrain(new_state), totals.add(metrics, state.step)

    def many(
        state: TrainState, totals: Totals, batches: Batches, key: Key, num_steps: Array
    ) -> tuple[TrainState, Totals]:
        def body(_: Array, carry: tuple[TrainState, Totals]) -> tuple[TrainState, Totals]:
            return one(carry[0], carry[1], batches, key)

        return jax.lax.fori_loop(0, num_steps, body, (state, totals))

    compiled_one, compiled_many = transform(one), transform(many)

    def one_by_one(
        state: TrainState, totals: Totals, batches: Batches, key: Key, num_steps: int
    ) -> tuple[TrainState, Totals]:
        for _ in range(num_steps):
            state, totals = compiled_one(state, totals, batches, key)
        return state, totals

    return compiled_many if fused else one_by_one


def fusing_pays(model: VAE, params: Params) -> bool:
    """Whether many steps in one dispatch are faster than one each: not with XLA's own convolutions on a CPU.

    XLA's CPU backend runs one inside a loop on a slow path (measured: 10 times slower steps). Dense networks gain 10 to
    25 %. `ConvEncoder` and `ConvDecoder` have none of XLA's there, but products.
    """
    if jax.default_backend() != "cpu":
        return True
    x = jax.ShapeDtypeStruct((1, *(model.event_shape or ())), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda p, x: model.evidence(p, jax.random.key(0), x).log_weights)(params, x)
    return "conv_general_dilated" not in str(jaxpr)
