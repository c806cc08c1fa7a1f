"""The arguments of a command line, before tyro reads them."""

import itertools
from collections.abc import Sequence

from jaxvae.checks import require


def join_repeated(argv: Sequence[str], option: str) -> list[str]:
    """Turns `--option=A … --option=B` into `--option A B …`: like `repeated`, but for one option."""
    values: list[str] = []
    rest: list[str] = []
    taking = False
    for argument in argv:
        if argument.startswith(f"{option}="):
            values.append(argument.partition("=")[2])
        elif argument != option and taking and not argument.startswith("-"):
            values.append(argument)
            continue
        elif argument != option:
            rest.append(argument)
        taking = argument == option
    return [*rest, option, *values] if values else rest


def spread_lists(argv: Sequence[str]) -> list[str]:
    """Turns `--path.hidden=200,200` into tyro's `--path.hidden 200 200`; refuses an option without a value.

    `--path.hidden 200,200` becomes the same, but not the `1,2` of another option, which may be a folder.
    """
    result: list[str] = []
    for before, argument in itertools.pairwise(["", *argv]):
        alone = "=" not in argument and "=" not in before and before.startswith(("--config.", "--betas"))
        name, equals, value = ("", "", argument) if alone else argument.partition("=")
        numbers = value.strip("()[]").split(",")
        listed = all(is_number(n) for n in numbers) and len(numbers) > 1
        if listed and (alone or (equals and name.startswith("--"))):
            result += [*([] if alone else [name]), *(n.strip() for n in numbers)]
        else:
            result.append(argument)
    for option, following in itertools.pairwise([*result, "--"]):
        bare = option.startswith("--config.") and "=" not in option
        require(not (bare and following.startswith("--")), f"{option} has no value; write {option}=VALUE")
        name, equals, value = option.partition("=")
        empty = name.startswith("--") and ((equals and not value) or (not equals and following == ""))
        require(not empty, f"{option} has no value; write {name}=VALUE")
    return result


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
