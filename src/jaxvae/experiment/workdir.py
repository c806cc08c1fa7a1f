"""The files of a run: `config.json`, `data.json`, `metrics.jsonl`, `checkpoints/`, `figures/`."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import filelock

from jaxvae import files
from jaxvae.checks import reason, require
from jaxvae.data.dataset import KnownBy
from jaxvae.experiment import cluster, serialization
from jaxvae.experiment.config import Experiment

_DATA, _LOCK, _SWEEP = "data.json", ".lock", "sweep-{}.partial"


def check(folder: pathlib.Path) -> None:
    """Refuses a folder that can't hold a run, and changes nothing in it.

    Raises:
      ValueError: see `check_writable`; or it holds something else, which the run would replace.
    """
    check_writable(folder)
    ours = ("checkpoints", "metrics.jsonl", "figures", "report.html")
    stray = [name for name in ours if _is_there(folder / name)]
    require(
        not stray or (folder / "config.json").exists(),
        f"--workdir={folder} holds {' and '.join(stray)} but no config.json; choose another folder",
    )


def _is_there(path: pathlib.Path) -> bool:
    """Whether it is a file, or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def check_writable(folder: pathlib.Path) -> None:
    """Refuses a folder that can't be written in, and changes nothing in it.

    Raises:
      ValueError: it is a file, it can't be written, or another process is using it.
    """
    require(folder.is_dir() or not folder.exists(), f"--workdir={folder} is a file; write the name of a folder")
    parent = next((p for p in [folder, *folder.absolute().parents] if p.exists()), folder)
    require(
        parent.is_dir() and os.access(parent, os.W_OK | os.X_OK),
        f"--workdir={folder} can't be written; choose another folder",
    )
    # The first process checks for all: if two tried the lock at once, each would refuse the folder because of the
    # other.
    if cluster.is_first() and (folder / _LOCK).exists() and os.access(folder / _LOCK, os.W_OK):
        try:
            with locked(folder):
                pass
        except InUse as error:
            raise ValueError(str(error)) from None


def check_config(folder: pathlib.Path, experiment: Experiment) -> None:
    """Refuses a folder that holds a run with another config; `experiment` is fitted to the data.

    Raises:
      ValueError: the folder holds such a run, or the config can't be written as data.
    """
    identity(experiment)  # also for a new run: refuses what is not data
    if not (folder / "config.json").exists():
        return
    before = read_config(folder)
    paths = {path for path, _, _ in obstacles(before, experiment)}
    whole = serialization.differences(*(serialization.to_data(e) for e in (before, experiment)))
    changed = [difference for difference in whole if difference[0] in paths]
    if not changed:
        return
    words, same_model = serialization.in_words(changed), not any(path.startswith("model.") for path, _, _ in changed)
    if paths == {"num_epochs"} and experiment.num_epochs > before.num_epochs:
        words = f"{words}, on which {experiment.depends_on_its_length} depends"
    trained = any(_is_there(folder / "checkpoints" / name) for name in ("latest", "best"))
    start = (
        ", or publish its model and start from it there: --config.start_from=MODEL" if same_model and trained else ""
    )
    raise ValueError(
        f"--workdir={folder} holds a run with another config: {words}; choose another folder{start}. To go on with "
        "that run, give its options again"
    )


def check_data(folder: pathlib.Path, now: KnownBy) -> None:
    """Refuses data whose fingerprint differs from that of the data with which the folder's run began.

    Raises:
      ValueError: the fingerprints differ, or the run's can't be read.
    """
    path = folder / _DATA
    if not path.exists():  # a new run, or one of an earlier version
        return
    try:
        before: KnownBy = {k: dict(v) for k, v in dict(json.loads(path.read_text(encoding="utf-8"))).items()}
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} can't be read ({reason(error)}); remove it, if the data are those of the run"
        ) from None
    for split in {**before, **now}:
        if split == "start_from":
            require(
                split not in now or now[split] == before.get(split),
                f"{folder} holds a run that started from other parameters than start_from has now; put the old model "
                "back, or start a new run",
            )
            continue
        there, here = before.get(split, {}), now.get(split, {})
        if split == "values":
            require(
                not there or there == here,  # a run of an earlier version has none
                f"{folder} holds a run on other data: their values are in {there.get('in')} there and in "
                f"{here.get('in')} here; put the old data back, start a new run, or, if they are the same in another "
                f"form, remove {path}",
            )
            continue
        shapes = there.get("shape"), here.get("shape")
        what = "other values" if shapes[0] == shapes[1] else f"the shape {shapes[0]} there and {shapes[1]} here"
        require(
            there == here,
            f"{folder} holds a run on other data: the {split} examples have {what}; put the old data back, start a new "
            f"run, or, if they are the same in another form, remove {path}",
        )


def check_apart(folder: pathlib.Path) -> None:
    """Refuses, for a single run, the folder of a sweep or of a run that an unfinished sweep will still write.

    Raises:
      ValueError: it is such a folder.
    """
    is_run = (folder / "config.json").exists()
    of_a_sweep = (folder / "sweep.json").exists() or unfinished_sweeps(folder)
    require(is_run or not of_a_sweep, f"--workdir={folder} is the folder of a sweep; choose another folder")
    beside = unfinished_sweeps(folder.absolute().parent)
    require(
        not (is_run and beside),
        f"--workdir={folder} is of an unfinished sweep ({', '.join(p.name for p in beside)} beside it); finish "
        "the sweep, or choose another folder",
    )


def unfinished_sweeps(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in which the sweeps in `folder` are saved until they end."""
    return sorted(folder.glob(_SWEEP.format("*")))


def sweep_folder(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The folder in which a sweep in `folder` is saved until it ends; `name` identifies the sweep."""
    return folder / _SWEEP.format(name)


class InUse(OSError):
    """Another process is using the folder."""


def require_config(folder: pathlib.Path, experiment: Experiment) -> None:
    """Refuses a locked folder to which another process has given another config since this one prepared it.

    Raises:
      InUse: the folder's config is not that of `experiment`.
      ValueError: it has none.
    """
    if identity(read_config(folder)) != identity(experiment):
        raise InUse(f"--workdir={folder} was given another config by another process; choose another folder")


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks the folder for this process; the operating system releases the lock however the process ends.

    Raises:
      InUse: another process has the lock.
    """
    try:
        with filelock.FileLock(folder / _LOCK, blocking=False):
            yield
    except filelock.Timeout:
        raise InUse(
            f"--workdir={folder} is in use by another process; wait until it ends, or choose another folder"
        ) from None


def identity(experiment: Experiment) -> Any:
    """A config as data, without the location of the examples, so that a run may resume on another machine."""
    config = serialization.to_data(experiment)
    del config["data"]["data_dir"]
    if experiment.start_from is None:  # as in runs of an earlier version
        del config["start_from"]
    if experiment.data.is_file:
        config["data"]["name"] = "a file"
    return config


def obstacles(before: Experiment, now: Experiment) -> list[tuple[str, Any, Any]]:
    """The differences that keep a run that began as `before` from going on as `now`.

    More epochs are none if the longer run begins with the very steps of the shorter one.
    """
    longer = now.num_epochs > before.num_epochs and now.depends_on_its_length is None
    found = serialization.differences(identity(before), identity(now))
    return [(path, *values) for path, *values in found if not (longer and path == "num_epochs")]


def create(folder: pathlib.Path, experiment: Experiment, data: KnownBy) -> None:
    """Makes the folder, with its config and its data's fingerprint; updates an older config.

    Of the config, the location of the data may have changed, and the number of epochs: then the run has not ended yet.

    Raises:
      ValueError: the folder can't be written, or another process uses it or has meanwhile begun another run there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            check_config(folder, experiment)
            check_data(folder, data)
            path, config = folder / "config.json", serialization.to_data(experiment)
            before = serialization.read(path) if path.exists() else None
            if before is not None and experiment.num_epochs > before.num_epochs:
                MetricsLog(folder, sys.maxsize)  # without the line of the test split
            if before is None or serialization.to_data(before) != config:
                files.write_json(path, config)
            if not (folder / _DATA).exists():
                files.write_json(folder / _DATA, data)
    except InUse as error:
        raise ValueError(str(error)) from None
    except OSError as error:
        said = error.strerror or error  # the errors of `files` have no strerror, but name the file
        raise ValueError(f"--workdir={folder} can't be written ({said}); choose another folder") from None


def read_config(folder: pathlib.Path) -> Experiment:
    """The experiment of a run.

    Raises:
      ValueError: the folder holds no run, or its config can't be read.
    """
    path = folder / "config.json"
    require(
        path.is_file() or not (folder / "sweep.json").exists(),
        f"--workdir={folder} is the folder of a sweep; write that of one of its runs, named in sweep.json",
    )
    require(path.is_file(), f"--workdir={folder} holds no run (no config.json); write the folder of a run of train.py")
    require(
        not (folder / "model.safetensors").exists(),
        f"--workdir={folder} is a published model, which jaxvae.load_model opens; write the folder of a run",
    )
    return serialization.read(path)


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, in nats per example."""

    def __init__(self, folder: pathlib.Path, step: int, *, writes: bool = True) -> None:
        """Opens the log of a run that resumes from `step`; drops later lines, which the run will write again.

        Without `writes`, another process writes the file, and this one only keeps the records.
        """
        self._path, self._writes = folder / "metrics.jsonl", writes
        self.records = [r for r in read_metrics(folder) if r["step"] <= step and r["split"] != "test"]
        if writes:
            files.write(self._path, "".join(json.dumps(r) + "\n" for r in self.records))

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Adds a line.

        Raises:
          OSError: the line could not be written.
        """
        self.records.append({"step": step, "split": split} | values)
        if self._writes:
            files.append(self._path, json.dumps(self.records[-1], allow_nan=False) + "\n")


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`, without a last line that a crash cut off."""
    path = folder / "metrics.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def is_finished(folder: pathlib.Path) -> bool:
    """Whether the folder's run reached its end and was measured on the test split."""
    return any(record["split"] == "test" for record in read_metrics(folder))
