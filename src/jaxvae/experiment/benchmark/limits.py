"""The hardware's limits, measured along with everything else: the rate of matrix products and the memory bandwidth."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from jaxvae.experiment.benchmark.timing import Run, repeated
from jaxvae.typing import Array

BANDWIDTH = "bandwidth"

# The side of a product's matrices, and the entries of the triad's arrays, which are far larger than any cache.
_SIZES = {"cpu": (2048, 2**25)}
_ACCELERATOR = (8192, 2**28)


@dataclasses.dataclass(frozen=True)
class Limit:
    """A kind of work that measures a limit, and its amount in one run."""

    name: str  # the dtype of the product's operands, or `BANDWIDTH`
    what: str  # the description for tables
    work: float  # floating-point operations, or bytes
    run: Run


def limits(dtypes: Iterable[str]) -> list[Limit]:
    """The square product for each of these dtypes, accumulated in at least float32, and the triad."""
    size, entries = _SIZES.get(jax.default_backend(), _ACCELERATOR)
    return [*(_product(dtype, size) for dtype in dtypes), _triad(entries)]


def _product(dtype: str, size: int) -> Limit:
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    wide = jnp.promote_types(a.dtype, jnp.float32)

    def multiply(number: Array, a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, preferred_element_type=wide)

    return Limit(dtype, f"{size}×{size} product, {dtype}", 2.0 * size**3, repeated(multiply, a, a))


def _triad(entries: int) -> Limit:
    """The triad, in place and in one dispatch, because allocating memory anew costs more than writing it."""
    a, b = (jnp.full(entries, value, jnp.float32) for value in (1.0, 2.0))

    @partial(jax.jit, donate_argnums=0)
    def triads(a: Array, b: Array, num: int) -> Array:
        return jax.lax.fori_loop(0, num, lambda _, a: 0.5 * a + b, a)

    def run(num: int) -> None:
        nonlocal a
        a = triads(a, b, num).block_until_ready()

    return Limit(BANDWIDTH, f"a ← s·a + b, {entries:,} float32 each", 3.0 * a.nbytes, run)


def bound(products: Counter[str], num_bytes: float | None, rates: Mapping[str, float]) -> tuple[float, str]:
    """The least time that the given products and bytes take, and which of the two binds.

    Args:
      products: floating-point operations by dtype.
      num_bytes: the bytes read and written; None if unknown.
      rates: operations per second by dtype, and bytes per second as `BANDWIDTH`.

    Returns:
      Seconds, and `products` or `bandwidth`.
    """
    of_products = sum(count / rates[dtype] for dtype, count in products.items())
    of_bytes = (num_bytes or 0.0) / rates[BANDWIDTH]
    return (of_products, "products") if of_products >= of_bytes else (of_bytes, BANDWIDTH)
