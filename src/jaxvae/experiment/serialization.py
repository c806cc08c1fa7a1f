"""Configs as data: JSON that names registered classes only, never an import path, so that reading one runs no code."""

import dataclasses
import inspect
import json
import math
import pathlib
import types
from typing import Any, TypeVar

import flax.linen as nn

from jaxvae import estimators, flows, likelihoods, model, networks, objectives, optimizers, posteriors, priors
from jaxvae.checks import require
from jaxvae.data import preprocess, sources
from jaxvae.experiment.config import Experiment, config_fields

T = TypeVar("T", bound=type[Any])

_CLASSES: dict[str, type] = {}


def register(cls: T) -> T:
    """Registers a class of config objects under its name, for `config.json`; use it on the classes of your own config.

    Raises:
      ValueError: the class is neither a dataclass nor a linen module, or another class has the name.
    """
    named = getattr(cls, "__name__", cls)
    require(
        isinstance(cls, type) and dataclasses.is_dataclass(cls), f"{named} is neither a dataclass nor a linen module"
    )
    known = _CLASSES.get(cls.__name__, cls)
    require(
        (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__),
        f"the name {cls.__name__} is taken by {known.__module__}; choose another",
    )
    _CLASSES[cls.__name__] = cls
    return cls


def _register_all(module: types.ModuleType) -> None:
    for cls in vars(module).values():
        own = inspect.isclass(cls) and f"{cls.__module__}.".startswith(f"{module.__name__}.")
        if own and not cls.__name__.startswith("_") and dataclasses.is_dataclass(cls) and not inspect.isabstract(cls):
            register(cls)  # type: ignore[type-var]


_AXES = (networks, flows, posteriors, priors, likelihoods, objectives, estimators)
for _module in (*_AXES, model, optimizers, preprocess, sources):
    _register_all(_module)
register(Experiment)


def to_data(config: Any, path: str = "config") -> Any:
    """A tree of config objects as JSON's types.

    Raises:
      ValueError: something in it is not data, such as a function, or its class is not registered.
    """
    if isinstance(config, nn.Module) or dataclasses.is_dataclass(config):
        name = type(config).__name__
        require(_CLASSES.get(name) is type(config), f"{name} is not registered; write @jaxvae.register above the class")
        return {"class": name} | {
            field: to_data(getattr(config, field), f"{path}.{field}") for field in config_fields(config)
        }
    if isinstance(config, tuple | list):
        return [to_data(item, path) for item in config]
    plain = (
        config is None or isinstance(config, bool | int | str) or (isinstance(config, float) and math.isfinite(config))
    )
    require(
        plain,
        f"{path} is {config!r}, which can't be stored in a config.json; write a number, a string or a registered class",
    )
    return config


def from_data(value: Any) -> Any:
    """The inverse of `to_data`: makes the tree of config objects.

    Raises:
      ValueError: `value` names an unknown class or field, or a class refuses a field's value.
    """
    if isinstance(value, list):
        return tuple(from_data(item) for item in value)
    if not isinstance(value, dict):
        return value
    fields = dict(value)
    name = fields.pop("class", None)
    require(name is not None, "the config has an object without a class, so it is not that of a run or a model")
    cls = _CLASSES.get(name) if isinstance(name, str) else None
    require(
        cls is not None,
        f"the config names an unknown class {name!r}; if it is one of your own, name the file that registers it, "
        "--config=FILE, or import it first",
    )
    assert cls is not None
    try:
        return cls(**{field: from_data(item) for field, item in fields.items()})
    except TypeError as error:
        raise ValueError(f"the config's {name} can't be made: {str(error).splitlines()[0]}") from None


def read(path: pathlib.Path) -> Experiment:
    """The experiment of a `config.json`.

    Raises:
      ValueError: the file can't be read or does not describe an experiment.
    """
    try:
        config = from_data(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as a config: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    require(isinstance(config, Experiment), f"{path} is not the config of a run; choose another folder")
    return config


def differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The paths at which two trees of `to_data` differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("class") == b.get("class"):
        names = list(dict.fromkeys([*a, *b]))
        return [d for n in names for d in differences(a.get(n), b.get(n), f"{path}.{n}" if path else n)]
    if isinstance(a, dict) and isinstance(b, dict):
        a, b = a.get("class"), b.get("class")
    return [] if a == b else [(path, a, b)]


def in_words(found: list[tuple[str, Any, Any]]) -> str:
    """The first three of `differences`, for a message; "there" is its first tree and "here" its second."""
    return ", ".join(f"{path} is {there} there and {here} here" for path, there, here in found[:3])
