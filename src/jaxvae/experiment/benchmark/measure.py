"""The measurement itself, as rows of JSON's types."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxvae.experiment import console
from jaxvae.experiment.benchmark.limits import BANDWIDTH, Limit, bound, limits
from jaxvae.experiment.benchmark.subjects import Subject, subjects
from jaxvae.experiment.benchmark.tables import Row
from jaxvae.experiment.benchmark.timing import ROUNDS, Run, Spread, interleave, seconds_of
from jaxvae.experiment.benchmark.variants import AXES
from jaxvae.experiment.session import Trainer

_CONFIG: Any = jax.config  # mypy does not know its options


@contextlib.contextmanager
def no_compilation_cache() -> Iterator[None]:
    """Disables JAX's compilation cache on disk, so that everything is compiled and nothing is left there."""
    from jax.experimental.compilation_cache import compilation_cache

    before = _CONFIG.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX decides once whether there is a cache
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def measure(trainer: Trainer, *, seconds: float, num_importance_samples: int) -> list[Row]:
    """The rows of the hardware's limits and of all measurements of a config.

    Args:
      trainer: an experiment with its data.
      seconds: how long each thing is measured, without its compilation.
      num_importance_samples: the evaluator's draws for each example.
    """
    found = subjects(trainer, num_importance_samples=num_importance_samples)
    hardware = limits(dict.fromkeys([*(d for s in found for d in s.products), "float32", "bfloat16"]))
    compiled = {}
    with _bar(len(found) + len(hardware), "compile,") as bar:
        for subject in found:
            compiled[subject.name] = _compile(subject)
            bar.add(1)
        for limit in hardware:
            limit.run(1)
            bar.add(1)
    runs: dict[str, Run] = {limit.what: limit.run for limit in hardware} | {s.name: s.run for s in found}
    times = _in_turn(runs, seconds, "measure,")
    rates = {limit.name: [limit.work / s for s in times[limit.what]] for limit in hardware}
    return [
        *(_of_limit(limit, rates[limit.name]) for limit in hardware),
        *(_of_subject(s, times[s.name], compiled[s.name], rates) for s in found),
    ]


def compare(trainer: Trainer, axis: str, *, seconds: float) -> list[Row]:
    """The rows of the variants of one of `AXES`, each with the ratio of its speed to the first one's.

    Each ratio is of two measurements in the same round; `seconds` is the time for each variant.
    """
    variants, left_out = AXES[axis](trainer, seconds)
    with _bar(len(variants), f"{axis}: compile,") as bar:
        for variant in variants:
            variant.run(1)
            bar.add(1)
    times = _in_turn({v.name: v.run for v in variants}, seconds, f"{axis}: measure,")
    steps = {v.name: [s / v.num_steps for s in times[v.name]] for v in variants}
    rows: list[Row] = []
    for variant in variants:
        against, own = variants[0].name, steps[variant.name]
        ratios = [theirs / ours for theirs, ours in zip(steps[against], own, strict=False)]
        rows.append(
            {
                "kind": "variant",
                "axis": axis,
                "name": variant.name,
                "steps_per_second": _spread(Spread.of(own).inverse(1.0)),
                "against": against,
                "ratio": _spread(Spread.of(ratios)),
            }
        )
    return rows + [{"kind": "left out", "axis": axis, "why": line} for line in left_out]


def _in_turn(runs: dict[str, Run], seconds: float, title: str) -> dict[str, list[float]]:
    with _bar(ROUNDS * len(runs), title) as bar:
        return interleave(runs, seconds=seconds, report=bar.add)


def _compile(subject: Subject) -> Row:
    """The time that compiling the subject's program takes, and XLA's analysis of it."""
    jitted = jax.jit(subject.program, donate_argnums=subject.donated)
    start = time.perf_counter()
    lowered = jitted.lower(*subject.arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    warmup = seconds_of(subject.run)
    stats = jax.local_devices()[0].memory_stats() or {}

    def scaled(name: str) -> float | None:  # None if the backend does not report it
        return None if costs.get(name, -1.0) < 0 else costs[name] * subject.num_programs

    return {
        "lower_seconds": middle - start,
        "compile_seconds": end - middle,
        "warmup_seconds": warmup,
        "argument_bytes": getattr(memory, "argument_size_in_bytes", None),
        "output_bytes": getattr(memory, "output_size_in_bytes", None),
        "temp_bytes": getattr(memory, "temp_size_in_bytes", None),
        "device_peak_bytes": stats.get("peak_bytes_in_use"),
        "xla_flops": scaled("flops"),
        "xla_bytes": scaled("bytes accessed"),
    }


def _of_limit(limit: Limit, rates: Sequence[float]) -> Row:
    unit = "bytes" if limit.name == BANDWIDTH else "operations"
    return {"kind": "limit", "name": limit.name, "what": limit.what, "unit": unit} | {
        "per_second": _spread(Spread.of(rates))
    }


def _of_subject(subject: Subject, times: Sequence[float], compiled: Row, rates: dict[str, list[float]]) -> Row:
    """The row of a subject; its fraction is computed for each round, from the limits of the same round."""

    def least(of_round: dict[str, float]) -> tuple[float, str]:
        return bound(subject.products, compiled["xla_bytes"], of_round)

    rounds = [dict(zip(rates, of_round, strict=True)) for of_round in zip(*rates.values(), strict=False)]
    fractions = [least(of_round)[0] / taken for of_round, taken in zip(rounds, times, strict=False)]
    limit_seconds, binds = least({name: statistics.median(values) for name, values in rates.items()})
    taken = Spread.of(times)
    return {
        "kind": "measured",
        "name": subject.name,
        "what": subject.what,
        "seconds": _spread(taken),
        "unit": subject.unit,
        "per_second": _spread(taken.inverse(subject.num_units)),
        **compiled,
        "product_flops": dict(subject.products),
        "limit_seconds": limit_seconds,
        "binds": binds,
        "fraction": _spread(Spread.of(fractions)),
    }


def _spread(spread: Spread) -> Row:
    return dataclasses.asdict(spread)


def _bar(total: int, title: str) -> console.Count:
    return console.Count(total, title=title, unit="measurement")
