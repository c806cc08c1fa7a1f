"""The summary of a finished sweep: its rows, its table, its file and its figure."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxvae import files
from jaxvae.experiment import serialization
from jaxvae.experiment.environment import environment
from jaxvae.experiment.intervals import Interval
from jaxvae.experiment.sweep.finishing import Finished
from jaxvae.objectives import ELBO

TERMS = ("elbo", "distortion", "rate")


def summarize(finished: Finished) -> dict[str, Any]:
    """All results of a sweep, of JSON's types: a row for each replica, and for seeds the means over them."""
    sweep, results, diverged, seconds = finished
    names = [f"{term}{error}" for term in TERMS for error in ("", "_stderr")] + ["active_units", "num_examples"]
    rows = []
    for name, trainer in sweep.trainers.items():
        experiment = trainer.experiment
        result = results.get(name, {})
        beta = experiment.objective.beta if isinstance(experiment.objective, ELBO) else None
        rows.append(
            {"name": name, "seed": experiment.seed, "beta": beta}
            | {n: result.get(n) for n in names}
            | {"diverged": diverged.get(name)}
        )
    over = None
    if sweep.betas is None and len(results) > 1:
        intervals = {term: Interval.of([r[term] for r in results.values()]) for term in TERMS}
        over = {term: {"mean": i.mean, "interval95": i.half} for term, i in intervals.items()}
    return {
        "varied": "seed" if sweep.betas is None else "beta",
        "split": sweep.first.dataset.held_out[0],
        "step": sweep.first.num_steps,
        "replicas": rows,
        "over_seeds": over,
        "train_seconds": None if seconds is None else round(seconds, 1),
        "environment": environment(),
    }


def save(finished: Finished, folder: pathlib.Path) -> dict[str, Any]:
    """Writes `sweep.json`, the config of the first run followed by `summarize`'s result, and returns the latter."""
    summary = summarize(finished)
    config = serialization.to_data(finished.sweep.first.experiment)
    files.write_json(folder / "sweep.json", {"config": config} | summary)
    return summary


def draw(summary: Mapping[str, Any], path: pathlib.Path) -> bool:
    """Draws the rate–distortion plane from `summarize`'s result; returns whether there was anything to draw."""
    from jaxvae import plots

    varied = summary["varied"]
    points = [
        plots.Point(f"{row[varied]:.15g}", row["rate"], row["distortion"])
        for row in summary["replicas"]
        if row["diverged"] is None
    ]
    means = summary["over_seeds"]
    mean = None
    if means is not None:
        mean = tuple((means[term]["mean"], means[term]["interval95"]) for term in ("rate", "distortion"))
    if points:
        order = {"beta": "β"}.get(varied)
        plots.rate_distortion(points, split=summary["split"], ordered_by=order, mean=mean).savefig(path)
    return bool(points)


def table(summary: Mapping[str, Any]) -> str:
    """The replicas as Markdown, in nats per example, and for seeds the means over them with their 95 % intervals."""
    lines = [["run", *TERMS, "active units"], ["---"] * 5]
    for row in summary["replicas"]:
        if row["diverged"] is None:
            cells = [_with_error(row[term], row[f"{term}_stderr"]) for term in TERMS]
            lines.append([row["name"], *cells, "–" if row["active_units"] is None else str(row["active_units"])])
        else:
            lines.append([row["name"], f"diverged at {row['diverged']}", "", "", ""])
    if summary["over_seeds"] is not None:
        means = summary["over_seeds"]
        cells = [_with_error(means[term]["mean"], means[term]["interval95"]) for term in TERMS]
        lines.append(["mean over seeds (95 %)", *cells, ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"
