"""The results of a trained model: its numbers, which must be finite, and its figures."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvae import evaluation
from jaxvae.experiment import figures, report, stopping, workdir
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.session import Trainer
from jaxvae.typing import Params


def log_test(log: workdir.MetricsLog, step: int, model_step: int, result: dict[str, Any]) -> None:
    """Logs the line of a finished run: the test numbers of the parameters of `model_step`."""
    names = [f"{n}{e}" for n in ("elbo", "distortion", "rate") for e in ("", "_stderr")]
    names += ["kl_per_dimension", "active_units", "num_examples"]
    log.write(step, "test", {"model_step": model_step} | {n: result[n] for n in names})


def require_finite(experiment: Experiment, split: str, terms: evaluation.PerExample) -> None:
    """Checks that the terms of a split are finite.

    Raises:
      Diverged: a term is NaN or infinite; the message names it and the first example.
    """
    for name in ("distortion", "rate", "log_evidence") if experiment.model.posterior.has_density else ("distortion",):
        finite = np.isfinite(getattr(terms, name))
        if not finite.all():
            raise stopping.Diverged(
                f"the {name} of {np.count_nonzero(~finite):,} of {len(finite):,} {split} examples is not finite, first "
                f"for example {finite.argmin()}; look at its values. The trained model is kept"
            )


def as_line(result: Mapping[str, Any]) -> str:
    """The numbers of a command as one line of JSON.

    Raises:
      Diverged: a number is NaN or infinite.
    """
    try:
        return json.dumps(result, allow_nan=False)
    except ValueError:
        written = {name: json.dumps(value) for name, value in result.items()}
        bad = [name for name, text in written.items() if "NaN" in text or "Infinity" in text]
        raise stopping.Diverged(
            f"the {bad[0].replace('_', ' ')} is NaN or infinite; the trained model is kept"
        ) from None


def summarize(trainer: Trainer, terms: evaluation.PerExample) -> dict[str, Any]:
    """`evaluation.summarize` of an evaluator's terms, for this posterior, likelihood and preprocessing."""
    model = trainer.experiment.model
    # A latent of the prior has the variance 1, or on the unit sphere 1 / D.
    of_prior = 1.0 / model.latent_dim if model.posterior.space == "the unit sphere" else 1.0
    return evaluation.summarize(
        terms,
        active_threshold=0.01 * of_prior,
        has_density=model.posterior.has_density,
        log_bins=log_bins(trainer),
        event_size=int(np.prod(trainer.dataset.event_shape)),
    )


def log_bins(trainer: Trainer) -> float | None:
    """The log of bins for each entry that turns log p(x) into one of the discrete data; None: it can't be done."""
    experiment, values = trainer.experiment, trainer.dataset.values
    if values.missing:  # the number of observed entries differs between examples
        return None
    discrete = experiment.model.likelihood.support.integer
    return 0.0 if discrete else experiment.data.preprocess.log_bins(values)


def picture(
    trainer: Trainer, params: Params, terms: evaluation.PerExample, folder: pathlib.Path, page: pathlib.Path
) -> None:
    """Writes a trained model's figures into its run's folder, and the report; `terms` are of `Dataset.held_out`."""
    (folder / "figures").mkdir(exist_ok=True)
    drawn = []
    for name, figure in figures.draw(trainer, params, terms, workdir.read_metrics(folder)):
        figure.savefig(folder / "figures" / f"{name}.png")
        drawn.append(name)
    report.write([report.read(folder, figures=drawn)], page)
