"""Timing: everything in turn, round after round, so that other load on the machine affects all measurements alike."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.typing import Array

ROUNDS = 9
_FEWEST_ROUNDS = 3  # for a run that takes longer than its time

Run = Callable[[int], None]  # repeats the work this many times, and returns when the device is done


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
        """The spread of `scale / value`."""
        return Spread(scale / self.median, scale / self.high, scale / self.low, self.num)


def repeated(f: Callable[..., Any], *args: Any) -> Run:
    """A run of jitted calls `f(number, *args)`, number 0, 1, …; each is a dispatch that starts when the last has ended.

    The number makes each call depend on the last one; otherwise a backend may run two calls concurrently.
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
    """The seconds that one repetition of each run takes, round by round.

    Args:
      runs: by name; each has run before, so that nothing compiles here.
      seconds: how long each is measured in all.
      report: called with 1 for each measurement that is done or left out; each run has `ROUNDS` of them.

    Returns:
      For each name, one number for each round, or for at least the first three if the run takes too long.
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
    """The repetitions that fill a round's share: doubled until they take a tenth of it, then scaled in proportion."""
    num = 1
    while (taken := seconds_of(run, num)) < 0.1 * share:
        num *= 2
    return max(1, round(num * share / taken))
