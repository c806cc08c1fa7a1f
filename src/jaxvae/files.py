"""Atomic writing of files, with errors that name the file."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any


def write(path: pathlib.Path, text: str) -> None:
    """Writes a text file, which replaces an older one only once it is complete.

    Raises:
      OSError: the file could not be written; the older one is unchanged.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value of JSON's types, in the same way as `write`.

    Raises:
      OSError: see `write`.
    """
    write(path, as_json(value))


def as_json(value: Any) -> str:
    """A value of JSON's types as the text of a file."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path to write to, which replaces `path` once it is complete.

    Raises:
      OSError: the file could not be written; the older one is unchanged.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    with named(path):
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def append(path: pathlib.Path, text: str) -> None:
    """Appends text to a file.

    Raises:
      OSError: the file could not be written.
    """
    with named(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Makes an error of writing name the file or folder `path`."""
    try:
        yield
    except OSError as error:  # the error of a full disk names no file
        raise OSError(f"{path} could not be written ({error.strerror or error})") from error
