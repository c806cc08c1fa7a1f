"""`scripts/train.py`."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from jaxvae.experiment import console
from jaxvae.experiment.command.parsing import load_config, parse, take_config_file
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.config import Experiment
from jaxvae.numerics import require


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Train a VAE from a config file, or go on with a run that was stopped.

    --config FILE names the file (default: configs/digits.py); every field of it can be set from here.
    """

    config: Experiment
    workdir: pathlib.Path
    """The folder of the run: config.json, metrics.jsonl, checkpoints/, figures/."""
    data_memory_mib: int | None = None
    """The device memory that the training examples may fill, in MiB; by default half of it (on a CPU: everything). A
    larger set is streamed, in blocks that together take no more than this, as long as one batch fits. A .npy or a TFDS
    set is then not read whole into the host's memory either. It changes no number."""

    def __post_init__(self) -> None:
        mib = self.data_memory_mib
        require(mib is None or mib >= 1, f"--data-memory-mib is {mib}; write a whole number of at least 1")


def train_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    from jaxvae.experiment import run

    file, rest = take_config_file(argv)
    command = parse(TrainCommand, rest, config=load_config(file))
    mib = command.data_memory_mib
    data_memory = None if mib is None else mib * 2**20
    trainer = run.prepare(command.config, command.workdir, data_memory=data_memory)

    def work() -> None:
        result = run.fit(trainer, command.workdir)
        console.say(f"wrote config.json, metrics.jsonl, checkpoints/ and figures/ in {command.workdir}")
        print(f"parameters after step {result['step']}: sha256 {result['params_sha256']}")
        if result.get("elbo") is not None:
            stderr = result["elbo_stderr"]  # one example has none
            error = "" if stderr is None else f" ± {stderr:.2f}"
            print(
                f"test elbo {result['elbo']:.2f}{error} nats per example (distortion "
                f"{result['distortion']:.2f}, rate {result['rate']:.2f}; {result['num_examples']:,} examples)"
            )
        elif "distortion" in result:
            print(f"test distortion {result['distortion']:.2f} nats per example (a plain autoencoder has no ELBO)")

    return work
