"""Text files that are whole or not there, and errors that say which file they are about."""

import contextlib
import pathlib
from collections.abc import Iterator


def write(path: pathlib.Path, text: str) -> None:
    """A file, in the place of an older one once it is whole.

    Raises:
      OSError: it could not be written; the older one is as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    with _named(path):
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write what takes the place of `path` once it is whole.

    Raises:
      OSError: it could not be written; the older one is as it was.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror or error})") from error
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
    except OSError as error:
        error.filename = str(path)  # a full disk's has none
        raise
