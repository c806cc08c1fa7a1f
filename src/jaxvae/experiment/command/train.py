"""`scripts/train.py`."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax

from jaxvae.checks import require
from jaxvae.experiment import cluster, console, run
from jaxvae.experiment.command.parsing import parse_with_config
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.config import Experiment
from jaxvae.parallel import ByPmap, OnMesh, OnOneDevice, Placement


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Train a VAE from a config file, or resume a run that was stopped.

    --config FILE names the file (default: the config of the run in --workdir, or configs/digits.py for a new one);
    every field of it can be set from here.
    """

    config: Experiment
    workdir: pathlib.Path
    """The folder of the run: config.json, metrics.jsonl, checkpoints/, figures/."""
    num_devices: int | None = None
    """The number of devices to train on, each with its part of every batch; by default one, or with several processes
    all their devices. It changes results only by rounding."""
    shard_params: bool = False
    """Whether parameters and optimizer state are sharded among the devices too, if they are too large for one."""
    pmap: bool = False
    """Whether the devices are driven by jax.pmap, each with whole parts of the batch (--config.num_parts)."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for a run of several processes with one workdir; auto on a cluster that JAX knows."""
    num_processes: int | None = None
    """The number of processes."""
    process_id: int | None = None
    """The number of this process, from 0."""
    data_memory_mib: int | None = None
    """The device memory that the training examples may fill, in MiB; by default half of it, at most half of the host's.
    A larger set is streamed in blocks that together take no more than this, provided that one batch fits. A .npy or a
    TFDS set is then not read whole into the host's memory either. It changes no number."""

    def __post_init__(self) -> None:
        mib = self.data_memory_mib
        require(mib is None or mib >= 1, f"--data-memory-mib is {mib}; write a whole number of at least 1")
        num = self.num_devices
        require(num is None or num >= 1, f"--num-devices is {num}; write a whole number of at least 1")
        require(
            num is not None or self.coordinator is not None or not (self.pmap or self.shard_params),
            "--pmap and --shard-params are for several devices; write --num-devices=N",
        )
        require(not (self.pmap and self.shard_params), "--pmap splits no parameters; leave out --shard-params")
        require(
            self.coordinator is not None or (self.num_processes is None and self.process_id is None),
            "several processes need --coordinator=HOST:PORT, the same for all of them",
        )


def train_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command, _ = parse_with_config(TrainCommand, argv, resumes=True)
    mib = command.data_memory_mib
    data_memory = None if mib is None else mib * 2**20
    if command.coordinator is not None:
        cluster.initialize(command.coordinator, command.num_processes, command.process_id)
    trainer = run.prepare(command.config, command.workdir, data_memory=data_memory, placement=_placement(command))

    def work() -> None:
        result = run.fit(trainer, command.workdir)
        if not cluster.is_first():
            return
        console.say(f"wrote config.json, metrics.jsonl, report.html, checkpoints/ and figures/ in {command.workdir}")
        print(f"parameters after step {result['step']}: sha256 {result['params_sha256']}")
        best = "" if result["model_step"] == result["step"] else f"; the best model, of step {result['model_step']}"
        if result.get("elbo") is not None:
            stderr = result["elbo_stderr"]  # None for a single example
            error = "" if stderr is None else f" ± {stderr:.2f}"
            print(
                f"test elbo {result['elbo']:.2f}{error} nats per example (distortion "
                f"{result['distortion']:.2f}, rate {result['rate']:.2f}; {result['num_examples']:,} examples{best})"
            )
        elif "distortion" in result:
            print(f"test distortion {result['distortion']:.2f} nats per example (no density q(z|x), and so no ELBO)")

    return work


def _placement(command: TrainCommand) -> Placement:
    """The placement on the devices that the command asks for.

    Raises:
      ValueError: there are fewer devices, or the options do not fit them.
    """
    devices = jax.devices()
    num = command.num_devices or (len(devices) if jax.process_count() > 1 else 1)
    require(
        num <= len(devices),
        f"--num-devices is {num}, but there are {len(devices)} ({devices[0].device_kind}); write at most that",
    )
    require(
        jax.process_count() == 1 or num == len(devices), "several processes use all devices; leave out --num-devices"
    )
    if command.pmap:
        require(jax.process_count() == 1, "--pmap is for the devices of one process; leave it out")
        return ByPmap(tuple(devices[:num]))
    if num == 1:
        return OnOneDevice()
    return OnMesh.of(devices[:num], shard_params=command.shard_params)
