"""Array functions that do not depend on a model: scans, sums, bisection, and numerically stable densities."""

import math
from collections.abc import Callable
from functools import partial, reduce
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxvae.typing import Array, Compute, Tick

# exp(30) squared is still far from float32's largest number, so that Adam's second moment survives the gradient
# of a variance at the bound; exp(50) squared is not.
_LOG_VAR_BOUND = 30.0


def scan_in_dispatches(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, *, at_once: int, tick: Tick
) -> tuple[Any, Any]:
    """Runs `jax.lax.scan` in dispatches of `at_once` steps. Waits for each and reports its steps to `tick`.

    Returns:
      The last carry, and the outputs of all steps as NumPy arrays.
    """
    scan = jax.jit(lambda carry, xs: jax.lax.scan(step, carry, xs))
    num, parts = len(jax.tree.leaves(xs)[0]), []
    for start in range(0, num, at_once):
        these = jax.tree.map(itemgetter(slice(start, start + at_once)), xs)
        carry, part = jax.block_until_ready(scan(carry, these))
        parts.append(part)
        tick(min(at_once, num - start))
    return carry, jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


_MOST_AT_ONCE, _PART = 2048, 1024


def sum_last(x: Array, ndims: int) -> Array:
    """Sums over the last `ndims` axes: [*batch, *event] -> [*batch].

    The sum is a product with ones: XLA's CPU backend fuses a plain sum with the computation of its input, and that path
    is slow. Large events are summed in parts first, since one running sum has a large and one-sided rounding error.
    """
    flat = _flat(x, ndims)
    if flat.shape[-1] > _MOST_AT_ONCE:
        # The remainder is summed separately: with padding, everything would be computed without vectorization.
        whole = flat.shape[-1] // _PART * _PART
        parts = sum_last(flat[..., :whole].reshape(*flat.shape[:-1], whole // _PART, _PART), 1)
        return sum_last(parts, 1) + sum_last(flat[..., whole:], 1)
    return jnp.matmul(flat, jnp.ones(flat.shape[-1], flat.dtype), precision=jax.lax.Precision.HIGHEST)


def flat_on_tpu(x: Array, ndims: int) -> Array:
    """x with its last `ndims` axes as one if the backend is a TPU, else unchanged.

    A TPU stores the last two axes of an array in padded tiles, so that it moves numbers to change a shape, as between
    the outputs of a network and images. XLA leaves out reshapes that undo each other. On a CPU reshapes are free, and
    XLA fuses flat events into slower programs.
    """
    return _flat(x, ndims) if jax.default_backend() == "tpu" else x


def _flat(x: Array, ndims: int) -> Array:
    kept = x.ndim - ndims
    return x.reshape(*x.shape[:kept], math.prod(x.shape[kept:]))


def aligned(*arrays: Array) -> tuple[Array, ...]:
    """Casts to one floating type of 32 bits or more, and adds leading axes of 1 until all have the same rank.

    A sum over pixels in bfloat16 is too inaccurate to report, and JAX can be set to refuse operands of different ranks.
    """
    dtype = jnp.result_type(jnp.float32, *arrays)
    ndim = max(jnp.ndim(a) for a in arrays)
    return tuple(jnp.asarray(a, dtype)[(None,) * (ndim - jnp.ndim(a))] for a in arrays)


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all the numbers in a pytree of arrays."""
    return jnp.sqrt(sum((_sum_of_squares(leaf) for leaf in jax.tree.leaves(tree)), jnp.float32(0.0)))


def _sum_of_squares(x: Array) -> Array:
    """Sums along rows by products on a CPU, where these are faster than a plain sum.

    The barrier keeps them products: XLA may otherwise fuse a matrix-vector product into the computation of its matrix,
    and run that without vectorization (jax 0.12 does). Elsewhere XLA fuses a plain sum into the optimizer's update.
    """
    square = jnp.square(*aligned(x))
    if jax.default_backend() != "cpu":
        return jnp.sum(square)
    return jnp.sum(sum_last(jax.lax.optimization_barrier(square), min(1, x.ndim)))


def all_finite(tree: Any) -> Array:
    """Whether no number in a pytree of arrays is NaN or infinite."""
    whole = (jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree))
    return reduce(jnp.logical_and, whole, jnp.bool_(True))


def product(x: Array, w: Array, compute: Compute = "float32") -> Array:
    """x @ w for x [..., A] and w [A, B]: operands rounded to `compute`, sums in float32; likewise in the gradient.

    With bfloat16 there is no forward-mode derivative.
    """
    # The gradient of inputs that are not float32 (integers, doubles) passes through this conversion.
    return x @ w if compute == "float32" else _bfloat16_product(x.astype(jnp.float32), w.astype(jnp.float32))


@jax.custom_vjp
def _bfloat16_product(x: Array, w: Array) -> Array:
    return _bfloat16_product_fwd(x, w)[0]


def _bfloat16_product_fwd(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    operands = rounded(x), rounded(w)
    return _float32_sums(*operands), operands


def _bfloat16_product_bwd(operands: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = operands
    g = rounded(g)
    rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return _float32_sums(g, w.T), _float32_sums(rows[0].T, rows[1])


def rounded(a: Array) -> Array:
    """`a` in bfloat16."""
    # XLA may remove a conversion to 16 bits and back, but not `reduce_precision`.
    return jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)


def _float32_sums(x: Array, w: Array) -> Array:
    if jax.default_backend() == "cpu":  # its 16-bit products fail at run time in some layouts
        x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


_bfloat16_product.defvjp(_bfloat16_product_fwd, _bfloat16_product_bwd)


def bisect(too_low: Callable[[Array], Array], low: Array, high: Array, *, num_halvings: int = 40) -> Array:
    """Finds, elementwise, the point between `low` and `high` up to which `too_low` is true. It has no gradient."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        less = too_low(middle)
        return jnp.where(less, middle, low), jnp.where(less, high, middle)

    low, high = jax.lax.fori_loop(0, num_halvings, halve, jax.lax.stop_gradient((low, high)))
    return jax.lax.stop_gradient(0.5 * (low + high))


def log_mean_exp(x: Array, axis: int = 0) -> Array:
    """log(mean(exp(x))) along `axis`, finite wherever the result is."""
    (x,) = aligned(x)
    return jax.nn.logsumexp(x, axis=axis) - jnp.log(jnp.asarray(x.shape[axis], x.dtype))


def log_power_mean(x: Array, power: float) -> Array:
    """log(mean(exp(power · x))) / power along the first axis; accurate near a power of 0, whose limit is mean(x)."""
    largest = jnp.max(x, axis=0)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    scaled = power * (x - largest[None])
    near = jnp.max(jnp.abs(scaled), axis=0) < 0.5
    series = jnp.log1p(jnp.mean(jnp.expm1(jnp.where(near[None], scaled, 0.0)), axis=0))
    return largest + jnp.where(near, series, log_mean_exp(scaled)) / power


def magnitude(x: Array) -> Array:
    """|x| with the derivative 0 at 0, where `jnp.abs` has 1."""
    return jnp.where(x == 0.0, 0.0, jnp.abs(x))


def normal_log_density(mean: Array, log_var: Array, x: Array) -> Array:
    """log N(x; mean, exp(log_var)), elementwise, with its constant."""
    return -0.5 * (math.log(2 * math.pi) + log_var + jnp.square((x - mean) * jnp.exp(-0.5 * log_var)))


def normal_kl(q_mean: Array, q_log_var: Array, p_mean: Array, p_log_var: Array) -> Array:
    """KL of N(q_mean, exp(q_log_var)) from N(p_mean, exp(p_log_var)), elementwise, never negative."""
    log_ratio = q_log_var - p_log_var
    # expm1 keeps the digits that exp(v) - 1 - v loses where the two variances are close.
    excess = not_negative(jnp.expm1(log_ratio) - log_ratio)
    return 0.5 * (excess + jnp.square(q_mean - p_mean) * jnp.exp(-p_log_var))


def bernoulli_log_mass(logits: Array, x: Array) -> Array:
    """x log σ(logits) + (1 - x) log σ(-logits), elementwise; exact for logits of any size."""
    # Large terms cancel exactly here; in x · logits - softplus(logits) they would not. At 0 both kinks take their
    # derivative from the same side, so these cancel too; those of jnp.maximum and jnp.abs would not.
    positive = logits > 0.0
    of_large = x * logits - jnp.where(positive, logits, 0.0)
    return of_large - jnp.log1p(jnp.exp(jnp.where(positive, -logits, logits)))


# log(1 + e^-|l|) takes longer than everything else done with a logit. The log of a product of 14 factors 1 + e^-|l|,
# each between 1 and 2, is as exact as the sum of their logs, and takes one log.
_FACTORS = 14


def bernoulli_log_mass_sum(logits: Array, x: Array, ndims: int) -> Array:
    """`bernoulli_log_mass` summed over the last `ndims` axes: [*batch, *event] -> [*batch].

    Evaluated without a derivative it takes two thirds of the time of that sum. Each entry adds an absolute error of up
    to 1e-7, which is less than the error of the sum. Events of fewer than 14 entries are summed directly.
    """
    num_batch_axes = logits.ndim - ndims
    logits, x = flat_on_tpu(logits, ndims), flat_on_tpu(x, ndims)
    return _bernoulli_log_mass_sum(logits, x, logits.ndim - num_batch_axes)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _bernoulli_log_mass_sum(logits: Array, x: Array, ndims: int) -> Array:
    logits, x = _flat(logits, ndims), _flat(x, ndims)
    width = logits.shape[-1] // _FACTORS
    linear, factors = jnp.float32(0.0), jnp.float32(1.0)
    for start in range(0, _FACTORS * width, width or 1):  # contiguous slices, in one pass over memory
        part, of_x = logits[..., start : start + width], x[..., start : start + width]
        linear = linear + (of_x * part - jnp.maximum(part, 0.0))
        factors = factors * (1.0 + jnp.exp(-jnp.abs(part)))
    rest = slice(_FACTORS * width, None)
    tail = sum_last(bernoulli_log_mass(logits[..., rest], x[..., rest]), 1)
    return tail if width == 0 else sum_last(linear - jnp.log(factors), 1) + tail


@partial(_bernoulli_log_mass_sum.defjvp, symbolic_zeros=True)
def _(ndims: int, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (logits, x), (d_logits, d_x) = primals, tangents
    terms = []
    if not isinstance(d_logits, SymbolicZero):
        terms.append((x - jax.nn.sigmoid(logits)) * d_logits)
    if not isinstance(d_x, SymbolicZero):
        terms.append(logits * d_x)
    value = _bernoulli_log_mass_sum(logits, x, ndims)
    return value, sum_last(sum(terms[1:], terms[0]), ndims) if terms else jnp.zeros_like(value)


def bound_log_var(log_var: Array) -> Array:
    """Keeps a network's log-variance within ±30, so that its exponential is finite; see `bounded`."""
    return bounded(log_var, _LOG_VAR_BOUND)


def bounded(x: Array, bound: float, *, low: float | None = None) -> Array:
    """Clips a network's output to ±bound, or to `low` … `bound`.

    The gradient passes as if there were no bound, so the loss can pull back a unit that left the range. The gradient of
    a plain clip is zero outside the range, and the unit would stay there.
    """
    return jax.lax.stop_gradient(jnp.clip(x, -bound if low is None else low, bound)) + (x - jax.lax.stop_gradient(x))


def not_negative(x: Array) -> Array:
    """x, with values that rounding made negative set to 0; the gradient passes."""
    return x + jax.lax.stop_gradient(jnp.maximum(-x, 0.0))
