"""`scripts/burda.py`."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from jaxvae.experiment.burda import CELLS, NUM_IMPORTANCE_SAMPLES
from jaxvae.experiment.command.parsing import load_config, parse
from jaxvae.experiment.command.running import run_command
from jaxvae.numerics import require, require_number


@dataclasses.dataclass(frozen=True)
class BurdaCommand:
    """Run one cell of table 1 of Burda et al. (2016), and write its row down; without a cell, print the table.

    A cell is trained in --workdir (or gone on with, or only measured, if it was trained there), and measured by 5,000
    importance samples on the test split. The row goes into --results, and the table into the page.
    """

    cell: Literal[tuple(CELLS)] | None = None  # type: ignore[valid-type]
    """Binarization, training and k."""
    workdir: pathlib.Path | None = None
    """The folder of the run; by default runs/burda/CELL."""
    data_dir: str | None = None
    """The folder of prepared TFDS sets; by default TFDS's own."""
    seed: int = 0
    """The seed of the run."""
    note: str = ""
    """What the machine was, for the column of the time; by default its cores."""
    results: pathlib.Path = pathlib.Path("docs/results/burda.jsonl")
    """Where the rows are."""
    page: pathlib.Path | None = pathlib.Path("README.md")
    """The page with the table; None: it is only printed."""

    def __post_init__(self) -> None:
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)


def burda_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    from jaxvae.experiment import burda, measuring, run, workdir

    command = parse(BurdaCommand, argv)
    rows = burda.read(command.results)
    if command.cell is None:
        return lambda: print(burda.table(rows))

    page = command.page
    require(page is None or page.is_file(), f"--page={page} is not a file; write --page=None to print the table only")
    cell = CELLS[command.cell]
    folder = command.workdir or pathlib.Path("runs/burda") / cell.name
    configs = pathlib.Path(sys.argv[0]).resolve().parents[1] / "configs"
    config = load_config(configs / f"burda_{cell.training}.py")
    trainer = run.prepare(cell.experiment(config, data_dir=command.data_dir, seed=command.seed), folder)

    def work() -> None:
        if not workdir.is_finished(folder):
            run.fit(trainer, folder)
        trained = run.Trained(trainer, *run.restore_params(trainer.experiment, folder))
        result = measuring.evaluate_run(trained, "test", num_importance_samples=NUM_IMPORTANCE_SAMPLES, folder=folder)
        row = burda.row(cell, trainer.experiment, result, burda.train_seconds(folder), command.note)
        rows = burda.write(command.results, row)
        if page is not None:
            burda.put_into(page, rows)
        print(burda.table(rows))
        print(json.dumps(row))

    return work
