"""`scripts/sweep.py`."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

from jaxvae.checks import require
from jaxvae.experiment import console, stopping, sweep
from jaxvae.experiment.command.parsing import parse_with_config
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.sweep import summary as summaries


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Train a VAE with several seeds, or several weights β of the KL, in one program; plot its rate and distortion.

    Writes sweep.json and sweep.png, and a folder for each run (seed-3, beta-0.5) that evaluate.py and the others can
    open. A sweep that is stopped is resumed by the same command. --config FILE names the config (default:
    configs/digits.py); every field of it can be set from here.
    """

    config: Experiment
    workdir: pathlib.Path
    """The folder of the sweep."""
    num_seeds: int | None = None
    """The number of seeds, from the config's own upwards."""
    betas: tuple[float, ...] | None = None
    """The weights of the KL, with the config's seed: --betas=0.5,1,2."""


def sweep_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command, _ = parse_with_config(SweepCommand, argv)
    prepared = sweep.prepare(_experiments(command), command.workdir)

    def work() -> None:
        summary = summaries.save(sweep.finish(prepared, command.workdir), command.workdir)
        drawn = summaries.draw(summary, command.workdir / "sweep.png")
        files = "sweep.json, sweep.png" if drawn else "sweep.json"
        console.say(f"wrote {files} and the folders of {len(prepared.trainers)} runs in {command.workdir}")
        print(summaries.table(summary))
        print(json.dumps(summary, allow_nan=False))
        sweep.clear(prepared, command.workdir)
        if all(row["diverged"] for row in summary["replicas"]):
            raise stopping.Diverged("all runs diverged; lower optimizer.learning_rate or set optimizer.clip_norm")

    return work


def _experiments(command: SweepCommand) -> dict[str, Experiment]:
    num, betas = command.num_seeds, command.betas
    require((num is None) != (betas is None), "a sweep is over seeds or over β; write --num-seeds=N or --betas=0.5,1,2")
    if num is not None:
        require(2 <= num <= 1000, f"--num-seeds is {num}; write a whole number from 2 to 1,000")
        return sweep.over_seeds(command.config, num)
    assert betas is not None
    require(len(betas) > 1, "--betas has fewer than two values; write several, as in --betas=0.5,1,2")
    return sweep.over_betas(command.config, betas)
