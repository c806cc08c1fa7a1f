"""The values of examples: whether a likelihood is a distribution over them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.likelihoods.base import Likelihood
from jaxvae.typing import Array, Support

_FEW = 3  # entries that are accepted on an open end, however few there are in all
_ROUNDED = 1e-3  # the share of entries that rounding may put on an open end; it is about 1e-7 for noise in float32


class Entries(NamedTuple):
    """What is known of the entries of some examples; of those observed, except for `missing`."""

    low: Array  # ()  NaN if none was observed
    high: Array  # ()
    whole: Array  # ()  whether all are whole numbers
    missing: Array  # ()  whether any entry is NaN
    num_at_ends: Array  # ()  how many are the least or the greatest value of the likelihood's support
    num: Array  # ()

    @classmethod
    def of(cls, x: Array, support: Support, counted: Array | None = None) -> "Entries":
        """The entries of x [B, *event], of any type; the numbers are of the examples that are `counted` [B], or all."""
        x = x.astype(jnp.float32)
        missing = jnp.isnan(x)
        whole = jnp.all((x == jnp.round(x)) | missing)
        own = True if counted is None else counted.reshape(-1, *(1,) * (x.ndim - 1))
        at_ends = jnp.sum(((x == support.low) | (x == support.high)) & own)
        return cls(jnp.nanmin(x), jnp.nanmax(x), whole, jnp.any(missing), at_ends, jnp.sum(~missing & own))

    def check(self, likelihood: Likelihood, *, instead: str) -> None:
        """Checks that `likelihood` is a distribution over these values; `instead` begins what the message says to do.

        Raises:
          ValueError: it is not; the message says what to write.
        """
        low, high, support = self.low, self.high, likelihood.support
        require(not bool(jnp.isinf(low) | jnp.isinf(high)), "x has values that are infinite; remove or replace them")
        if jnp.isnan(low):  # nothing of these examples was observed
            low = high = jnp.float32(support.low)
        # A value that was rounded to an open end is accepted.
        many = self.num_at_ends > _FEW + _ROUNDED * self.num
        values = Support(
            float(low), float(high), bool(self.whole), open=support.open and not many, missing=bool(self.missing)
        )
        binary = support.integer and support.high == 1
        how = "such as DynamicBinarization().bind(dataset.values)" if binary else "one that gives such values"
        likelihood.check_values(values, of="x", instead=f"{instead}, {how}")


def check_if_known(x: Array, likelihood: Likelihood) -> None:
    """`Entries.check` for x, unless it is traced and so has no values yet."""
    if isinstance(x, jax.core.Tracer) or x.size == 0:
        return
    with jax.ensure_compile_time_eval():  # x may be a constant of a function that is traced
        Entries.of(jnp.asarray(x), likelihood.support).check(likelihood, instead="preprocess x as in training")
