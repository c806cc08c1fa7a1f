"""Silence for libraries that log what their caller knows."""

import contextlib
import gc
import logging
import sys
import time
import traceback
from collections.abc import Iterator

_LATE_SECONDS = 0.2  # in which the writes that were under way beside one that failed have failed too


@contextlib.contextmanager
def quiet_absl(*, errors: bool = False) -> Iterator[None]:
    """Without absl's warnings: TFDS's of OpenCV and of folders that it does not find, Orbax's of read-only folders.

    With `errors` without those too: where each of them becomes an exception that is handled.
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
    """Without absl's errors, and without what is said of each array that also failed to be written after the first.

    Orbax raises for the first and listens no more. Of the others TensorStore's threads say that the event loop is
    closed, and asyncio that nobody asked for them.
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
            gc.collect()  # which is when asyncio speaks
            raise
        finally:
            sys.unraisablehook, asyncio.disabled = hook, disabled
