"""`scripts/generate.py`."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from jaxvae.experiment.command.parsing import check_output, import_config, parse
from jaxvae.experiment.command.running import run_command
from jaxvae.numerics import require, require_number


@dataclasses.dataclass(frozen=True)
class GenerateCommand:
    """Draw new examples from a trained model: z from the prior, then the mean of p(x|z)."""

    workdir: pathlib.Path
    """The folder of the run."""
    output: pathlib.Path
    """The picture to write: .png, or .npy for the numbers themselves."""
    num: int = 64
    """How many."""
    sample: bool = False
    """Whether to draw from p(x|z) instead of taking its mean."""
    seed: int = 0
    """The seed of the draws."""
    config: pathlib.Path | None = None
    """A config file to import first, for a run that uses registered classes of one's own."""

    def __post_init__(self) -> None:
        require_number(self, "num", low=1, integer=True)
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)
        require(self.output.suffix in (".png", ".npy"), f"--output={self.output} must end in .png or .npy")


def generate_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    import jax
    import numpy as np

    from jaxvae import plots
    from jaxvae.experiment import figures, run, workdir

    command = parse(GenerateCommand, argv)
    import_config(command.config)
    experiment = workdir.read_config(command.workdir)
    params, _ = run.restore_params(experiment, command.workdir)
    check_output(command.output)

    def work() -> None:
        key = jax.random.key(command.seed)
        if command.output.suffix == ".npy":
            np.save(command.output, experiment.model.generate(params, key, num=command.num, sample=command.sample))
        else:
            x = figures.generated(experiment, params, key, num=command.num, sample=command.sample)
            plots.samples(figures.to_eye(experiment, x, like=x), command.output)
        print(command.output)

    return work
