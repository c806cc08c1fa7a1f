"""The colours, text and resolution that all figures share."""

from typing import Literal

from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito, 2008); training and validation have the same colours in every panel.
COLOURS = {"train": "#0072B2", "validation": "#D55E00"}
NO_LABEL = "#BBBBBB"
WHEEL = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")


def plain(text: object) -> str:
    """A user's text, escaped for matplotlib: no mathematics, and in the legend even if it begins with `_`."""
    text = str(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure, sized in inches; unlike pyplot's, no global list keeps it alive."""
    return Figure(figsize=(width, height), dpi=150, layout=layout)
