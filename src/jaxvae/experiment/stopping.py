"""Early ends of a run, above all by SIGINT, SIGTERM and SIGHUP (of a terminal that was closed).

Signals are collected while there is something to save. Otherwise a signal ends the process, and a second one always
does so at once.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jaxvae.experiment import cluster, console

_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([_HANGUP] if _HANGUP else []))
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
    """Collects signals for work that checks the list regularly; a second signal ends the process."""
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        received.append(signum)

    def told(signum: int) -> None:
        console.say(f"{signal.Signals(signum).name}: saving; send it again to quit at once")

    with _handled(note, lambda first, second: second is not None, told):
        yield received


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Makes a signal raise `Stopped`, for work that loses nothing by it.

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
            _in_passing(lambda: console.tell(_line(first, _kept[0])))
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
def _handled(
    handler: Callable[[int, Any], None],
    ends: Callable[[int, int | None], bool],
    told: Callable[[int], None] = lambda signum: None,
) -> Iterator[None]:
    """Installs a handler in the main thread, and starts a thread that learns of every signal at once.

    `ends(first, second)` decides whether the process ends now. It is called at a second signal, and some time after the
    first (with None as the second). `told` prints a line about the first. The handler must not: it may interrupt the
    main thread in the middle of another line. A SIGHUP that is ignored, as under `nohup`, stays so. None is a second
    signal: a terminal that closes may send several.
    """
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ours, ends, told), daemon=True)
    watcher.start()
    kept = signal.SIG_IGN, None  # None: a handler that is not Python's
    heeded = [s for s in _SIGNALS if s != _HANGUP or signal.getsignal(s) not in kept]
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    before = {s: signal.signal(s, handler) for s in heeded}
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for s, handler_before in before.items():
            signal.signal(s, handler_before)
        theirs.close()
        watcher.join()
        ours.close()


def _in_passing(print_line: Callable[[], None]) -> None:
    """Prints a line, unless that takes long, as where nobody reads standard error: signals must be heard then, too."""
    printing = threading.Thread(target=print_line, daemon=True)
    printing.start()
    printing.join(1.0)


def _watch(heard: socket.socket, ends: Callable[[int, int | None], bool], told: Callable[[int], None]) -> None:
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
            if number not in _SIGNALS or (first is not None and number == _HANGUP):
                continue
            if first is not None and ends(first, number):
                os._exit(128 + number)
            if first is None:
                first = number
                _in_passing(partial(told, number))
                heard.settimeout(cluster.GRACE_SECONDS)


def _line(signum: int, kept: str) -> str:
    return f"stopped by {signal.Signals(signum).name}{kept}"
