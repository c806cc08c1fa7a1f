"""Silences libraries that log what their caller already knows."""

import contextlib
import gc
import logging
import sys
import time
import traceback
from collections.abc import Iterator

_LATE_SECONDS = 0.2  # by then, the writes that ran beside a failed one have failed too


@contextlib.contextmanager
def quiet_absl(*, errors: bool = False) -> Iterator[None]:
    """Silences absl's warnings: TFDS's about OpenCV and missing folders, Orbax's about read-only folders.

    With `errors`, silences errors too, for code in which each of them also becomes an exception that is handled.
    """
    from absl import logging as absl

    verbosity = absl.get_verbosity()
    absl.set_verbosity(absl.FATAL if errors else absl.ERROR)
    try:
        yield
    finally:
        absl.set_verbosity(verbosity)


@contextlib.contextmanager
def quiet_writers() -> Iterator[None]:
    """Silences absl's errors, and the messages about each further array that failed to be written after the first.

    Orbax raises for the first and then stops listening. For the others, TensorStore's threads report that the event
    loop is closed, and asyncio that their exceptions were never retrieved.
    """
    hook, asyncio = sys.unraisablehook, logging.getLogger("asyncio")

    def others(about: "sys.UnraisableHookArgs") -> None:
        if str(about.exc_value) != "Event loop is closed":
            hook(about)

    with quiet_absl(errors=True):
        sys.unraisablehook, disabled, asyncio.disabled = others, asyncio.disabled, True
        try:
            yield
        except Exception as error:
            time.sleep(_LATE_SECONDS)
            traceback.clear_frames(error.__traceback__)
            gc.collect()  # which is when asyncio logs
            raise
        finally:
            sys.unraisablehook, asyncio.disabled = hook, disabled
