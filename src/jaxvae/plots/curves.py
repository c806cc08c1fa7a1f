"""Learning curves."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxvae.plots.base import COLOURS, WHEEL, new_figure, plain

Record = Mapping[str, Any]

_FEW = 5  # points: so few are drawn as dots too, since one point makes no line


def learning_curves(records: Sequence[Record]) -> Figure:
    """ELBO, distortion and rate against the step, in a panel each, from the lines of `metrics.jsonl`."""
    by_split = {split: [r for r in records if r["split"] == split] for split in COLOURS}
    return _curves(by_split, {split: {"color": colour} for split, colour in COLOURS.items()})


def curves_of_runs(runs: Mapping[str, Sequence[Record]]) -> Figure:
    """The learning curves of several runs, on the validation split or, if a run did not measure on one, in training."""
    by_run, labels = {}, {}
    for name, records in runs.items():
        validation = [r for r in records if r["split"] == "validation"]
        labels[name] = name if validation else f"{name} (training)"
        by_run[name] = validation or [r for r in records if r["split"] == "train"]
    styles = itertools.cycle(itertools.product(("-", "--", ":", "-."), WHEEL))
    pairs = zip(runs, styles, strict=False)
    return _curves(by_run, {run: {"color": c, "linestyle": line, "label": labels[run]} for run, (line, c) in pairs})


def _curves(lines: Mapping[str, Sequence[Record]], styles: Mapping[str, Mapping[str, str]]) -> Figure:
    records = [r for line in lines.values() for r in line]
    names = [n for n in ("elbo", "distortion", "rate") if any(r.get(n) is not None for r in records)]
    figure = new_figure(4 * max(1, len(names)), 3.2)
    for axes, name in zip(np.ravel(figure.subplots(1, max(1, len(names)))), names, strict=False):
        ends = []
        for label, line in lines.items():
            points = [(r["step"], r[name]) for r in line if r.get(name) is not None]
            if points:
                style: dict[str, Any] = {"label": label, **styles[label], "linewidth": 1.5}
                style["label"] = plain(style["label"])
                style |= {"marker": "o", "markersize": 4} if len(points) <= _FEW else {}
                axes.plot(*zip(*points, strict=True), **style)
                ends += [value for _, value in points[len(points) // 10 :]]
        if ends and max(ends) > min(ends):  # the first steps are out of scale
            margin = 0.05 * (max(ends) - min(ends))
            axes.set_ylim(min(ends) - margin, max(ends) + margin)
        title = {"elbo": "ELBO", "distortion": "distortion  −E log p(x|z)", "rate": "rate  KL(q(z|x) ‖ p(z))"}[name]
        axes.set(title=title, xlabel="step", ylabel="nats per example")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure
