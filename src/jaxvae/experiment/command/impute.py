"""`scripts/impute.py`."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxvae import data, files
from jaxvae.checks import require, require_number
from jaxvae.experiment import console, filling, restoring
from jaxvae.experiment.command.parsing import MAX_DRAWS, OfRun, check_output_of, parse_of_run
from jaxvae.experiment.command.running import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImputeCommand(OfRun):
    """Fill in the missing entries of examples, with a run whose likelihood is `Incomplete`.

    Each NaN is replaced by its mean given the observed entries, by importance sampling, or with --num by draws.
    """

    input: pathlib.Path
    """A .npy array [N, ...] of examples like the run's, NaN where an entry was not observed."""
    output: pathlib.Path
    """The .npy file to write: [N, *event], in the values that the likelihood takes, or with --num [num, N, *event]."""
    num: int | None = None
    """How many times each example is completed, by draws, for multiple imputation; by default once, by the mean."""
    num_importance_samples: int = 1000
    """The number of draws K from q(z|x) for each example."""
    seed: int = 0
    """The seed of the draws."""

    def __post_init__(self) -> None:
        require_number(self, "num", low=1, high=filling.MOST, integer=True, optional=True)
        require_number(self, "num_importance_samples", low=1, high=MAX_DRAWS, integer=True)
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)
        require(self.output.suffix == ".npy", f"--output={self.output} must end in .npy")
        same = self.output.exists() and self.input.exists() and self.output.samefile(self.input)
        require(
            not same, f"--output={self.output} is the input, whose missing entries would be overwritten; write another"
        )


def impute_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command = parse_of_run(ImputeCommand, argv)
    x, found = data.read_examples(command.input)
    trained, num_samples = restoring.reopen(command.workdir, data_dir=command.data_dir), command.num_importance_samples
    fill = filling.filler(trained, x, found, num=command.num, num_samples=num_samples)
    check_output_of(command, command.output)

    def work() -> None:
        console.say(f"{found.num_missing:,} of {math.prod(x.shape):,} entries are missing")
        key = jax.random.key(command.seed)
        filled, effective = filling.filled(fill, trained.params, key, x, num=command.num, num_samples=num_samples)
        console.say(
            f"of {num_samples:,} draws, {np.median(effective):,.0f} were effective for the median example, and "
            f"{effective.min():,.1f} for the worst; more --num-importance-samples give less noise"
        )
        with files.replacing(command.output) as path:
            np.save(path, filled[0] if command.num is None else filled)
        print(command.output)

    return work
