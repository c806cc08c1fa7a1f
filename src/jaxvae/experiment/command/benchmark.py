"""`scripts/benchmark.py`."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxvae import data
from jaxvae.checks import require_number
from jaxvae.experiment import benchmark, console, memory, starting
from jaxvae.experiment.benchmark import AXES
from jaxvae.experiment.command.arguments import join_repeated
from jaxvae.experiment.command.parsing import MAX_DRAWS, check_output, parse_with_config
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.environment import environment
from jaxvae.experiment.session import Trainer


@dataclasses.dataclass(frozen=True)
class BenchmarkCommand:
    """Measure how fast a config is, also as a fraction of the hardware's limits.

    Measures the training step as training runs it, the bound alone and with its gradient, the evaluator and the
    generator; in between, in the same process, matrix products and the memory bandwidth. Prints tables, then one line
    of JSON for each measurement, and at last one with the medians. Needs no workdir and keeps nothing that it trains.
    --config FILE names the file (default: configs/digits.py); every field of it can be set from here.
    """

    config: Experiment
    compare: tuple[Literal[tuple(AXES)], ...] = ()  # type: ignore[valid-type]
    """Variants of the training step to measure against each other, in turn: --compare=dispatch,precision."""
    seconds: float = 3.0
    """How long each thing is measured, without its compilation."""
    num_importance_samples: int = 500
    """The evaluator's draws from q(z|x) for each example."""
    output: pathlib.Path | None = None
    """A file to which the JSON lines are appended, each with machine, versions and date."""

    def __post_init__(self) -> None:
        require_number(self, "seconds", low=0.0, strict=True)
        require_number(self, "num_importance_samples", low=1, high=MAX_DRAWS, integer=True)


def benchmark_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _axes(argument: str) -> list[str]:
    """Splits `dispatch,precision` in two; anything else is unchanged."""
    parts = argument.split(",")
    return parts if {*parts} <= {*AXES} else [argument]


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    arguments = [part for argument in join_repeated(argv, "--compare") for part in _axes(argument)]
    command, file = parse_with_config(BenchmarkCommand, arguments)
    source = data.find(command.config.data)
    starting.parameters(command.config.fit_to(source))
    if command.output is not None:
        check_output(command.output)
    room = memory.for_examples()
    dataset = source.read(console.say, room)
    experiment = command.config.fit_to(dataset)
    memory.check(experiment, dataset)

    def work() -> None:
        with benchmark.no_compilation_cache():
            trainer = Trainer.of(experiment, dataset, data_memory=room)
            rows = benchmark.measure(
                trainer, seconds=command.seconds, num_importance_samples=command.num_importance_samples
            )
            for axis in dict.fromkeys(command.compare):
                rows += benchmark.compare(trainer, axis, seconds=command.seconds)
        about = {"config": file} | environment()
        print(benchmark.tables(rows), end="\n\n")
        for row in rows:
            print(_line(row))
        print(_line({"kind": "summary"} | benchmark.summary(rows) | about))
        if command.output is not None:
            with command.output.open("a", encoding="utf-8") as lines:
                lines.writelines(_line(row | about) + "\n" for row in rows)

    return work


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False)
