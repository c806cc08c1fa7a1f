"""What the hardware can do at best, measured where everything else is: the rate of products and the memory's bandwidth."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from jaxvae.experiment.benchmark.timing import Run, repeated
from jaxvae.typing import Array

BANDWIDTH = "bandwidth"


@dataclasses.dataclass(frozen=True)
class Limit:
    """One kind of work, and how much of it is done at a time."""

    name: str  # the dtype of the product's operands, or `BANDWIDTH`
    what: str  # for people
    work: float  # floating-point operations, or bytes
    run: Run


def limits(dtypes: Iterable[str]) -> list[Limit]:
    """The square product for each of these dtypes, accumulated in float32 where they are narrower, and the triad."""
    on_cpu = jax.default_backend() == "cpu"
    size, entries = (2048, 2**25) if on_cpu else (8192, 2**28)
    return [*(_product(dtype, size) for dtype in dtypes), _triad(entries)]


def _product(dtype: str, size: int) -> Limit:
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    wide = jnp.promote_types(a.dtype, jnp.float32)

    def multiply(number: Array, a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, preferred_element_type=wide)

    return Limit(dtype, f"{size}×{size} product, {dtype}", 2.0 * size**3, repeated(multiply, a, a))


def _triad(entries: int) -> Limit:
    a, b = (jnp.full(entries, value, jnp.float32) for value in (1.0, 2.0))

    def triad(number: Array, a: Array, b: Array) -> Array:
        return a + number * b

    return Limit(BANDWIDTH, f"a + s·b, {entries:,} float32 each", 3.0 * a.nbytes, repeated(triad, a, b))


def bound(products: Counter[str], num_bytes: float | None, rates: Mapping[str, float]) -> tuple[float, str]:
    """The least time that so many products and so many bytes take, and which of them binds.

    Args:
      products: floating-point operations by dtype.
      num_bytes: what is read and written; None: it is not known.
      rates: operations per second by dtype, and bytes per second as `BANDWIDTH`.

    Returns:
      Seconds, and `products` or `bandwidth`.
    """
    of_products = sum(count / rates[dtype] for dtype, count in products.items())
    of_bytes = (num_bytes or 0.0) / rates[BANDWIDTH]
    return (of_products, "products") if of_products >= of_bytes else (of_bytes, BANDWIDTH)
