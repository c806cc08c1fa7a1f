"""Table 1 of Burda, Grosse and Salakhutdinov (2016): its cells as experiments, and a row for each cell that was run."""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxvae import files
from jaxvae.checks import require
from jaxvae.experiment.config import Experiment

NUM_IMPORTANCE_SAMPLES = 5000


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of the table."""

    binarization: str  # dynamic or fixed
    training: str  # vae, iwae or dreg: the config `burda_<training>.py`
    k: int  # the number of draws in training
    num_epochs: int
    published: float | None  # the negative log-likelihood, in nats

    @property
    def name(self) -> str:
        return f"{self.binarization}-{self.training}-{self.k}"

    def experiment(self, config: Experiment, *, data_dir: str | None, seed: int) -> Experiment:
        """The cell's experiment, made from its config file's."""
        name = {"dynamic": "mnist", "fixed": "binarized_mnist"}[self.binarization]
        return dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, name=name, data_dir=data_dir),
            objective=dataclasses.replace(config.objective, num_samples=self.k),
            num_epochs=self.num_epochs,
            seed=seed,
        )


# A fixed binarization is soon memorized, so its cells have fewer epochs.
CELLS = {
    cell.name: cell
    for cell in (
        Cell("dynamic", "vae", 1, 450, 86.76),
        Cell("dynamic", "vae", 5, 350, 86.47),
        Cell("dynamic", "vae", 50, 350, 86.35),
        Cell("dynamic", "iwae", 5, 350, 85.54),
        Cell("dynamic", "iwae", 50, 350, 84.78),
        Cell("dynamic", "dreg", 5, 350, 84.90),
        Cell("dynamic", "dreg", 50, 350, 84.32),
        Cell("fixed", "vae", 1, 150, 88.71),
        Cell("fixed", "vae", 5, 150, None),
        Cell("fixed", "vae", 50, 150, None),
        Cell("fixed", "iwae", 5, 150, 87.63),
        Cell("fixed", "iwae", 50, 150, 87.10),
        Cell("fixed", "dreg", 5, 150, None),
        Cell("fixed", "dreg", 50, 150, None),
    )
}
_NAMES = {"vae": "VAE", "iwae": "IWAE", "dreg": "DReG"}
_FIELDS = (
    ("cell", "seed", "nll", "nll_stderr", "elbo", "active_units", "effective_sample_size")
    + ("num_importance_samples", "num_examples", "num_epochs", "step", "batch_size", "optimizer", "learning_rate")
    + ("train_seconds", "machine", "jax", "python", "date")
)
_CLOCK = "train_seconds"


def row(
    cell: Cell, experiment: Experiment, result: dict[str, Any], *, train_seconds: float | None, machine: str
) -> dict[str, Any]:
    """The results row of a cell that was run; `result` is what evaluate prints."""
    measured = ("elbo", "active_units", "effective_sample_size", "num_importance_samples", "num_examples", "step")
    values = {
        "cell": cell.name,
        "nll": -result["log_evidence"],
        "nll_stderr": result["log_evidence_stderr"],
        **{name: result[name] for name in measured},
        "num_epochs": experiment.num_epochs,
        "batch_size": experiment.batch_size,
        "optimizer": type(experiment.optimizer).__name__,
        "learning_rate": experiment.optimizer.learning_rate,
        "seed": experiment.seed,
        "train_seconds": None if train_seconds is None else round(train_seconds),
        "machine": machine,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    return {name: values[name] for name in _FIELDS}


def this_machine() -> str:
    """The default description of the machine in a row."""
    device = jax.devices()[0]
    return f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind


@contextlib.contextmanager
def clock(folder: pathlib.Path) -> Iterator[None]:
    """Adds the time of the `with` block to a file in the run's folder; `train_seconds` reads the sum over all calls."""
    start = time.monotonic()
    try:
        yield
    finally:
        total = (train_seconds(folder) or 0.0) + time.monotonic() - start
        files.write(folder / _CLOCK, f"{total:.1f}\n")


def train_seconds(folder: pathlib.Path) -> float | None:
    """The wall time of a run that was trained under `clock`; None if it was not."""
    path = folder / _CLOCK
    return float(path.read_text(encoding="utf-8")) if path.exists() else None


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a results file, one JSON object a line; no rows if the file does not exist.

    Raises:
      ValueError: a line is not a row of this table.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            rows.append(json.loads(line))
            known = set(rows[-1]) == set(_FIELDS) and rows[-1]["cell"] in CELLS
        except (json.JSONDecodeError, TypeError):
            known = False
        require(known, f"line {number} of {path} is not a row of this table; fix it, or write another --results")
    return rows


def write(path: pathlib.Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Adds a row, which replaces an older one of the same cell and seed; returns all rows."""
    others = [r for r in read(path) if (r["cell"], r["seed"]) != (row["cell"], row["seed"])]
    rows = sorted([*others, row], key=lambda r: (list(CELLS).index(r["cell"]), r["seed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All cells as Markdown: those that were run have their numbers, the others their command."""
    columns = ["binarization", "training", "k", "ours", "published", "active units"]
    columns += ["optimizer", "batch", "epochs", "seed", "training time"]
    lines = [columns, ["---"] * len(columns)]
    for cell in CELLS.values():
        # The published numbers of DReG are from a replication with 100 latents, not these 50.
        published = "–" if cell.published is None else f"{cell.published:.2f}" + "¹" * (cell.training == "dreg")
        start = [cell.binarization, _NAMES[cell.training], f"{cell.k}"]
        found = [r for r in rows if r["cell"] == cell.name]
        lines += [[*start, f"{r['nll']:.2f} ± {r['nll_stderr']:.2f}", published, *_protocol(r)] for r in found]
        if not found:
            command = f"`python scripts/burda.py --cell={cell.name}`"
            lines.append([*start, "not yet run", published, "", "", "", f"{cell.num_epochs}", "", command])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _protocol(row: dict[str, Any]) -> list[str]:
    seconds = row["train_seconds"]
    time_ = "" if seconds is None else f"{seconds / 60:.0f} min, "
    optimizer = f"{row['optimizer']}, {row['learning_rate']:g}"
    numbers = [f"{row[name]}" for name in ("batch_size", "num_epochs", "seed")]
    return [f"{row['active_units']}", optimizer, *numbers, time_ + row["machine"]]


def put_into(text: str, rows: Sequence[dict[str, Any]], *, name: object) -> str:
    """The text of a page with the table put between its two markers.

    Raises:
      ValueError: the page, called `name`, lacks a marker.
    """
    before, start, rest = text.partition("<!-- the table -->\n")
    _, end, after = rest.partition("<!-- end of the table -->")
    require(bool(start and end), f"{name} has no <!-- the table --> and <!-- end of the table -->; write both")
    return f"{before}{start}{table(rows)}\n{end}{after}"
