"""The report of one run or several side by side: one self-contained HTML file."""

import base64
import importlib.resources
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxvae import files
from jaxvae.checks import require
from jaxvae.experiment import serialization, workdir

# In the order of the page: the file's name, its heading and its caption.
FIGURES = {
    "learning_curves": ("Learning curves", "ELBO, distortion and rate by training step, in nats per example."),
    "kl_per_dimension": (
        "KL per dimension",
        "The rate of each latent, KL(q(z_d|x) ‖ p(z_d)), in nats, averaged over the examples. A latent at 0 is "
        "not used: its posterior is the prior.",
    ),
    "reconstructions": (
        "Reconstructions",
        "Examples, and below each (or joined to it) the mean of p(x|z) for one draw of z from q(z|x).",
    ),
    "samples": ("Samples", "The means of p(x|z) for draws of z from the prior."),
    "nearest": (
        "Are the samples new?",
        "Samples beside the training examples nearest to them (Euclidean). A sample that equals its neighbour would be "
        "memorized.",
    ),
    "latent_space": (
        "The latent map",
        "The posterior means of examples by their label: two latents directly, more by their first two principal "
        "components.",
    ),
    "manifold": (
        "The manifold",
        "Decoded means on a grid of equal steps of probability under the prior (Kingma and Welling 2014, figure 4). "
        "z[0] grows to the right and z[1] upwards; of examples of two entries the image of the grid's lines is drawn.",
    ),
    "traversals": (
        "Traversals",
        "One latent changes at a time, from an example's code; the most informative latents come first.",
    ),
    "interpolations": (
        "Interpolations",
        "From one example's code to another's, along the straight line and along the arc.",
    ),
    "attributes": (
        "Attributes",
        "An example's code minus the attribute vector of its label plus that of another, by strength.",
    ),
}

# Figures with small print, which are scrolled in a narrow window, not shrunk.
_BROAD = ("learning_curves", "kl_per_dimension", "reconstructions", "traversals", "interpolations")

# The terms of evaluate.py's last line that a run measures at its end: their name, unit and meaning.
NUMBERS = {
    "elbo": ("ELBO", "nats per example", "a lower bound on log p(x): minus distortion, minus rate"),
    "distortion": ("distortion", "nats per example", "−E log p(x|z) under q(z|x): the cost of a reconstruction"),
    "rate": ("rate", "nats per example", "KL(q(z|x) ‖ p(z)): the cost of the code"),
    "active_units": (
        "active units",
        "latents",
        "latents whose posterior mean has a variance over the data above 0.01 (on the unit sphere, 0.01 / D)",
    ),
    "num_examples": ("examples", "of the test split", "that the means and standard errors are taken over"),
}


class RunPage(NamedTuple):
    """The content of the page for one run."""

    name: str
    config: Mapping[str, str]  # path: value
    test: Mapping[str, Any]  # the record of the test split, empty if there is none
    records: Sequence[Mapping[str, Any]]  # of training and validation
    figures: Mapping[str, str]  # name: the figure, as a data URI

    @property
    def num_steps(self) -> int:
        return max((r["step"] for r in self.records), default=0)


def read(folder: pathlib.Path, *, figures: Sequence[str] = tuple(FIGURES)) -> RunPage:
    """Reads a run from its folder, with those of `figures` that exist.

    Raises:
      ValueError: its config can't be read.
    """
    config = serialization.to_data(serialization.read(folder / "config.json"))
    records = workdir.read_metrics(folder)
    paths = {name: folder / "figures" / f"{name}.png" for name in FIGURES if name in figures}
    return RunPage(
        folder.absolute().name,
        dict(_flatten(config)),
        next((r for r in reversed(records) if r["split"] == "test"), {}),
        [r for r in records if r["split"] != "test"],
        {name: _data_uri(path.read_bytes()) for name, path in paths.items() if path.is_file()},
    )


def write(runs: Sequence[RunPage], path: pathlib.Path) -> None:
    """Writes the page of one or more runs: their numbers, the differences of their configs, and their figures.

    Raises:
      ValueError: `runs` is empty.
    """
    require(len(runs) > 0, "there is no run to report")
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = importlib.resources.files("jaxvae.experiment").joinpath("report.html.jinja").read_text(encoding="utf-8")
    paths = list(dict.fromkeys(p for run in runs for p in run.config))
    values = {p: [run.config.get(p, "") for run in runs] for p in paths}
    differing = {p: v for p, v in values.items() if len(set(v)) > 1}
    names = _distinct([run.name for run in runs])
    page = environment.from_string(source).render(
        runs=[run._replace(name=name) for run, name in zip(runs, names, strict=True)],
        numbers=[(*NUMBERS[n], [_number(run.test, n) for run in runs]) for n in NUMBERS],
        config=values,
        differing=differing,
        apart=any(p.startswith(("data.name", "data.high", "data.preprocess", "model.likelihood")) for p in differing),
        figures={n: FIGURES[n] for n in FIGURES if any(n in run.figures for run in runs)},
        broad=_BROAD,
        curves=_data_uri_of_curves(runs, names) if len(runs) > 1 else None,
    )
    files.write(path, page)


def _number(record: Mapping[str, Any], name: str) -> str:
    value, error = record.get(name), record.get(f"{name}_stderr")
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def _flatten(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(path, value) for each leaf of a config, and (path, class) for each object in it."""
    if not isinstance(value, dict):
        return [
            (path, ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value))
        ]
    here = [(path, value["class"])] if path else []
    inner = [(f"{path}.{k}" if path else k, v) for k, v in value.items() if k != "class"]
    return here + [leaf for k, v in inner for leaf in _flatten(v, k)]


def _distinct(names: Sequence[str]) -> list[str]:
    repeated = len(set(names)) < len(names)
    return [f"{name} ({i + 1})" for i, name in enumerate(names)] if repeated else list(names)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _data_uri_of_curves(runs: Sequence[RunPage], names: Sequence[str]) -> str:
    """The learning curves of several runs in one figure."""
    from jaxvae import plots

    png = io.BytesIO()
    plots.curves_of_runs({name: run.records for name, run in zip(names, runs, strict=True)}).savefig(png)
    return _data_uri(png.getvalue())
