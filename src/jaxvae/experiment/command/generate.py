"""`scripts/generate.py`."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxvae import files
from jaxvae.checks import require, require_number
from jaxvae.experiment import restoring, sampling, seeing, workdir
from jaxvae.experiment.command.parsing import OfRun, check_output_of, parse_of_run
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.sampling import SamplerName

_PICTURED = 10_000  # in a picture of 900 pixels across, each is 9 pixels wide


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateCommand(OfRun):
    """Draw new examples from a trained model: z from the prior or from a sampler, then the mean of p(x|z)."""

    output: pathlib.Path
    """The picture to write: .png, or .npy for the numbers themselves."""
    num: int = 64
    """The examples to draw."""
    sampler: SamplerName = "prior"
    """The distribution of z: p(z), or a normal distribution, a mixture of ten or a flow that is fitted to the codes of
    the training examples at its first use, and kept in the run's folder. A plain autoencoder has no p(z)."""
    sample: bool = False
    """Whether to draw from p(x|z) instead of taking its mean."""
    seed: int = 0
    """The seed of the draws."""

    def __post_init__(self) -> None:
        require_number(self, "num", low=1, high=10**12, integer=True)
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)
        require(self.output.suffix in (".png", ".npy"), f"--output={self.output} must end in .png or .npy")
        require(
            self.output.suffix == ".npy" or self.num <= _PICTURED,
            f"--num={self.num} is too many for a picture; write at most {_PICTURED}, or an --output that ends in .npy",
        )


def generate_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    from jaxvae import plots

    command = parse_of_run(GenerateCommand, argv)
    experiment, trained = workdir.read_config(command.workdir), None
    if command.sampler == "prior":
        params, _ = restoring.restore_params(experiment, command.workdir)
    else:
        trained = restoring.reopen(command.workdir, data_dir=command.data_dir)
        experiment, params = trained.trainer.experiment, trained.params
        sampling.check(trained, command.sampler)
    check_output_of(command, command.output)

    def work() -> None:
        key = jax.random.key(command.seed)
        codes = None if trained is None else sampling.fitted(trained, command.sampler, command.workdir)
        x = sampling.generated(experiment, params, key, num=command.num, sample=command.sample, codes=codes)
        with files.replacing(command.output) as path:
            if path.suffix == ".npy":
                np.save(path, x)
            else:
                shown = seeing.to_eye(experiment, params, x, like=x)
                plots.samples(shown, units=seeing.units_of(experiment)).savefig(path)
        print(command.output)

    return work
