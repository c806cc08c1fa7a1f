"""Parsing of a command line: typed overrides by tyro, config files, and one line for a mistake."""

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

from jaxvae.checks import place, reason, require
from jaxvae.experiment import serialization, workdir
from jaxvae.experiment.command.arguments import spread_lists
from jaxvae.experiment.command.messages import one_line
from jaxvae.experiment.config import Experiment

T = TypeVar("T")
R = TypeVar("R", bound="WithConfig")

DEFAULT_CONFIG = "configs/digits.py"
MAX_DRAWS = 2 * 10**9  # draws or steps of a command, which are counted in 32 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithConfig:
    """The options of every command on trained runs."""

    config: pathlib.Path | None = None
    """A config file to import first, for a run that uses registered user classes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfRun(WithConfig):
    """The options of a command on one trained run and its data."""

    workdir: pathlib.Path
    """The folder of the run."""
    data_dir: str | None = None
    """The folder of the TFDS sets or of the run's file, if it differs from the one in training."""


def _take_config_file(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Separates `--config FILE` from the other arguments, whose meaning depends on that file."""
    rest: list[str] = []
    files: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        option, given, file = argument.partition("=")
        if option != "--config":
            rest.append(argument)
            continue
        file = file if given else next(arguments, "")
        require(file != "", "--config needs a file: --config=configs/digits.py")
        files.append(file)
    require(len(files) <= 1, f"--config is given {len(files)} times; write it once")
    return next(iter(files), None), rest


def shipped(path: str) -> pathlib.Path:
    """A file of this repository by its path in it, whatever the working directory."""
    here = pathlib.Path(path)
    return here if here.exists() else pathlib.Path(sys.argv[0]).resolve().parents[1] / path


def load_config(file: str | pathlib.Path) -> Experiment:
    """The experiment that `get_config()` of a Python file returns.

    Raises:
      ValueError: the file does not exist, does not run, or has no `get_config` that returns an `Experiment`.
    """
    path = pathlib.Path(file)
    require(path.is_file(), f"--config={path} is not a file; write a config file such as {DEFAULT_CONFIG}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    require(spec is not None, f"--config={path} is not a Python file")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where annotations in the file are looked up
    config: Any
    beside = str(path.absolute().parent)
    if added := beside not in sys.path:
        sys.path.append(beside)  # last, so that a file there replaces no installed module
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except Exception as error:
        raise ValueError(f"--config={path}: {reason(error)}{place(error)}") from error
    finally:
        if added:
            sys.path.remove(beside)
    words = "write a function get_config() in it, which must return a jaxvae.Experiment"
    found = f", and returns {type(config).__name__}" if hasattr(module, "get_config") else ""
    require(isinstance(config, Experiment), f"--config={path}: {words}{found}")
    return config


def check_output_of(command: OfRun, path: pathlib.Path) -> None:
    """`check_output`, and refuses the run's data file.

    Raises:
      ValueError: the file can't be written, or must not be.
    """
    data = workdir.read_config(command.workdir).data
    places = [data] if command.data_dir is None else [data, data.moved_to(command.data_dir)]
    known = [pathlib.Path(place.name) for place in places]
    require(
        not any(path.exists() and file.exists() and path.samefile(file) for file in known),
        f"--output={path} is the run's data, which would be lost; write another file",
    )
    check_output(path)


def check_output(path: pathlib.Path) -> None:
    """Refuses a file that can't be written; does not change an existing file, nor leave a new one.

    Raises:
      ValueError: the file can't be written.
    """
    new = not path.exists()
    try:
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise ValueError(f"--output={path} can't be written ({error.strerror})") from None


def parse(command: type[T], argv: Sequence[str], *, repeated: bool = False, **defaults: Any) -> T:
    """Parses arguments with tyro, and turns a mistake into a `ValueError` of one line.

    Args:
      command: the dataclass to fill in.
      argv: the arguments.
      repeated: whether a tuple is written by repeating its option, not as several values of one option.
      **defaults: default values of fields.

    Raises:
      ValueError: an argument is unknown, mistyped, out of range or missing.
    """
    import tyro

    arguments = spread_lists(argv)
    if defaults:
        fields = dataclasses.fields(command)  # type: ignore[arg-type]
        missing = {f.name: tyro.MISSING for f in fields if f.default is dataclasses.MISSING}
        default: Any = command(**missing | defaults)
    else:
        default = tyro.MISSING_NONPROP
    told = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(told),
            _wide_terminal("-h" in argv or "--help" in argv),
            warnings.catch_warnings(action="ignore"),  # tyro's error repeats its warnings about types
        ):
            return tyro.cli(
                command,
                config=(
                    tyro.conf.AvoidSubcommands,
                    tyro.conf.FlagConversionOff,
                    *((tyro.conf.UseAppendAction,) if repeated else ()),
                ),
                args=arguments,
                default=default,
                use_underscores=True,
                prog=pathlib.Path(sys.argv[0]).name,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(one_line(told.getvalue(), command.__name__)) from None


def parse_with_config(command: type[T], argv: Sequence[str], *, resumes: bool = False) -> tuple[T, str]:
    """A command whose `config` is that of a file, changed by the arguments; and the file's name.

    Args:
      command: the dataclass to fill in.
      argv: the arguments. Without `--config`, the file is `DEFAULT_CONFIG`.
      resumes: whether it is instead the config.json in `--workdir`, if that holds a run.

    Raises:
      ValueError: see `parse` and `load_config`.
    """
    given, rest = _take_config_file(argv)
    folder = _workdir_with_config(rest) if resumes and given is None else None
    if folder is not None:
        file, config = str(folder / "config.json"), workdir.read_config(folder)
    else:
        file = str(shipped(DEFAULT_CONFIG)) if given in (None, DEFAULT_CONFIG) else str(given)
        config = load_config(file)
    try:
        return parse(command, rest, config=config), file
    except Exception:  # tyro fails in many ways at what is not data
        serialization.to_data(config)  # a clearer error for what is not data, and so not an option
        raise


def _workdir_with_config(argv: Sequence[str]) -> pathlib.Path | None:
    values = [value for option, value in itertools.pairwise([*argv, ""]) if option == "--workdir"]
    values += [argument.partition("=")[2] for argument in argv if argument.startswith("--workdir=")]
    folders = (pathlib.Path(value) for value in values)
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def parse_of_run(command: type[R], argv: Sequence[str], *, repeated: bool = False) -> R:
    """A command on a trained run; runs its config file, if there is one, for the classes that it registers.

    Raises:
      ValueError: see `parse` and `load_config`.
    """
    parsed = parse(command, argv, repeated=repeated)
    if parsed.config is not None:
        load_config(parsed.config)
    return parsed


@contextlib.contextmanager
def _wide_terminal(as_it_is: bool) -> Any:
    """Makes tyro's messages independent of the terminal's width, so that they can be joined into one line."""
    before = os.environ.get("COLUMNS")
    if not as_it_is:
        os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if not as_it_is:
            os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
