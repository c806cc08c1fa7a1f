"""Timing: everything in turn, round after round, so that what else the machine does falls on all of it alike."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.typing import Array

ROUNDS = 9
_FEWEST_ROUNDS = 3  # of what takes longer than the time that it was given

Run = Callable[[int], None]  # does the thing so many times, and returns when the device is done


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float
    num: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, median, high = (float(q) for q in np.quantile(np.asarray(values), (0.25, 0.5, 0.75)))
        return cls(median, low, high, len(values))

    def inverse(self, scale: float) -> "Spread":
        """Of `scale / value`."""
        return Spread(scale / self.median, scale / self.high, scale / self.low, self.num)


def repeated(f: Callable[..., Any], *args: Any) -> Run:
    """`f(number, *args)` jitted, for number 0, 1, …: a dispatch each, and none starts before the last one has ended.

    It waits on the device, by the number: a backend may otherwise run two calls beside each other.
    """

    @jax.jit
    def call(number: Array, *args: Any) -> tuple[Array, Any]:
        return number + 1, f(number, *args)

    def run(num: int) -> None:
        number = jnp.int32(0)
        for _ in range(num):
            number, out = call(number, *args)
        jax.block_until_ready((number, out))

    return run


def seconds_of(run: Run, num: int = 1) -> float:
    start = time.perf_counter()
    run(num)
    return time.perf_counter() - start


def interleave(
    runs: Mapping[str, Run], *, seconds: float, report: Callable[[int], None] = lambda rounds: None
) -> dict[str, list[float]]:
    """The seconds of one time of each, round by round.

    Args:
      runs: by name; each was run before, so that nothing compiles here.
      seconds: how long each is measured in all.
      report: is called with 1 for each measurement that is done or left out: there are `ROUNDS` of each.

    Returns:
      For each name a number a round: for what takes too long for that, of the first three or more.
    """
    share = seconds / ROUNDS
    counts = {name: _how_many(run, share) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS):
        for name, run in runs.items():
            if number < _FEWEST_ROUNDS or counts[name] * sum(times[name]) < seconds:
                times[name].append(seconds_of(run, counts[name]) / counts[name])
            report(1)
    return times


def _how_many(run: Run, share: float) -> int:
    """How many times fill the share of a round: doubled until they take a tenth of it, and then in proportion."""
    num = 1
    while (taken := seconds_of(run, num)) < 0.1 * share:
        num *= 2
    return max(1, round(num * share / taken))
