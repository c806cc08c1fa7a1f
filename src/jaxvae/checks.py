"""Validation helpers. Each error is one line that says what is wrong and what to write instead."""

import inspect
import math
import numbers
import pathlib
import sysconfig
import traceback


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


_LONGEST = 100  # characters of a value in a message


def require_kind(name: str, choice: object, kinds: type | tuple[type, ...], article: str) -> None:
    """Refuses a `choice` for the field `name` that is of none of the `kinds`; `article` is what to write instead.

    Raises:
      ValueError: it is of none of them, such as a class in place of an object.
    """
    if isinstance(choice, kinds):
        return
    if isinstance(choice, type):
        what, fits = f"the class {choice.__name__}", issubclass(choice, kinds) and not inspect.isabstract(choice)
        article = f"an object, such as {choice.__name__}()" if fits else article
    elif callable(choice) or len(repr(choice)) > _LONGEST:
        what = f"of the type {type(choice).__module__}.{type(choice).__qualname__}"
    else:
        what = repr(choice)
    raise ValueError(f"{name} is {what}; write {article}")


def reason(error: Exception) -> str:
    """Another library's error as one line: its type and the first line of its message."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}"


_NOT_THE_USERS = [pathlib.Path(__file__).parent, *(pathlib.Path(sysconfig.get_path(p)) for p in ("stdlib", "purelib"))]


def place(error: Exception) -> str:
    """The place in the user's code that raised an error, as " in FILE, line N"; "" if none did."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = pathlib.Path(frame.filename)
        ours = any(path.is_relative_to(folder) for folder in _NOT_THE_USERS)
        if path.is_file() and not ours and not {"site-packages", "dist-packages"} & set(path.parts):
            return f" in {path.name}, line {frame.lineno}"
    return ""


def require_number(
    owner: object,
    name: str,
    *,
    low: float,
    strict: bool = False,
    high: float = math.inf,
    below: float = math.inf,
    integer: bool = False,
    optional: bool = False,
) -> None:
    """Refuses a field of a config object that is not a finite number in a range.

    Args:
      owner: the object.
      name: the field's name.
      low: the smallest allowed value; if `strict`, the value must be greater.
      strict: see `low`.
      high: the largest allowed value.
      below: the value must be less than this.
      integer: whether the value must be a whole number.
      optional: whether the value may be None.

    Raises:
      ValueError: the value is not allowed; the message names the class, the field, the value and the range.
    """
    value = getattr(owner, name)
    if optional and value is None:
        return
    number = isinstance(value, numbers.Integral if integer else numbers.Real) and not isinstance(value, bool)
    ok = number and math.isfinite(value) and (value > low if strict else value >= low) and value <= high
    form = ",.0f" if integer else "g"
    limits = [f"greater than {low:{form}}" if strict else f"of at least {low:{form}}"]
    limits += [f"at most {high:{form}}"] if math.isfinite(high) else []
    limits += [f"less than {below:{form}}"] if math.isfinite(below) else []
    message = (
        f"write a {'whole number' if integer else 'number'} {' and '.join(limits)}{', or None' if optional else ''}"
    )
    require(ok and value < below, f"{type(owner).__name__}.{name} is {value!r}; {message}")
