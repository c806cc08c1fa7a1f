"""Files that are whole or not there, and errors that say which file they are about."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any


def write(path: pathlib.Path, text: str) -> None:
    """A file of text, in the place of an older one once it is whole.

    Raises:
      OSError: it could not be written; the older one is as it was.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """A value of JSON's own types, as `write` writes a text.

    Raises:
      OSError: see `write`.
    """
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write what takes the place of `path` once it is whole.

    Raises:
      OSError: it could not be written; the older one is as it was.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    with _named(path):
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def append(path: pathlib.Path, text: str) -> None:
    """More of a file.

    Raises:
      OSError: it could not be written.
    """
    with _named(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a full disk's names no file
        raise OSError(f"{path} could not be written ({error.strerror or error})") from error
