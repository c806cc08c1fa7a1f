"""`scripts/report.py`."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from jaxvae.checks import require
from jaxvae.experiment import console, outcome, report, restoring, workdir
from jaxvae.experiment.command.parsing import WithConfig, check_output, parse_of_run
from jaxvae.experiment.command.running import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportCommand(WithConfig):
    """Write the report of a run again, with its figures; or, given several runs, a report that compares them.

    A comparison reads the files in the runs' folders, and needs neither their data nor their parameters.
    """

    workdir: tuple[pathlib.Path, ...]
    """The folder of the run; repeated for several runs: --workdir=A --workdir=B."""
    output: pathlib.Path | None = None
    """The .html page to write; by default report.html in the folder of the one run."""
    data_dir: str | None = None
    """The folder of the TFDS sets or of the run's file, if it differs from the one in training."""

    def __post_init__(self) -> None:
        require(len(self.workdir) > 0, "--workdir is missing; write the folder of a run")
        folders = [folder.resolve() for folder in self.workdir]
        twice = [str(given) for given, folder in zip(self.workdir, folders, strict=True) if folders.count(folder) > 1]
        require(not twice, f"--workdir is given twice for one folder ({', '.join(twice)}); write each once")
        require(
            len(self.workdir) == 1 or self.output is not None,
            "several runs have no folder in common; write --output=FILE.html",
        )
        require(
            self.output is None or self.output.suffix == ".html",
            f"--output={self.output} must end in .html",
        )


def report_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command = parse_of_run(ReportCommand, argv, repeated=True)
    for folder in command.workdir:
        workdir.read_config(folder)
    output = command.output or command.workdir[0] / "report.html"
    if len(command.workdir) > 1:
        check_output(output)

        def compare() -> None:
            report.write([report.read(folder) for folder in command.workdir], output)
            print(output)

        return compare

    (folder,) = command.workdir
    pictures = folder / "figures"
    require(
        os.access(pictures if pictures.exists() else folder, os.W_OK) or not folder.exists(),
        f"{pictures} can't be written, and the figures are redrawn there; copy the run elsewhere",
    )
    trainer, params, _ = restoring.reopen(folder, data_dir=command.data_dir)
    check_output(output)

    def work() -> None:
        _, split = trainer.dataset.held_out
        with console.Count(len(split.x), title="report,", unit="example") as bar:
            terms = trainer.evaluate(
                params, trainer.keys.evaluate, split.x, report=lambda part: bar.add(len(part.distortion))
            )
        outcome.picture(trainer, params, terms, folder, output)
        print(output)

    return work
