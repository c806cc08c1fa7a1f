"""Early ends of a run, above all by SIGINT and SIGTERM.

Signals are collected while there is something to save. Otherwise a signal ends the process, and a second one always
does so at once.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from jaxvae.experiment import cluster, console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_kept = [""]  # global, as signals are: the message about the work saved so far


class Diverged(Exception):
    """A term of the loss became NaN or infinite, or a result can't be trusted."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work, which was saved if possible."""

    def __init__(self, signum: int, where: str, *, saved: bool = True) -> None:
        super().__init__(_line(signum, kept_at(where) if saved else "; nothing could be saved"))
        self.signum = signum


class Stopped(KeyboardInterrupt):
    """A signal came when there was nothing to save."""

    def __init__(self, signum: int, kept: str) -> None:
        super().__init__(_line(signum, kept))
        self.signum = signum


def kept_at(where: str) -> str:
    return f" and saved at {where}; the same command goes on from there"


def keep(kept: str) -> None:
    """Sets the text that `at_once` adds after the name of a signal, from now on."""
    _kept[0] = kept


@contextlib.contextmanager
def collected() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM for work that checks the list regularly; a second signal ends the process."""
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        console.say(f"{signal.Signals(signum).name}: saving; send it again to quit at once")

    with _handled(note, lambda first, second: second is not None):
        yield received


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise `Stopped`, for work that loses nothing by it.

    If the main thread does not learn of the signal or does not end, the process ends soon anyway. Compiled code that
    calls back into Python may turn `Stopped` into another error, as matplotlib's does, or swallow it; it is raised
    nevertheless.
    """
    raised: list[int] = []

    def stop(signum: int, frame: Any) -> None:
        raised.append(signum)
        raise Stopped(signum, _kept[0])

    def late(first: int, second: int | None) -> bool:
        if second is None:
            print(_line(first, _kept[0]), file=sys.stderr, flush=True)
        return True

    with _handled(stop, late):
        try:
            yield
        except Exception as error:
            if raised:
                raise Stopped(raised[0], _kept[0]) from error
            raise
        if raised:
            raise Stopped(raised[0], _kept[0])


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None], ends: Callable[[int, int | None], bool]) -> Iterator[None]:
    """Installs a handler in the main thread, and starts a thread that learns of every signal at once.

    `ends(first, second)` decides whether the process ends now. It is called at a second signal, and some time after the
    first (with None as the second).
    """
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ours, ends), daemon=True)
    watcher.start()
    before = {s: signal.signal(s, handler) for s in _SIGNALS}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for s, handler_before in before.items():
            signal.signal(s, handler_before)
        theirs.close()
        watcher.join()
        ours.close()


def _watch(heard: socket.socket, ends: Callable[[int, int | None], bool]) -> None:
    first: int | None = None
    while True:
        try:
            numbers = heard.recv(16)
        except TimeoutError:
            heard.settimeout(None)
            assert first is not None
            if ends(first, None):
                os._exit(128 + first)
            continue
        if not numbers:
            return
        for number in numbers:
            if number not in _SIGNALS:
                continue
            if first is not None and ends(first, number):
                os._exit(128 + number)
            if first is None:
                first = number
                heard.settimeout(cluster.GRACE_SECONDS)


def _line(signum: int, kept: str) -> str:
    return f"stopped by {signal.Signals(signum).name}{kept}"
