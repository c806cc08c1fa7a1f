"""Type aliases and protocols for the library's signatures."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import chex
import jax
import numpy as np

Array: TypeAlias = jax.Array
Key: TypeAlias = chex.PRNGKey
Params: TypeAlias = Any  # a pytree of arrays
Shape: TypeAlias = tuple[int, ...]
Compute: TypeAlias = Literal["float32", "bfloat16"]  # the type that the operands of products are rounded to
LatentSpace: TypeAlias = Literal["all vectors", "the unit sphere"]  # the space on which q(z|x) and p(z) are densities
Preprocessing: TypeAlias = Callable[[Key, Array], Array]  # (key, stored [B, *event]) -> x, as the likelihood takes it
Tick: TypeAlias = Callable[[int], None]  # called with the number of steps done since its last call


@runtime_checkable
class Distribution(Protocol):
    """The interface of a distribution: `sample` and `log_prob`, with NumPyro's signatures and shapes.

    A draw has the shape `sample_shape + batch_shape + event_shape`; `log_prob` sums over the event. A likelihood's
    distribution also has a `mean`, for whatever shows means.
    """

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array: ...

    def log_prob(self, value: Array) -> Array: ...


class Support(NamedTuple):
    """The values that the entries of an event can take. A data set declares them, and a likelihood requires them."""

    low: float
    high: float
    integer: bool = False
    open: bool = False  # whether the ends are excluded
    missing: bool = False  # whether an entry may be NaN, that is, unobserved

    def __str__(self) -> str:
        missing = " or NaN" if self.missing else ""
        if self.integer and self.high - self.low == 1:
            return f"{{{self.low:g}, {self.high:g}}}{missing}"
        if self.integer and self.low == 0 and math.isinf(self.high):
            return f"the counts 0, 1, 2, …{missing}"
        left, right = "()" if self.open else "[]"
        return f"{'the integers ' if self.integer else ''}{left}{self.low:g}, {self.high:g}{right}{missing}"

    def contains(self, other: "Support") -> bool:
        within = self.low <= other.low and other.high <= self.high
        if self.open and not other.open:
            within = self.low < other.low and other.high < self.high
        return within and (other.integer or not self.integer) and (self.missing or not other.missing)


class Rows(Protocol):
    """Stored examples [N, *event]: an array, or an object that reads them from a file when indexed.

    The index is a slice, or an array of row numbers of any shape. The result is an array in memory.
    """

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...
