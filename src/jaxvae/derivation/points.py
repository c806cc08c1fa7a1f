"""Points of the latent space, and sums over them."""

import math
from collections.abc import Iterator

import numpy as np

from jaxvae.checks import require
from jaxvae.distributions import Normal

REACH = 8.0  # standard deviations; the mass outside is less than 1e-14
LIGHT = math.log(1e-10)  # relative to the heaviest cell; lighter cells are not subdivided
_STEP, _PER_STD = 0.05, 2.0  # the grid's largest step, and its points per standard deviation of the narrowest q
_MOST = 1_000_000  # points of the grid
_CHUNK = 2048


def axes_of(q: Normal) -> list[np.ndarray]:
    """The midpoints of the grid's cells in each dimension, which cover N(0, I) and every posterior."""
    mean, std = np.asarray(q.mean, np.float64), np.asarray(q.std, np.float64)
    finite = bool(np.isfinite(mean).all() and np.isfinite(std).all())
    require(finite, "q(z|x) is not finite: the parameters or x have values that are NaN or infinite")
    low = np.minimum(-REACH, (mean - REACH * std).min(axis=0))
    high = np.maximum(REACH, (mean + REACH * std).max(axis=0))
    step = np.minimum(std.min(axis=0) / _PER_STD, _STEP)
    counts = np.ceil((high - low) / step) + 1
    extent = " by ".join(f"{b - a:.3g}" for a, b in zip(low, high, strict=True))
    narrow = f"the narrowest posterior (standard deviation {std.min():.2g}) in " if step.min() < _STEP else ""
    require(
        counts.prod() <= _MOST,
        f"{narrow}a latent space of {extent} needs a grid of more than {_MOST:,} points; write other examples, or "
        "train a model with a smaller rate, such as one with a larger variance of p(x|z)",
    )
    return [a + s * np.arange(int(n)) for a, s, n in zip(low, step, counts, strict=True)]


def product(*axes: np.ndarray) -> np.ndarray:
    """The Cartesian product of D axes, [N, D]."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def chunks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Chunks of equal length, the last padded with zeros, so that one compilation serves all."""
    for start in range(0, len(arrays[0]), _CHUNK):
        parts = [a[start : start + _CHUNK] for a in arrays]
        yield tuple(np.concatenate([p, np.zeros((_CHUNK - len(p), *p.shape[1:]), p.dtype)]) for p in parts)


def log_sum(log_values: np.ndarray) -> float:
    """log Σ exp, in float64."""
    if len(log_values) == 0:
        return -math.inf
    largest = log_values.max()
    return float(largest + np.log(np.exp(log_values - largest).sum()))
