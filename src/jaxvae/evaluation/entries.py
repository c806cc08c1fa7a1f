"""The values of examples: whether a likelihood is a distribution over them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.likelihoods import Likelihood
from jaxvae.typing import Array, Support

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
    def of(cls, x: Array, support: Support) -> "Entries":
        """The entries of x [B, *event], of any type."""
        x = x.astype(jnp.float32)
        missing = jnp.isnan(x)
        whole = jnp.all((x == jnp.round(x)) | missing)
        at_ends = jnp.sum((x == support.low) | (x == support.high))
        return cls(jnp.nanmin(x), jnp.nanmax(x), whole, jnp.any(missing), at_ends, jnp.sum(~missing))

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
        many = self.num_at_ends > 1 + _ROUNDED * self.num
        values = Support(
            float(low), float(high), bool(self.whole), open=support.open and not many, missing=bool(self.missing)
        )
        binary = support.integer and support.high == 1
        how = "such as DynamicBinarization().bind(dataset.values)" if binary else "one that gives such values"
        likelihood.check_values(values, of="x", instead=f"{instead}, {how}")


def check_if_known(x: Array, likelihood: Likelihood) -> None:
    """`Entries.check` for x, unless it is traced and so has no values yet."""
    if not isinstance(x, jax.core.Tracer):
        Entries.of(jnp.asarray(x), likelihood.support).check(likelihood, instead="preprocess x as in training")
