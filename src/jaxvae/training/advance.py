"""Many training steps in one dispatch, over data on the device, and the sums of their metrics."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.distributions.base import pytree, static
from jaxvae.model import VAE
from jaxvae.training.step import Metrics, TrainState
from jaxvae.typing import Array, Shape


class Totals(NamedTuple):
    """The sums of the metrics over the steps since the last report, and the first step whose metrics are not finite.

    The M metrics are stacked into one array, because each operation has a fixed cost on a CPU. The sums of a long epoch
    are compensated, as in Kahan (1965): float32 alone loses digits of a mean over a hundred thousand steps.
    """

    sums: Array  # [2, M], the sums of the steps' metrics, and by how much rounding made them too large
    num_steps: Array  # (), int32: the number of these steps
    bad_step: Array  # (), int32: the first step with a metric NaN or infinite, or -1
    bad: Array  # [M], the metrics of that step

    @classmethod
    def zero(cls) -> "Totals":
        num = len(Metrics._fields)
        return cls(jnp.zeros((2, num)), jnp.int32(0), jnp.int32(-1), jnp.zeros(num))

    def add(self, metrics: Metrics, step: Array) -> "Totals":
        values = jnp.stack(metrics)
        first = ~jnp.all(jnp.isfinite(values)) & (self.bad_step < 0)
        sums, excess = self.sums
        term = values - excess
        rounded = sums + term
        return Totals(
            jnp.stack([rounded, (rounded - sums) - term]),
            self.num_steps + 1,
            jnp.where(first, step, self.bad_step),
            jnp.where(first, values, self.bad),
        )

    def means(self) -> dict[str, float]:
        """The mean of each metric since the last report."""
        num = max(1, int(self.num_steps))
        sums, excess = np.asarray(self.sums, np.float64)
        return {name: float(total) / num for name, total in zip(Metrics._fields, sums - excess, strict=True)}

    def failure(self) -> str | None:
        """A line that names the first step that was not finite and its terms, or None."""
        step = int(self.bad_step)
        if step < 0:
            return None
        bad = zip(Metrics._fields, np.asarray(self.bad), strict=True)
        terms = {name: float(value) for name, value in bad if not np.isfinite(value)}
        # The other metrics follow from these two terms, so they are named only if both are finite.
        causes: list[str] = [k for k in ("distortion", "rate") if k in terms] or list(terms)
        return f"step {step}: " + " and ".join(f"the {k.replace('_', ' ')} is {terms[k]}" for k in causes)


class Batches(Protocol):
    """The batches of some steps, as a pytree on the device: a whole set, or a stretch of steps."""

    def at(self, step: Array, part: int | Array = 0, num_parts: int = 1) -> Array:
        """[B / num_parts, *event], as stored: one of the equal parts of the batch."""
        ...


@pytree
@dataclasses.dataclass(frozen=True)
class Examples:
    """A set on the device, stored in the way in which its examples are gathered fastest; `examples[indices]` does so.

    Each example is one row, because XLA's CPU backend gathers rows of one axis faster than rows of several axes. On a
    TPU rows are padded to a multiple of its 128 lanes. Otherwise XLA stores each pixel of all examples together there,
    and transposes the whole set in every dispatch; that of images that are not rows, in every step.
    """

    rows: Array  # [N, D], as stored
    event_shape: Shape = static(())

    @classmethod
    def of(cls, x: np.ndarray, put: Callable[[np.ndarray], Array] = jax.device_put) -> "Examples":
        """Places the set x, [N, *event], by `put`."""
        rows = x.reshape(len(x), math.prod(x.shape[1:]))
        beyond = cls._length(x.shape[1:]) - rows.shape[1]
        return cls(put(np.pad(rows, [(0, 0), (0, beyond)]) if beyond else rows), x.shape[1:])

    @classmethod
    def num_bytes(cls, shape: Shape, dtype: np.dtype) -> int:
        """The bytes on the device of a set of this shape, [N, *event], and type."""
        return shape[0] * cls._length(shape[1:]) * dtype.itemsize

    @staticmethod
    def _length(event_shape: Shape) -> int:
        lanes = 128 if jax.default_backend() == "tpu" else 1
        return -(-math.prod(event_shape) // lanes) * lanes

    def __getitem__(self, indices: Array) -> Array:
        found = self.rows[indices][..., : math.prod(self.event_shape)]
        return found.reshape(*indices.shape, *self.event_shape)


class Resident(NamedTuple):
    """A whole set on the device, and the order of this epoch."""

    x: Examples
    order: Array  # [S, B], int32: the rows of each step of the epoch

    def at(self, step: Array, part: int | Array = 0, num_parts: int = 1) -> Array:
        return self.x[_part(self.order[step % self.order.shape[0]], part, num_parts)]


class Block(NamedTuple):
    """The batches of a stretch of steps."""

    x: Array  # [S, B, *event], as stored
    first: Array  # (), int32: the step of the first batch

    def at(self, step: Array, part: int | Array = 0, num_parts: int = 1) -> Array:
        return _part(self.x[step - self.first], part, num_parts)


def _part(batch: Array, part: int | Array, num_parts: int) -> Array:
    return batch if num_parts == 1 else batch.reshape(num_parts, -1, *batch.shape[1:])[part]


_jit_donating = partial(jax.jit, donate_argnums=(0, 1))

Advance = Callable[[TrainState, Totals, Any, Any, int], tuple[TrainState, Totals]]


def make_advance(
    step: Callable[[TrainState, Array, Any], tuple[TrainState, Metrics]],
    *,
    fused: bool,
    constrain: Callable[[TrainState], TrainState] = lambda state: state,
    axis_name: str | None = None,
    transform: Callable[..., Any] = _jit_donating,
) -> Advance:
    """Makes a function that takes many steps over data on the device, without waiting for the host in between.

    Args:
      step: a step of `make_train_step`, or one that takes another pytree instead of its key.
      fused: whether all steps are one dispatch (a loop on the device) or one dispatch each. The results are the same.
      constrain: applied to the state after each step, to keep its placement on devices.
      axis_name: the step's axis, if it has one; each device on the axis takes its own part of the batch.
      transform: compiles a pure function; `jax.pmap` if there is such an axis.

    Returns:
      `advance(state, totals, batches, key, num_steps) -> (state, totals)`; by default it donates `state` and `totals`.
      `batches` is `Resident` or `Block`, and holds the batches of all these steps.
    """

    def one(state: TrainState, totals: Totals, batches: Batches, key: Any) -> tuple[TrainState, Totals]:
        mine = () if axis_name is None else (jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name))
        new_state, metrics = step(state, batches.at(state.step, *mine), key)
        return constrain(new_state), totals.add(metrics, state.step)

    def many(
        state: TrainState, totals: Totals, batches: Batches, key: Any, num_steps: Array
    ) -> tuple[TrainState, Totals]:
        def body(_: Array, carry: tuple[TrainState, Totals]) -> tuple[TrainState, Totals]:
            return one(carry[0], carry[1], batches, key)

        return jax.lax.fori_loop(0, num_steps, body, (state, totals))

    compiled_one, compiled_many = transform(one), transform(many)

    def one_by_one(
        state: TrainState, totals: Totals, batches: Batches, key: Any, num_steps: int
    ) -> tuple[TrainState, Totals]:
        for _ in range(num_steps):
            state, totals = compiled_one(state, totals, batches, key)
        return state, totals

    return compiled_many if fused else one_by_one


def fusing_pays(model: VAE) -> bool:
    """Whether many steps in one dispatch are faster than one each: not for XLA's convolutions on a CPU.

    XLA's CPU backend runs a convolution inside a loop on a slow path, while dense networks gain. `ConvEncoder` and
    `ConvDecoder` use matrix products there instead of XLA's convolutions.
    """
    if jax.default_backend() != "cpu":
        return True
    x = jax.ShapeDtypeStruct((1, *(model.event_shape or ())), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda p, x: model.evidence(p, jax.random.key(0), x).log_weights)(model.param_shapes(), x)
    return "conv_general_dilated" not in str(jaxpr)
