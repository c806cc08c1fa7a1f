"""`scripts/compare.py`."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

from jaxvae.experiment import console
from jaxvae.experiment.command.parsing import load_config, parse, take_config_file
from jaxvae.experiment.command.running import run_command
from jaxvae.experiment.config import Experiment
from jaxvae.model import VAE
from jaxvae.numerics import require_number


@dataclasses.dataclass(frozen=True)
class CompareCommand:
    """Measure what the lecture says of autoencoders and VAEs: memorization, continuity, completeness.

    Trains a VAE and the plain autoencoder of the same networks with several seeds, or goes on where it was stopped, and
    writes comparison.md, comparison.json and comparison.png. --config FILE names the VAE's config (default:
    configs/digits.py); every field of it can be set from here.
    """

    config: Experiment
    workdir: pathlib.Path
    """The folder of the comparison; each of its runs has a folder in it."""
    num_seeds: int = 5
    """How many seeds, from the config's own upwards; the intervals are over them."""

    def __post_init__(self) -> None:
        require_number(self, "num_seeds", low=2, high=1000, integer=True)


def compare_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    import jax

    from jaxvae import data, plots
    from jaxvae.experiment import comparison, run
    from jaxvae.experiment.workdir import is_finished

    file, rest = take_config_file(argv)
    command = parse(CompareCommand, rest, config=load_config(file))
    seeds = range(command.config.seed, command.config.seed + command.num_seeds)
    experiments = {
        command.workdir / f"{name}-{seed}": dataclasses.replace(experiment, seed=seed)
        for name, experiment in (("vae", command.config), ("autoencoder", comparison.autoencoder_of(command.config)))
        for seed in seeds
    }
    source = data.find(command.config.data)
    comparison.check(command.config.fit_to(source), source)
    trainers = dict(zip(experiments, run.prepare_all(experiments), strict=True))

    def work() -> None:
        params, measured = {}, {}
        measures: dict[VAE, comparison.MeasureRun] = {}
        for i, (folder, trainer) in enumerate(trainers.items()):
            console.say(f"{folder.name}, {i + 1} of {len(trainers)}")
            if not is_finished(folder):
                run.fit(trainer, folder, pictures=False)
            experiment = trainer.experiment
            params[folder.name], _ = run.restore_params(experiment, folder)
            measure = measures.setdefault(experiment.model, comparison.make_measure(experiment.model))
            key, data_key = jax.random.split(jax.random.fold_in(trainer.keys.figures, 1))
            examples = comparison.examples(experiment, trainer.dataset, data_key)
            measured[folder.name] = jax.tree.map(float, measure(params[folder.name], key, examples))
        per_seed = [
            {
                name: measured[f"autoencoder-{seed}"][name] | measured[f"vae-{seed}"][name]
                for name in comparison.MEASURES
            }
            for seed in seeds
        ]
        rows = comparison.table(per_seed)
        text = comparison.markdown(rows)
        (command.workdir / "comparison.md").write_text(text + "\n")
        (command.workdir / "comparison.json").write_text(
            json.dumps(comparison.as_json(rows, per_seed), indent=2, allow_nan=False)
        )
        first = [trainers[command.workdir / f"{name}-{seeds[0]}"] for name in ("vae", "autoencoder")]
        shown = dict(zip((comparison.VAE_, comparison.AE), (t.experiment for t in first), strict=True))
        key, data_key = jax.random.split(jax.random.fold_in(first[0].keys.figures, 2))
        images, names = comparison.pictures(
            shown,
            {comparison.VAE_: params[f"vae-{seeds[0]}"], comparison.AE: params[f"autoencoder-{seeds[0]}"]},
            comparison.examples(first[0].experiment, first[0].dataset, data_key),
            key,
        )
        panels = [plots.Panel(comparison.MEASURES[n].what, comparison.MEASURES[n].unit, row) for n, row in rows.items()]
        plots.comparison(images, names, panels, comparison.COLUMNS, command.workdir / "comparison.png")
        print(text)
        console.say(
            f"means over {len(seeds)} seeds with 95 % intervals; wrote comparison.md, comparison.json and "
            f"comparison.png in {command.workdir}"
        )

    return work
