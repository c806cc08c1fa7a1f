"""`scripts/publish.py`."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from jaxvae.checks import require
from jaxvae.experiment import console, restoring, workdir
from jaxvae.experiment.command.parsing import WithConfig, parse_of_run
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.model_files import load_model, save_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishCommand(WithConfig):
    """Write a run's model for others: model.safetensors and config.json, which `jaxvae.load_model` opens.

    The model is the one that `evaluate.py` measures. It contains neither data nor optimizer nor paths of this machine.
    """

    workdir: pathlib.Path
    """The folder of the run."""
    output: pathlib.Path
    """The folder to make; it must not exist yet."""

    def __post_init__(self) -> None:
        require(not os.path.lexists(self.output), f"--output={self.output} exists already; write another folder")


def publish_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command = parse_of_run(PublishCommand, argv)
    experiment = workdir.read_config(command.workdir)
    params, step = restoring.restore_params(experiment, command.workdir)

    def work() -> None:
        save_model(command.output, experiment.model, params)
        load_model(command.output)  # others will do so
        console.say(f"wrote the model of step {step:,}, model.safetensors and config.json, in {command.output}")
        print(command.output)

    return work
