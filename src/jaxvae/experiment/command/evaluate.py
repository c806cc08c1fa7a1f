"""`scripts/evaluate.py`."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal

from jaxvae.experiment import console
from jaxvae.experiment.command.parsing import import_config, parse
from jaxvae.experiment.command.running import run_command
from jaxvae.numerics import require_number


@dataclasses.dataclass(frozen=True)
class EvaluateCommand:
    """Measure a trained model: the ELBO and its terms, and log p(x) by importance sampling, with standard errors.

    The last line on standard output is one JSON object; values are in nats per example.
    """

    workdir: pathlib.Path
    """The folder of the run."""
    num_importance_samples: int = 500
    """The draws K from q(z|x) for each example; 5,000 are what papers report."""
    split: Literal["train", "validation", "test"] = "test"
    """The examples."""
    seed: int | None = None
    """The seed of the draws; by default the run's own."""
    data_dir: str | None = None
    """Where the TFDS sets lie, if not where they lay in training."""
    config: pathlib.Path | None = None
    """A config file to import first, for a run that uses registered classes of one's own."""

    def __post_init__(self) -> None:
        require_number(self, "num_importance_samples", low=1, integer=True)
        if self.seed is not None:
            require_number(self, "seed", low=0, high=2**32 - 1, integer=True)


def evaluate_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    import jax

    from jaxvae.experiment import run

    command = parse(EvaluateCommand, argv)
    import_config(command.config)
    trainer, params, step = run.reopen(command.workdir, data_dir=command.data_dir, split=command.split)
    split = getattr(trainer.dataset, command.split)
    num = command.num_importance_samples

    def work() -> None:
        key = trainer.keys.evaluate if command.seed is None else jax.random.key(command.seed)
        with contextlib.closing(
            console.Count(len(split.x), title=f"evaluate, {num:,} draws each,", unit="example")
        ) as bar:
            terms = trainer.evaluate(params, key, split.x, num_importance_samples=num, tick=bar.add)
        result = run.summarize(trainer.experiment, trainer.dataset, terms)
        if not trainer.experiment.model.posterior.has_density:
            console.say("no bound on log p(x) without a density q(z|x): elbo, rate and log_evidence are null")
        print(
            json.dumps({"split": command.split, "step": step, "num_importance_samples": num} | result, allow_nan=False)
        )

    return work
