"""`scripts/inference_gap.py`."""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.experiment.command.parsing import import_config, parse
from jaxvae.experiment.command.running import run_command
from jaxvae.numerics import require, require_number


@dataclasses.dataclass(frozen=True)
class InferenceGapCommand:
    """Split what the ELBO misses of log p(x) into the family of q(z|x) and the encoder, with log p(x) by annealing.

    The annealed bound is checked on as many examples drawn from the model itself, where it is enclosed from both sides.
    The last line is one JSON object; values are in nats per example.
    """

    workdir: pathlib.Path
    """The folder of the run."""
    num_examples: int = 100
    """How many test examples, spread evenly over the split."""
    num_temperatures: int = 1000
    """The steps of annealing; the bounds tighten with it."""
    num_chains: int = 16
    """The chains for each example."""
    num_steps: int = 1000
    """The steps in which the best q of each example is looked for."""
    num_importance_samples: int = 5000
    """The draws K of the importance-weighted bound that is printed beside the annealed one."""
    seed: int = 0
    """The seed of everything that is drawn."""
    data_dir: str | None = None
    """Where the TFDS sets lie, if not where they lay in training."""
    config: pathlib.Path | None = None
    """A config file to import first, for a run that uses registered classes of one's own."""

    def __post_init__(self) -> None:
        for name in ("num_temperatures", "num_chains", "num_steps", "num_importance_samples"):
            require_number(self, name, low=1, integer=True)
        require_number(self, "num_examples", low=2, integer=True)
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)


def inference_gap_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    from jaxvae import annealing, evaluation, inference_gap
    from jaxvae.experiment import console, figures, run, workdir
    from jaxvae.experiment.session import preprocessing

    command = parse(InferenceGapCommand, argv)
    import_config(command.config)
    posterior = workdir.read_config(command.workdir).model.posterior
    name = type(posterior).__name__
    require(posterior.has_density, f"{name} has no density q(z|x), and no inference gap")
    require(
        posterior.space == "all vectors",
        f"{name} is over {posterior.space}, and log p(x) is annealed by chains through all vectors; "
        "scripts/evaluate.py bounds it by importance weights",
    )
    trainer, params, step = run.reopen(command.workdir, data_dir=command.data_dir)
    model, num = trainer.experiment.model, command.num_examples
    name, split = figures.shown_split(trainer.dataset)
    require(
        num <= len(split.x), f"--num-examples is {num}, and the {name} split has {len(split.x)}; write at most that"
    )
    path = annealing.Path(num_temperatures=command.num_temperatures, num_chains=command.num_chains)
    keys = dict(zip(("x", "sim", "tune", "up", "down", "climb", "elbo", "iw"), jax.random.split(
        jax.random.key(command.seed), 8), strict=True))  # fmt: skip

    def work() -> None:
        preprocess = preprocessing(trainer.experiment, trainer.dataset)
        spread = np.linspace(0, len(split.x) - 1, num).round().astype(int)  # the first may be of another kind
        x = evaluation.preprocess_each(preprocess, keys["x"], jnp.asarray(split.x[spread]), jnp.asarray(spread))
        total = 5 * command.num_temperatures + command.num_steps
        with contextlib.closing(console.Count(total, title="anneal and optimize,", unit="step")) as bar:
            anneal: dict[str, Any] = {"path": path, "tick": bar.add}
            sizes = annealing.tune(model, params, keys["tune"], x, **anneal)
            annealed = annealing.forward(model, params, keys["up"], x, step_sizes=sizes, **anneal).lower_bound
            own_x, own_z = annealing.simulate(model, params, keys["sim"], num)
            sizes = annealing.tune(model, params, keys["tune"], own_x, **anneal)
            lower = annealing.forward(model, params, keys["up"], own_x, step_sizes=sizes, **anneal).lower_bound
            upper = annealing.reverse(model, params, keys["down"], own_x, own_z, step_sizes=sizes, **anneal).upper_bound
            best = inference_gap.optimize_posterior(
                model, params, keys["climb"], x, num_steps=command.num_steps, tick=bar.add
            )
        encoded = model.variational_parameters(params, x)
        elbos = [inference_gap.elbo_of(model, params, keys["elbo"], q, x) for q in (best, encoded)]
        gap = inference_gap.InferenceGap(annealed, *elbos)
        weighted = evaluation.make_evaluator(model)(
            params, keys["iw"], np.asarray(x), num_importance_samples=command.num_importance_samples
        ).log_evidence
        rows = {
            "log_evidence_annealed": ("log p(x) at least, annealed", annealed),
            "log_evidence": (f"log p(x) at least, {command.num_importance_samples:,} importance samples", weighted),
            "best_elbo": ("ELBO with the best q of each example", gap.best_elbo),
            "elbo": ("ELBO with the encoder's q", gap.elbo),
            "approximation_gap": ("approximation gap: the family of q", gap.approximation),
            "amortization_gap": ("amortization gap: the encoder", gap.amortization),
            "simulated_lower": ("the model's own examples, annealed forward", lower),
            "simulated_upper": ("the model's own examples, annealed in reverse", upper),
            "simulated_gap": ("between the two lies log p(x): the annealing's own error", upper - lower),
        }
        print(f"means over {num} {name} examples with their standard errors, in nats")
        result: dict[str, Any] = {"split": name, "num_examples": num, "step": step}
        for key, (text, values) in rows.items():
            stderr = values.std(ddof=1) / math.sqrt(num)
            print(f"{text:60} {values.mean():10.4f} ± {stderr:.4f}")
            result |= {key: float(values.mean()), f"{key}_stderr": float(stderr)}
        print(json.dumps(result, allow_nan=False))

    return work
