"""Silence for libraries that log what their caller knows."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_absl(*, errors: bool = False) -> Iterator[None]:
    """Without absl's warnings: TFDS's of OpenCV and of folders that it does not find, Orbax's of read-only folders.

    With `errors` without those too: where each of them becomes an exception that is handled.
    """
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL if errors else logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
