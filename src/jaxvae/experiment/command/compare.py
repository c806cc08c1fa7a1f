"""`scripts/compare.py`."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from jaxvae import data, files
from jaxvae.checks import require, require_number
from jaxvae.experiment import comparison, console, restoring, run, workdir
from jaxvae.experiment.command.parsing import parse_with_config
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.intervals import Interval
from jaxvae.experiment.session import Trainer
from jaxvae.typing import Params


@dataclasses.dataclass(frozen=True)
class CompareCommand:
    """Measure the lecture's claims about autoencoders and VAEs: memorization, continuity, completeness.

    Trains a VAE and the plain autoencoder of the same networks with several seeds, or resumes where it was stopped, and
    writes comparison.md, comparison.json and comparison.png. --config FILE names the VAE's config (default:
    configs/digits.py); every field of it can be set from here.
    """

    config: Experiment
    workdir: pathlib.Path
    """The folder of the comparison; each of its runs has a folder in it."""
    num_seeds: int = 5
    """The number of seeds, from the config's own upwards; the intervals are over them."""

    def __post_init__(self) -> None:
        require_number(self, "num_seeds", low=2, high=1000, integer=True)


def compare_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command, _ = parse_with_config(CompareCommand, argv)
    seeds = range(command.config.seed, command.config.seed + command.num_seeds)
    experiments = {
        command.workdir / f"{name}-{seed}": dataclasses.replace(experiment, seed=seed)
        for name, experiment in (("vae", command.config), ("autoencoder", comparison.autoencoder_of(command.config)))
        for seed in seeds
    }
    workdir.check_writable(command.workdir)
    workdir.check_apart(command.workdir)
    is_run = (command.workdir / "config.json").exists()
    require(not is_run, f"--workdir={command.workdir} holds a run; choose another folder")
    source = data.find(command.config.data)
    comparison.check(command.config.fit_to(source), source)
    trainers = dict(zip(experiments, run.prepare_all(experiments), strict=True))

    def work() -> None:
        models = _train_and_measure(trainers)
        pairs = [(models[f"vae-{seed}"], models[f"autoencoder-{seed}"]) for seed in seeds]
        per_seed = [{name: ae.values[name] | vae.values[name] for name in comparison.MEASURES} for vae, ae in pairs]
        rows = comparison.table(per_seed)
        text = comparison.markdown(rows)
        files.write(command.workdir / "comparison.md", text + "\n")
        as_json = comparison.as_json(rows, per_seed)
        files.write_json(command.workdir / "comparison.json", as_json)
        _draw(*pairs[0], rows, command.workdir / "comparison.png")
        print(text)
        console.say(
            f"means over {len(seeds)} seeds with 95 % intervals; wrote comparison.md, comparison.json and "
            f"comparison.png in {command.workdir}"
        )
        print(json.dumps(as_json, allow_nan=False))

    return work


class _Measured(NamedTuple):
    """A trained model and its measurements."""

    trainer: Trainer
    params: Params
    values: dict[str, dict[str, float]]  # measure, column


def _train_and_measure(trainers: Mapping[pathlib.Path, Trainer]) -> dict[str, _Measured]:
    """The measured models by the name of the run's folder; a run that was finished before is only measured."""
    models: dict[str, _Measured] = {}
    measures = {t.experiment.model: comparison.make_measure(t.experiment.model) for t in trainers.values()}
    for i, (folder, trainer) in enumerate(trainers.items()):
        console.say(f"{folder.name}, {i + 1} of {len(trainers)}")
        if not workdir.is_finished(folder):
            run.fit(trainer, folder, pictures=False)
        params, _ = restoring.restore_params(trainer.experiment, folder)
        key, data_key = jax.random.split(jax.random.fold_in(trainer.keys.figures, 1))
        examples = comparison.examples(trainer, data_key)
        values = jax.tree.map(float, measures[trainer.experiment.model](params, key, examples))
        models[folder.name] = _Measured(trainer, params, values)
    return models


def _draw(vae: _Measured, ae: _Measured, rows: Mapping[str, Mapping[str, Interval]], path: pathlib.Path) -> None:
    from jaxvae import plots

    pair = {comparison.VAE_: vae, comparison.AE: ae}
    key, data_key = jax.random.split(jax.random.fold_in(vae.trainer.keys.figures, 2))
    images, names = comparison.pictures(
        {name: model.trainer.experiment for name, model in pair.items()},
        {name: model.params for name, model in pair.items()},
        comparison.examples(vae.trainer, data_key),
        key,
    )
    panels = [plots.Panel(comparison.MEASURES[n].what, comparison.MEASURES[n].unit, row) for n, row in rows.items()]
    plots.comparison(images, names, panels, comparison.COLUMNS).savefig(path)
