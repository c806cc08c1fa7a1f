"""The command lines of `scripts/`: typed overrides by tyro, one clear line for a mistake, and an exit code.

0: done. 1: the run diverged, or a file could not be read or written. 2: something in the command, the config or the
data is wrong, and nothing was changed.
130, 143: stopped by SIGINT or SIGTERM; a training run was saved first.
"""

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import json
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from jaxvae.experiment import console
from jaxvae.experiment.config import Experiment
from jaxvae.numerics import require, require_number

T = TypeVar("T")

DEFAULT_CONFIG = "configs/digits.py"


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Train a VAE from a config file, or go on with a run that was stopped.

    --config FILE names the file (default: configs/digits.py); every field of it can be set from here.
    """

    config: Experiment
    workdir: pathlib.Path
    """The folder of the run: config.json, metrics.jsonl, checkpoints/, figures/."""


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


def train_main(argv: Sequence[str] | None = None) -> int:
    return _run(_train, sys.argv[1:] if argv is None else argv)


def evaluate_main(argv: Sequence[str] | None = None) -> int:
    return _run(_evaluate, sys.argv[1:] if argv is None else argv)


def generate_main(argv: Sequence[str] | None = None) -> int:
    return _run(_generate, sys.argv[1:] if argv is None else argv)


def _run(prepare: Callable[[Sequence[str]], Callable[[], None]], argv: Sequence[str]) -> int:
    """Prepares a command and then does its work; what can be expected to go wrong becomes a line and an exit code.

    A `ValueError` is the user's mistake while the command is prepared. Later it is ours, and its traceback is shown.
    """
    from jaxvae.experiment.loop import Diverged, Interrupted

    try:
        try:
            work = prepare(argv)
        except (ValueError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        work()
    except (Diverged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 128 + error.signum
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _train(argv: Sequence[str]) -> Callable[[], None]:
    from jaxvae.experiment import run

    file, rest = _take_config_file(argv)
    command = parse(TrainCommand, rest, config=load_config(file))
    trainer = run.prepare(command.config, command.workdir)

    def work() -> None:
        result = run.fit(trainer, command.workdir)
        console.say(f"wrote config.json, metrics.jsonl, checkpoints/ and figures/ in {command.workdir}")
        print(f"parameters after step {result['step']}: sha256 {result['params_sha256']}")
        if result.get("elbo") is not None:
            print(
                f"test elbo {result['elbo']:.2f} ± {result['elbo_stderr']:.2f} nats per example (distortion "
                f"{result['distortion']:.2f}, rate {result['rate']:.2f}; {result['num_examples']:,} examples)"
            )
        elif "distortion" in result:
            print(f"test distortion {result['distortion']:.2f} nats per example (a plain autoencoder has no ELBO)")

    return work


def _evaluate(argv: Sequence[str]) -> Callable[[], None]:
    import jax

    from jaxvae import data
    from jaxvae.experiment import run
    from jaxvae.experiment.session import Keys, make_evaluator

    command = parse(EvaluateCommand, argv)
    experiment = _read_run(command.workdir, command.config)
    source = experiment.data
    if command.data_dir is not None:
        source = dataclasses.replace(source, data_dir=command.data_dir)
    params, step = run.restore_params(experiment, command.workdir)
    found = data.find(source)
    require(command.split in found.sizes, f"{source.name} has no {command.split} split, but {', '.join(found.sizes)}")
    experiment.fit_to(found)
    dataset = found.read(console.say)
    experiment = experiment.fit_to(dataset)
    split = getattr(dataset, command.split)
    num = command.num_importance_samples
    evaluate = make_evaluator(experiment, dataset)

    def work() -> None:
        key = Keys.of(experiment).evaluate if command.seed is None else jax.random.key(command.seed)
        with contextlib.closing(
            console.Count(len(split.x), title=f"evaluate, {num:,} draws each,", unit="example")
        ) as bar:
            terms = evaluate(params, key, split.x, num_importance_samples=num, tick=bar.add)
        result = run.summarize(experiment, dataset, terms)
        if not experiment.model.posterior.has_density:
            console.say("no bound on log p(x) without a density q(z|x): elbo, rate and log_evidence are null")
        print(
            json.dumps({"split": command.split, "step": step, "num_importance_samples": num} | result, allow_nan=False)
        )

    return work


def _generate(argv: Sequence[str]) -> Callable[[], None]:
    import jax
    import numpy as np

    from jaxvae import plots
    from jaxvae.experiment import figures, run

    command = parse(GenerateCommand, argv)
    experiment = _read_run(command.workdir, command.config)
    params, _ = run.restore_params(experiment, command.workdir)
    try:
        command.output.open("ab").close()
    except OSError as error:
        raise ValueError(f"--output={command.output} can't be written ({error.strerror})") from None

    def work() -> None:
        key = jax.random.key(command.seed)
        if command.output.suffix == ".npy":
            np.save(command.output, experiment.model.generate(params, key, num=command.num, sample=command.sample))
        else:
            images = figures.sample_images(experiment, params, key, num=command.num, sample=command.sample)
            plots.samples(images, command.output)
        print(command.output)

    return work


def _read_run(folder: pathlib.Path, config: pathlib.Path | None) -> Experiment:
    from jaxvae.experiment import serialization

    if config is not None:
        load_config(config)  # for what it registers
    path = folder / "config.json"
    require(path.is_file(), f"--workdir={folder} holds no run (no config.json); write the folder of a run of train.py")
    return serialization.read(path)


def _take_config_file(argv: Sequence[str]) -> tuple[str, list[str]]:
    """`--config FILE` out of the arguments: the rest depends on what is in the file."""
    rest, file = list(argv), DEFAULT_CONFIG
    for i, argument in enumerate(argv):
        if argument == "--config":
            require(i + 1 < len(argv), "--config needs a file: --config=configs/digits.py")
            file, rest = argv[i + 1], [*argv[:i], *argv[i + 2 :]]
        elif argument.startswith("--config="):
            file, rest = argument.removeprefix("--config="), [*argv[:i], *argv[i + 1 :]]
    if file == DEFAULT_CONFIG and not pathlib.Path(file).exists():
        file = str(pathlib.Path(sys.argv[0]).resolve().parents[1] / DEFAULT_CONFIG)
    return file, rest


def load_config(file: str | pathlib.Path) -> Experiment:
    """The `get_config()` of a Python file.

    Raises:
      ValueError: there is no such file, it does not run, or it has no `get_config` that returns an `Experiment`.
    """
    path = pathlib.Path(file)
    require(path.is_file(), f"--config={path} is not a file; write a config file such as {DEFAULT_CONFIG}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    require(spec is not None, f"--config={path} is not a Python file")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where annotations in the file are looked up
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        raise ValueError(f"--config={path}: {type(error).__name__}: {error}") from error
    require(isinstance(config, Experiment), f"--config={path}: get_config() must return a jaxvae.Experiment")
    return config


def parse(command: type[T], argv: Sequence[str], **defaults: Any) -> T:
    """tyro, with a mistake as a `ValueError` of one line.

    Raises:
      ValueError: an argument is unknown, mistyped, out of range or missing.
    """
    import tyro

    arguments = _spread_lists(argv)
    if defaults:
        names = {f.name: tyro.MISSING for f in dataclasses.fields(command)}  # type: ignore[arg-type]
        default: Any = command(**names | defaults)
    else:
        default = tyro.MISSING_NONPROP
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), _wide_terminal("-h" in argv or "--help" in argv):
            return tyro.cli(
                command,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
                args=arguments,
                default=default,
                use_underscores=True,
                prog=pathlib.Path(sys.argv[0]).name,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_line(told.getvalue())) from None


def _spread_lists(argv: Sequence[str]) -> list[str]:
    """`--path.hidden=200,200` as tyro wants it, `--path.hidden 200 200`; and no such option without a value."""
    result: list[str] = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        numbers = value.strip("()[]").split(",")
        if name.startswith("--") and equals and all(_is_number(n) for n in numbers) and len(numbers) > 1:
            result += [name, *(n.strip() for n in numbers)]
        else:
            result.append(argument)
    for option, following in itertools.pairwise([*result, "--"]):
        bare = option.startswith("--config.") and "=" not in option
        require(not (bare and following.startswith("--")), f"{option} has no value; write {option}=VALUE")
        empty = option.startswith("--config.") and option.endswith("=")
        require(not empty, f"{option} has no value; write {option}VALUE")
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _wide_terminal(as_it_is: bool) -> Any:
    """tyro's messages unbroken by the width of the terminal, so that they can be made one line."""
    before = os.environ.get("COLUMNS")
    if not as_it_is:
        os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if not as_it_is:
            os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def _one_line(boxed: str) -> str:
    """What tyro's box says, without the box, its rules and its way to the help text."""
    lines = [line.strip("│╭╮╰╯─ ") for line in boxed.splitlines()]
    kept = [line for line in lines[1:] if line and not line.startswith("For full helptext")]
    return " ".join(kept)
