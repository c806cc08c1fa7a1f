"""Progress messages of a run: a bar on a terminal, plain lines elsewhere."""

import collections
import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol, Self

from tqdm import tqdm

from jaxvae.experiment import cluster


class Bar(Protocol):
    """The progress of work of a known length."""

    def update(self, done: int, detail: str = "", *, force: bool = False) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def _expendable() -> Iterator[None]:
    """Lets the work go on where nobody can read standard error, such as after Ctrl-C in `train 2>&1 | tee log`."""
    try:
        yield
    except OSError:
        # What could not be written is still to be written at Python's end, whose exit code would tell of it.
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
    except ValueError as error:
        if "closed" not in str(error):
            raise


def say(line: str) -> None:
    """Prints a line on standard error; standard output is for results."""
    if cluster.is_first():
        tell(line)


def tell(line: str) -> None:
    """`say`, by any of several processes."""
    if sys.stderr is not None:  # as after `2>&-`
        with _expendable():
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()


def start(total: int, *, initial: int = 0, title: str, unit: str) -> Bar:
    """A bar over `total` units of work, of which `initial` were done before."""
    watched = False
    with _expendable():
        watched = sys.stderr is not None and sys.stderr.isatty()
    kind = _Terminal if watched and cluster.is_first() else _Lines
    return kind(total, initial, title, unit)


class Count:
    """A bar that is advanced by increments; the end of the `with` block closes it."""

    def __init__(self, total: int, *, initial: int = 0, title: str, unit: str) -> None:
        self._bar, self._done = start(total, initial=initial, title=title, unit=unit), initial

    def add(self, num: int) -> None:
        self._done += num
        self._bar.update(self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Terminal:
    def __init__(self, total: int, initial: int, title: str, unit: str) -> None:
        self._bar: Any = tqdm(
            total=total, initial=initial, desc=title, unit=f" {unit}", dynamic_ncols=True, leave=False
        )

    def update(self, done: int, detail: str = "", *, force: bool = False) -> None:
        with _expendable():
            self._bar.set_postfix_str(detail, refresh=False)
            self._bar.total = max(self._bar.total, done)  # the total may have been estimated
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        with _expendable():
            self._bar.close()


class _Lines:
    """Prints a line at most every few seconds."""

    _INTERVAL = 5.0

    def __init__(self, total: int, initial: int, title: str, unit: str) -> None:
        self._total, self._title, self._unit = total, title, unit
        self._last = time.monotonic()
        self._marks: collections.deque[tuple[float, int]] = collections.deque()  # times and amounts done
        self._start = math.nan  # of the first mark

    def update(self, done: int, detail: str = "", *, force: bool = False) -> None:
        now = time.monotonic()
        if not self._marks:
            self._start = now
        if not self._marks or now - self._marks[-1][0] >= self._INTERVAL / 5.0:
            self._marks.append((now, done))
        if not force and now - self._last < self._INTERVAL:
            return
        # By the speed of the later half: what compiled at first is forgotten, and validations are averaged over.
        while len(self._marks) > 1 and self._marks[1][0] <= 0.5 * (self._start + now):
            self._marks.popleft()
        left, (then, before) = "", self._marks[0]
        if done > before:
            left = f"{duration((now - then) / (done - before) * max(0, self._total - done))} left"
        self._last = now
        self._total = max(self._total, done)
        say("  ".join(filter(None, [f"{self._title} {self._unit} {done:,}/{self._total:,}", detail, left])))

    def close(self) -> None:
        pass
