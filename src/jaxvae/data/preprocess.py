"""Preprocessing: the keyed map from stored values to those that a likelihood takes, run inside the training step."""

import abc
import dataclasses
import math
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxvae import draws
from jaxvae.checks import require
from jaxvae.typing import Array, Key, Preprocessing, Support


@dataclasses.dataclass(frozen=True)
class Preprocess(abc.ABC):
    """A pure function `(key, x, high)` from stored entries to the floats that a likelihood takes."""

    @abc.abstractmethod
    def support(self, values: Support) -> Support:
        """The support of the preprocessed values when the stored ones have the support `values`.

        Raises:
          ValueError: the preprocessing is not meant for such values; the message says what to use.
        """

    @abc.abstractmethod
    def __call__(self, key: Key, x: Array, high: float) -> Array:
        """[B, *event] -> [B, *event] float32, where `high` is the largest possible stored value."""

    def bind(self, values: Support) -> Preprocessing:
        """The function `(key, stored) -> preprocessed` for data whose stored entries have the support `values`.

        `values` is `Dataset.values`.

        Raises:
          ValueError: see `support`.
        """
        self.support(values)
        return partial(self, high=values.high)

    @abc.abstractmethod
    def expectation(self, x: np.ndarray, high: float) -> np.ndarray:
        """The mean of the preprocessed values over the key, for stored entries or their average; float64."""

    @abc.abstractmethod
    def log_bins(self, values: Support) -> float | None:
        """The log of the number of stored values per unit of x, or None if a density of x bounds nothing for them.

        With it, -log p(x) + D · log_bins is an upper bound on the cost of the discrete stored data in nats (Theis et
        al. 2016, eq. 3).
        """


def _require_unit_range(name: str, values: Support) -> None:
    holes = ", or write data.high=255, if these are grey levels with entries missing"
    likelihood = "NegativeBinomial()" if values.integer else "a Gaussian likelihood"
    require(
        values.low >= 0 and (values.high <= 255 if values.integer else values.high <= 1),
        f"{name} needs uint8 images or floats in [0, 1], but the data has values in {values}; "
        f"save 0..255 images as uint8 or divide them by 255, or choose Raw() with {likelihood}"
        f"{holes if values.integer and values.missing else ''}",
    )


def _observed(x: Array, y: Array) -> Array:
    """y, with NaN where x is NaN: an entry that was not observed stays missing."""
    return jnp.where(jnp.isnan(x), jnp.nan, y) if jnp.issubdtype(x.dtype, jnp.floating) else y


@dataclasses.dataclass(frozen=True)
class DynamicBinarization(Preprocess):
    """Each pixel is 1 with its intensity as the probability, drawn anew each time: Salakhutdinov and Murray (2008).

    Binary images are unchanged.
    """

    def support(self, values: Support) -> Support:
        _require_unit_range("DynamicBinarization", values)
        return Support(0.0, 1.0, integer=True, missing=values.missing)

    def __call__(self, key: Key, x: Array, high: float) -> Array:
        return _observed(x, (draws.uniform(key, x.shape) < x.astype(jnp.float32) / high).astype(jnp.float32))

    def expectation(self, x: np.ndarray, high: float) -> np.ndarray:
        return np.asarray(x, np.float64) / high

    def log_bins(self, values: Support) -> float | None:
        return None


_BELOW_1 = float(np.nextafter(np.float32(1.0), np.float32(0.0)))


@dataclasses.dataclass(frozen=True)
class Dequantization(Preprocess):
    """(x + u) / (high + 1) with u ~ U[0, 1): integers become continuous values in [0, 1); Theis et al. (2016), 3.1."""

    def support(self, values: Support) -> Support:
        grey = ", or write data.high=255, if these are grey levels" if values.integer else ""
        require(
            values.integer and values.low >= 0 and values.high <= 255,
            f"Dequantization needs integers such as uint8 images, but the data has values in {values}; use Raw(){grey}",
        )
        return Support(0.0, 1.0, open=True, missing=values.missing)  # reaches an end only by rounding

    def __call__(self, key: Key, x: Array, high: float) -> Array:
        scaled = (x.astype(jnp.float32) + draws.uniform(key, x.shape)) / (high + 1.0)
        return jnp.minimum(scaled, _BELOW_1)  # which rounding would reach

    def expectation(self, x: np.ndarray, high: float) -> np.ndarray:
        return (np.asarray(x, np.float64) + 0.5) / (high + 1.0)

    def log_bins(self, values: Support) -> float | None:
        return math.log(values.high + 1.0)


@dataclasses.dataclass(frozen=True)
class Scaling(Preprocess):
    """x / high, so that images lie in [0, 1]. A density of these values is not a density of the discrete images."""

    def support(self, values: Support) -> Support:
        _require_unit_range("Scaling", values)
        return Support(0.0, 1.0, integer=values.integer and values.high == 1, missing=values.missing)

    def __call__(self, key: Key, x: Array, high: float) -> Array:
        return x.astype(jnp.float32) / high

    def expectation(self, x: np.ndarray, high: float) -> np.ndarray:
        return np.asarray(x, np.float64) / high

    def log_bins(self, values: Support) -> float | None:
        return None


@dataclasses.dataclass(frozen=True)
class Raw(Preprocess):
    """The stored values themselves, as float32."""

    def support(self, values: Support) -> Support:
        return values

    def __call__(self, key: Key, x: Array, high: float) -> Array:
        return x.astype(jnp.float32)

    def expectation(self, x: np.ndarray, high: float) -> np.ndarray:
        return np.asarray(x, np.float64)

    def log_bins(self, values: Support) -> float | None:
        return None
