"""`scripts/burda.py`."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxvae import files
from jaxvae.checks import require, require_number
from jaxvae.experiment import burda, measuring, restoring, run, workdir
from jaxvae.experiment.burda import CELLS, NUM_IMPORTANCE_SAMPLES
from jaxvae.experiment.command.parsing import load_config, parse, shipped
from jaxvae.experiment.command.running import run_command


@dataclasses.dataclass(frozen=True)
class BurdaCommand:
    """Run one cell of the table of Burda et al. (2016) and record its row; without a cell, make the table again.

    A cell is trained in --workdir (or resumed, or only measured if it was trained there), and measured with 5,000
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
    machine: str | None = None
    """The row's description of the machine, beside the training time; by default its cores or its accelerator."""
    results: pathlib.Path = pathlib.Path("docs/results/burda.jsonl")
    """The file of the rows."""
    page: pathlib.Path | None = pathlib.Path("README.md")
    """The page in which the table goes between its markers; None: it is only printed."""

    def __post_init__(self) -> None:
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)
        plain = self.machine is None or not {"|", "\n"} & set(self.machine)
        require(plain, f"--machine={self.machine!r} does not fit into a table; write one line without |")


def burda_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command = parse(BurdaCommand, argv)
    require(
        command.cell is not None or command.results.is_file(),
        f"--results={command.results} is not a file; write the rows' file, or a --cell to run",
    )
    rows, page = burda.read(command.results), command.page
    if page is not None:
        require(page.is_file(), f"--page={page} is not a file; write --page=None to print the table only")
        # Refuses a page without markers before the work.
        burda.put_into(page.read_text(encoding="utf-8"), rows, name=page)

    def show(rows: Sequence[dict[str, Any]]) -> None:
        if page is not None:
            files.write(page, burda.put_into(page.read_text(encoding="utf-8"), rows, name=page))
        print(burda.table(rows))

    if command.cell is None:
        return lambda: show(rows)
    cell, machine = CELLS[command.cell], command.machine or burda.this_machine()
    folder = command.workdir or pathlib.Path("runs/burda") / cell.name
    config = load_config(shipped(f"configs/burda_{cell.training}.py"))
    trainer = run.prepare(cell.experiment(config, data_dir=command.data_dir, seed=command.seed), folder)

    def work() -> None:
        if not workdir.is_finished(folder):
            with burda.clock(folder):
                run.fit(trainer, folder, pictures=False)
        # The last parameters: the paper does not select on the validation split.
        trained = restoring.Trained(trainer, *restoring.restore_last_params(trainer.experiment, folder))
        result = measuring.evaluate_run(trained, "test", num_importance_samples=NUM_IMPORTANCE_SAMPLES, folder=folder)
        seconds = burda.train_seconds(folder)
        row = burda.row(cell, trainer.experiment, result, train_seconds=seconds, machine=machine)
        show(burda.write(command.results, row))
        print(json.dumps(row))

    return work
