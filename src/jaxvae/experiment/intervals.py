"""Means over seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95 % interval, by Student's t."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        from scipy import stats

        num = len(values)
        return cls(float(np.mean(values)), float(stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / math.sqrt(num)))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"
