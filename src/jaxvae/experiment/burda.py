"""Table 1 of Burda, Grosse and Salakhutdinov (2016): its cells as experiments, a row for each that was run."""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax

from jaxvae.experiment.config import Experiment
from jaxvae.numerics import require

NUM_IMPORTANCE_SAMPLES = 5000


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of the table."""

    binarization: str  # dynamic or fixed
    training: str  # vae, iwae or dreg: the config `burda_<training>.py`
    k: int  # the draws in training
    num_epochs: int
    published: float | None  # the negative log-likelihood, in nats

    @property
    def name(self) -> str:
        return f"{self.binarization}-{self.training}-{self.k}"

    def experiment(self, config: Experiment, *, data_dir: str | None, seed: int) -> Experiment:
        """The cell's experiment, from that of its config file."""
        name = {"dynamic": "mnist", "fixed": "binarized_mnist"}[self.binarization]
        return dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, name=name, data_dir=data_dir),
            objective=dataclasses.replace(config.objective, num_samples=self.k),
            num_epochs=self.num_epochs,
            seed=seed,
        )


# A fixed binarization is learned by heart: it is passed over fewer times.
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


def row(cell: Cell, experiment: Experiment, result: dict[str, Any], seconds: float, note: str) -> dict[str, Any]:
    """What is written down of a cell that was run: `result` is what evaluate prints."""
    device = jax.devices()[0]
    return {
        "cell": cell.name,
        "nll": -result["log_evidence"],
        "nll_stderr": result["log_evidence_stderr"],
        "elbo": result["elbo"],
        "active_units": result["active_units"],
        "effective_sample_size": result["effective_sample_size"],
        "num_importance_samples": result["num_importance_samples"],
        "num_examples": result["num_examples"],
        "num_epochs": experiment.num_epochs,
        "batch_size": experiment.batch_size,
        "optimizer": type(experiment.optimizer).__name__,
        "learning_rate": experiment.optimizer.learning_rate,
        "step": result["step"],
        "seed": experiment.seed,
        "train_seconds": round(seconds),
        "machine": f"{len(os.sched_getaffinity(0))} cores" if device.platform == "cpu" else device.device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "note": note,
    }


def train_seconds(folder: pathlib.Path) -> float:
    """The wall time of a run, from its first file to its last number; with what it stood still, if it was stopped."""
    return (folder / "metrics.jsonl").stat().st_mtime - (folder / "config.json").stat().st_mtime


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a results file, one JSON object a line; none if there is no such file.

    Raises:
      ValueError: a line is no row of this table.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            rows.append(json.loads(line))
            known = rows[-1]["cell"] in CELLS
        except (json.JSONDecodeError, TypeError, KeyError):
            known = False
        require(known, f"line {number} of {path} is no row of this table; mend it, or write another --results")
    return rows


def write(path: pathlib.Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Adds a row, in the place of an older one of the same cell and seed; returns all."""
    others = [r for r in read(path) if (r["cell"], r["seed"]) != (row["cell"], row["seed"])]
    rows = sorted([*others, row], key=lambda r: (list(CELLS).index(r["cell"]), r["seed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text("".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))
    beside.replace(path)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All cells as Markdown: those that were run with their numbers, the others with their command."""
    lines = [
        "| binarization | training | k | ours | published | active units | epochs | seed | training time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS.values():
        published = "–" if cell.published is None else f"{cell.published:.2f}"
        start = f"| {cell.binarization} | {_NAMES[cell.training]} | {cell.k} |"
        found = [r for r in rows if r["cell"] == cell.name]
        lines += [
            f"{start} {r['nll']:.2f} ± {r['nll_stderr']:.2f} | {published} | {r['active_units']} | {r['num_epochs']} | "
            f"{r['seed']} | {r['train_seconds'] / 60:.0f} min, {r['note'] or r['machine']} |"
            for r in found
        ]
        if not found:
            command = f"`python scripts/burda.py --cell={cell.name}`"
            lines.append(f"{start} not yet run | {published} | | {cell.num_epochs} | | {command} |")
    return "\n".join(lines)


def put_into(page: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the table between its two markers in a page.

    Raises:
      ValueError: the page has no such markers.
    """
    text = page.read_text()
    before, marker, rest = text.partition("<!-- the table -->\n")
    _, end, after = rest.partition("<!-- end of the table -->")
    require(bool(marker and end), f"{page} has no <!-- the table --> and <!-- end of the table -->")
    page.write_text(f"{before}{marker}{table(rows)}\n{end}{after}")
