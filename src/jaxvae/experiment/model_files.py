"""A model in two files that may come from anybody: `model.safetensors`, the arrays, and `config.json`, the choices.

Loading runs no code from them. They name registered classes only. The arrays must have the names, shapes and types of
the model's parameters, which `jax.eval_shape` finds before an array is allocated.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import stat
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import files
from jaxvae.checks import reason, require
from jaxvae.experiment import serialization
from jaxvae.experiment.config import check_types
from jaxvae.fingerprints import describe, differences, named, seal
from jaxvae.model import VAE
from jaxvae.typing import Params

FORMAT = 1  # of the two files; a later format is refused, and the message names it
_CONFIG, _ARRAYS = "config.json", "model.safetensors"
_CONFIG_BYTES = 2**16
_HEADER_BYTES = 2**10  # at most, for each array
_TYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    "C64": "complex64",
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"{letter}{n}": f"{name}{n}" for letter, name in (("I", "int"), ("U", "uint")) for n in (8, 16, 32, 64)},
}


class LoadedModel(NamedTuple):
    """A model and its parameters."""

    model: VAE
    params: Params


def save_model(path: str | os.PathLike[str], model: VAE, params: Params) -> None:
    """Writes a model into a new folder, for anybody to load.

    Args:
      path: the folder; it is made, and is complete or does not exist.
      model: the model, with its `event_shape`; user classes must be registered (`jaxvae.register`), here and where
        it is loaded.
      params: its parameters.

    Raises:
      ValueError: `params` are not the model's or not finite, something in the model can't be written as data, or
        `path` exists already.
      OSError: the folder can't be written.
    """
    import safetensors.numpy

    folder = pathlib.Path(path).absolute()
    require(not os.path.lexists(folder), f"{path} exists already; choose another folder")
    arrays = jax.tree.map(np.asarray, params)
    different = differences(describe(arrays), describe(model.param_shapes()))
    require(not different, f"params are not those of the model: {'; '.join(different[:3])}")
    leaves = {name: np.asarray(leaf, order="C") for name, leaf in named(arrays).items()}
    for name, leaf in leaves.items():
        require(str(leaf.dtype) in _TYPES.values(), f"params: {name} has the type {leaf.dtype}, which can't be saved")
        finite = np.isfinite(leaf.astype(np.float32) if leaf.dtype.kind == "V" else leaf).all()
        require(bool(finite), f"params: {name} has values that are NaN or infinite")
    config: dict[str, Any] = {
        "format": FORMAT,
        "versions": {"jaxvae": importlib.metadata.version("jaxvae"), "jax": jax.__version__},
        "model": serialization.to_data(model, "model"),
    }
    data = safetensors.numpy.save(leaves)
    config["files"] = {_ARRAYS: hashlib.sha256(data).hexdigest()}
    with files.named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as partial:
            whole = pathlib.Path(partial) / "model"
            whole.mkdir()
            (whole / _ARRAYS).write_bytes(data)
            (whole / _CONFIG).write_text(files.as_json(config | {"sha256": seal(config)}), "utf-8")
            whole.rename(folder)


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Reads a model that `save_model` wrote, or that somebody claims it wrote.

    No code from the files is run, no other file is read, and no array is allocated before its size is known to match
    the model that the files describe. At most about three times the bytes of the parameters are needed.

    Args:
      path: the folder.

    Raises:
      ValueError: the folder holds no such model, or not what was saved; the message names the file and what is wrong.
    """
    try:
        return _load(pathlib.Path(path))
    except ValueError as error:
        # The message may quote a stranger's names, which must not send control characters to the terminal.
        line = "".join(c if c.isprintable() else "?" for c in str(error))
        raise ValueError(line if len(line) < 600 else f"{line[:600]} …") from None


def _load(folder: pathlib.Path) -> LoadedModel:
    config = _read_config(folder / _CONFIG)
    model = _read_model(folder / _CONFIG, config["model"])
    try:
        abstract = model.param_shapes()
        leaves = named(abstract)
        size = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves.values())
    except Exception as error:
        raise ValueError(f"{folder / _CONFIG} describes a model that can't be built ({reason(error)})") from None
    data = _read_file(folder / _ARRAYS, size, size + (len(leaves) + 1) * _HEADER_BYTES)
    said = config["files"][_ARRAYS]
    require(hashlib.sha256(data).hexdigest() == said, f"{folder / _ARRAYS} is not what was saved (SHA-256)")
    arrays = _read_arrays(folder / _ARRAYS, data, abstract)
    params = jax.tree.unflatten(jax.tree.structure(abstract), [jnp.asarray(arrays[name]) for name in leaves])
    return LoadedModel(model, params)


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    """The config, verified to be the one that was saved."""
    data = _read_file(path, 2, _CONFIG_BYTES)
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as JSON ({reason(error)})") from None
    require(isinstance(config, dict), f"{path} does not hold a model's config")
    version = config.get("format")
    require(
        type(version) is int and version >= 1,
        f"{path} does not hold a model's config (it has no format); scripts/publish.py makes one from a run's folder",
    )
    require(
        version <= FORMAT,
        f"{path} has the format {version}, but this version of the library reads up to {FORMAT}; install a later one",
    )
    try:
        sealed = config.pop("sha256", None) == seal(config)
        expected = set(config) == {"format", "versions", "model", "files"} and set(config["files"]) == {_ARRAYS}
    except (TypeError, ValueError, RecursionError):
        sealed = expected = False
    require(sealed and expected, f"{path} is not what was saved")
    return config


def _read_model(path: pathlib.Path, data: Any) -> VAE:
    try:
        model = serialization.from_data(data)
        require(isinstance(model, VAE), f"it is {type(model).__name__}, not a VAE")
        check_types(model, "model")
        require(model.event_shape is not None, "model.event_shape is missing")
    except Exception as error:  # including those of any class's own checks
        raise ValueError(f"{path} does not describe a model: {reason(error)}") from None
    return model


def _read_file(path: pathlib.Path, low: int, high: int) -> bytes:
    """The content of a regular file that is not a link and has from `low` to `high` bytes."""
    try:
        # Neither waits for a pipe's other end nor follows a link out of the folder.
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, os.O_RDONLY | flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            require(stat.S_ISREG(status.st_mode), f"{path} is not a file")
            size = status.st_size
            expected = f"{low:,} to {high:,}"
            require(low <= size <= high, f"{path} has {size:,} bytes, but what it should hold takes {expected}")
            return file.readall()[:high]
    except OSError as error:
        link = " (it is a link; put the file itself there)" if path.is_symlink() else ""
        raise ValueError(f"{path} can't be read: {error.strerror}{link}") from None


def _read_arrays(path: pathlib.Path, data: bytes, abstract: Any) -> dict[str, np.ndarray]:
    import safetensors

    try:
        stored = dict(safetensors.deserialize(data))
    except Exception as error:
        raise ValueError(f"{path} can't be read as safetensors ({reason(error)})") from None
    found = {name: {"shape": list(a["shape"]), "dtype": _TYPES.get(a["dtype"])} for name, a in stored.items()}
    different = differences(found, describe(abstract))
    require(not different, f"{path} does not hold the model's parameters: {'; '.join(different[:3])}")
    return {
        name: np.frombuffer(a["data"], np.dtype(_TYPES[a["dtype"]])).reshape(a["shape"]) for name, a in stored.items()
    }
