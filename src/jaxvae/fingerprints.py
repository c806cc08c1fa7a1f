"""Fingerprints of arrays, files and JSON values: SHA-256 and, for arrays, names, shapes and types."""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from jaxvae import files
from jaxvae.typing import Params

SUMS = "SHA256SUMS"


def digest(params: Params) -> str:
    """The SHA-256 of a pytree of arrays: names, shapes, types and bits."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def seal(value: dict[str, Any]) -> str:
    """The SHA-256 of a value of JSON's types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def named(tree: Any) -> dict[str, Any]:
    """Each leaf by its name in the tree, such as `encoder/dense_0/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Each array's shape and type by its name in the tree and, for NumPy arrays, its SHA-256."""

    def about(leaf: Any) -> dict[str, Any]:
        said = {"shape": list(leaf.shape), "dtype": str(np.dtype(leaf.dtype))}
        if isinstance(leaf, np.ndarray):
            said["sha256"] = hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()
        return said

    return {name: about(leaf) for name, leaf in named(tree).items()}


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """A line for each array in which two trees, given by `describe`, differ in name, shape or type."""

    def show(leaves: dict[str, Any], name: str) -> str:
        leaf = leaves.get(name)
        return "not" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"

    shown = {name: (show(saved, name), show(wanted, name)) for name in {**wanted, **saved}}
    return [f"{name} is {there} there and {here} here" for name, (there, here) in shown.items() if there != here]


def write_sums(folder: pathlib.Path) -> None:
    """Writes a SHA256SUMS of all files in a folder, in the format of `sha256sum -c`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{_file_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    files.write(folder / SUMS, "".join(lines))


def unlike_sums(folder: pathlib.Path) -> list[str]:
    """The files of a folder that differ from its SHA256SUMS, or SHA256SUMS itself if it is empty.

    Raises:
      OSError: a file can't be read.
      ValueError: a line of SHA256SUMS is malformed.
    """
    lines = [line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
    return [name for sha, name in lines if _file_digest(folder / name) != sha] if lines else [SUMS]


def _file_digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
