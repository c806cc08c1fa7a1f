"""`scripts/evaluate.py`."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal

from jaxvae.checks import require, require_number
from jaxvae.experiment import console, measuring, outcome, restoring
from jaxvae.experiment.command.parsing import MAX_DRAWS, OfRun, check_output_of, parse_of_run
from jaxvae.experiment.command.running import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateCommand(OfRun):
    """Measure a trained model: the ELBO and its terms, and log p(x) by importance sampling, with standard errors.

    The last line on standard output is one JSON object; values are in nats per example. A measurement that is stopped
    is resumed by the same command.
    """

    num_importance_samples: int = 500
    """The number of draws K from q(z|x) for each example; papers report 5,000."""
    split: Literal["train", "validation", "test"] = "test"
    """The split to measure on."""
    seed: int | None = None
    """The seed of the draws; by default the run's own."""
    rows_at_once: int = 4096
    """The examples times draws in one decoder pass; affects speed and memory, not the numbers."""
    output: pathlib.Path | None = None
    """A .npz file for the terms and the code of each example, in the order of the split."""

    def __post_init__(self) -> None:
        require_number(self, "num_importance_samples", low=1, high=MAX_DRAWS, integer=True)
        require_number(self, "rows_at_once", low=1, integer=True)
        require(self.output is None or self.output.suffix == ".npz", f"--output={self.output} must end in .npz")
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True, optional=True)


def evaluate_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command = parse_of_run(EvaluateCommand, argv)
    trained = restoring.reopen(command.workdir, data_dir=command.data_dir, split=command.split)
    if command.output is not None:
        check_output_of(command, command.output)

    def work() -> None:
        trainer = trained.trainer
        result = measuring.evaluate_run(
            trained,
            command.split,
            num_importance_samples=command.num_importance_samples,
            folder=command.workdir,
            seed=command.seed,
            rows_at_once=command.rows_at_once,
            output=command.output,
        )
        if not trainer.experiment.model.posterior.has_density:
            console.say("no bound on log p(x) without a density q(z|x): elbo, rate and log_evidence are null")
        if outcome.log_bins(trainer) and result["bits_per_dim"] is not None:
            console.say("bits_per_dim is for the stored integers: an upper bound, by uniform dequantization")
        print(outcome.as_line(result))

    return work
