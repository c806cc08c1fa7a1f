"""tyro's messages in plain words: one line for a mistake."""

import re
from collections.abc import Callable

from jaxvae.experiment.command.arguments import is_number


def _no_list(found: re.Match[str]) -> str:
    """What is said of a list that tyro can't read: of numbers, it is only whole ones that can be meant."""
    numbers = all(is_number(entry.strip("' ")) for entry in found[1].split(","))
    kind = "whole numbers" if numbers else "numbers"
    return f"{found[1]} is not a list of {kind}; write {kind} separated by commas"


_PLAINER: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r" Argument helptext: .*", ""),
    (r"^Error parsing (?=--)", ""),
    (r"no type matching \{None\}\|INT .* from \['(.*?)'\].*", r"'\1' is not a whole number; write one"),
    (r"no type matching \{None\}\|FLOAT .* from \['(.*?)'\].*", r"'\1' is not a number; write one"),
    (r"no type matching \{None\}\|\{\[(?:INT|FLOAT) .*? from \[(.*?)\].*", _no_list),
    (r"Missing value for argument '(--.*?)'.*", r"\1 has no value; write \1=VALUE"),
    (r"Unrecognized options?: (\d+)\b.*", r"'\1' belongs to no option; leave it out, or write a number without commas"),
    (r"Could not find valid parse for arguments: \[(.*?)\]", _no_list),
    (r"invalid literal for int\(\) with base 10: ('.*?')", r"\1 is not a whole number; write one"),
    (r"could not convert string to float: ('.*?')", r"\1 is not a number; write one"),
)


def one_line(boxed: str, owner: str) -> str:
    """tyro's boxed message as one line, without the command's class and the pointer to the help; fields become options.

    tyro draws the box with box characters if stdout can encode them, else with ASCII.
    """
    lines = [re.sub(r"^[│|] (.*)[│|]$", r"\1", line.strip()).strip() for line in boxed.splitlines()]
    kept = [line for line in lines[1:] if line.strip("╭╮╰╯─+- ") and not line.startswith("For full helptext")]
    text = " ".join(kept).removeprefix(f"Error parsing {owner}: ")
    text = re.sub(rf"^{owner}\.(\w+)", lambda field: "--" + field[1].replace("_", "-"), text)
    for pattern, instead in _PLAINER:
        text = re.sub(pattern, instead, text)
    option = re.match(r"Unrecognized options?: (--config[\w.]+)", text)
    if option and f" {option[1]}." in text:  # tyro suggests the fields of that object
        text = text.partition(" Perhaps you meant")[0]
    if not text.startswith("Unrecognized") or "erhaps you meant" in text:
        return text
    objects = "; choose another class in a config file" if "--config." in text else ""
    return f"{text}; --help lists them all{objects}"
