"""`scripts/inference_gap.py`."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import annealing, evaluation, inference_gap
from jaxvae.checks import require, require_number
from jaxvae.experiment import console, outcome, restoring, workdir
from jaxvae.experiment.command.parsing import MAX_DRAWS, OfRun, parse_of_run
from jaxvae.experiment.command.running import run_command
from jaxvae.model import VAE
from jaxvae.typing import Array, Key, Params

_Rows = Mapping[str, tuple[str, np.ndarray]]  # the title of each, and its values for all examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceGapCommand(OfRun):
    """Split the gap between log p(x) and the ELBO between the family of q(z|x) and the encoder; log p(x) by annealing.

    The annealed bound is checked on as many examples drawn from the model, for which annealing bounds log p(x) on both
    sides. The last line is one JSON object; values are in nats per example.
    """

    num_examples: int = 100
    """The number of test examples, spread evenly over the split."""
    num_temperatures: int = 1000
    """The number of annealing steps; more of them tighten the bounds."""
    num_chains: int = 16
    """The number of chains for each example."""
    num_steps: int = 1000
    """The number of steps that optimize the best q of each example."""
    num_importance_samples: int = 5000
    """The number of draws K in the importance-weighted bound, which is printed beside the annealed one."""
    seed: int = 0
    """The seed of all draws."""

    def __post_init__(self) -> None:
        for name in ("num_temperatures", "num_chains", "num_steps", "num_importance_samples"):
            require_number(self, name, low=1, high=MAX_DRAWS, integer=True)
        require_number(self, "num_examples", low=2, integer=True)
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)


def inference_gap_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command = parse_of_run(InferenceGapCommand, argv)
    posterior = workdir.read_config(command.workdir).model.posterior
    name = type(posterior).__name__
    require(posterior.has_density, f"{name} has no density q(z|x), and so no inference gap")
    require(
        posterior.space == "all vectors",
        f"{name} is over {posterior.space}, but annealing moves its chains through all vectors; "
        "scripts/evaluate.py bounds log p(x) by importance weights",
    )
    trainer, params, step = restoring.reopen(command.workdir, data_dir=command.data_dir)
    name, split = trainer.dataset.held_out
    num = command.num_examples
    require(
        num <= len(split.x), f"--num-examples is {num}, but the {name} split has {len(split.x)}; write at most that"
    )
    x_key, *keys = jax.random.split(jax.random.key(command.seed), 8)

    def work() -> None:
        spread = np.linspace(0, len(split.x) - 1, num).round().astype(int)  # the first may differ in kind
        x = evaluation.preprocess_each(trainer.preprocess, x_key, jnp.asarray(split.x[spread]), jnp.asarray(spread))
        rows = _measure(trainer.experiment.model, params, _Keys(*keys), x, command)
        print(f"means over {num} {name} examples with their standard errors, in nats")
        result = {"split": name, "num_examples": num, "step": step} | _print_means(rows)
        print(outcome.as_line(result))

    return work


class _Keys(NamedTuple):
    simulate: Key
    tune: Key
    forward: Key
    reverse: Key
    optimize: Key
    elbo: Key
    importance: Key


def _measure(model: VAE, params: Params, keys: _Keys, x: Array, command: InferenceGapCommand) -> _Rows:
    path = annealing.Path(num_temperatures=command.num_temperatures, num_chains=command.num_chains)
    total = 5 * command.num_temperatures + command.num_steps
    with console.Count(total, title="anneal and optimize,", unit="step") as bar:
        anneal: dict[str, Any] = {"path": path, "tick": bar.add}
        sizes = annealing.tune(model, params, keys.tune, x, **anneal)
        annealed = annealing.forward(model, params, keys.forward, x, step_sizes=sizes, **anneal).lower_bound
        own_x, own_z = annealing.simulate(model, params, keys.simulate, len(x))
        anneal["step_sizes"] = annealing.tune(model, params, keys.tune, own_x, **anneal)
        lower = annealing.forward(model, params, keys.forward, own_x, **anneal).lower_bound
        upper = annealing.reverse(model, params, keys.reverse, own_x, own_z, **anneal).upper_bound
        num_steps = command.num_steps
        best = inference_gap.optimize_posterior(model, params, keys.optimize, x, num_steps=num_steps, tick=bar.add)
    encoded = model.variational_parameters(params, x)
    elbos = [inference_gap.elbo_of(model, params, keys.elbo, q, x) for q in (best, encoded)]
    gap = inference_gap.InferenceGap(annealed, *elbos)
    draws = command.num_importance_samples
    evaluate = evaluation.make_evaluator(model)
    weighted = evaluate(params, keys.importance, np.asarray(x), num_importance_samples=draws).log_evidence
    return {
        "log_evidence_annealed": ("lower bound on log p(x), annealed", annealed),
        "log_evidence": (f"lower bound on log p(x), {draws:,} importance samples", weighted),
        "best_elbo": ("ELBO with each example's best q", gap.best_elbo),
        "elbo": ("ELBO with the encoder's q", gap.elbo),
        "approximation_gap": ("approximation gap: the family of q", gap.approximation),
        "amortization_gap": ("amortization gap: the encoder", gap.amortization),
        "simulated_lower": ("lower bound for the model's own samples, annealed forward", lower),
        "simulated_upper": ("upper bound for the model's own samples, annealed in reverse", upper),
        "simulated_gap": ("gap between these two bounds: the error of annealing", upper - lower),
    }


def _print_means(rows: _Rows) -> dict[str, float]:
    """Prints a line for each row; returns the same numbers for the JSON object."""
    result: dict[str, float] = {}
    for name, (text, values) in rows.items():
        mean, stderr = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
        print(f"{text:60} {mean:10.4f} ± {stderr:.4f}")
        result |= {name: mean, f"{name}_stderr": stderr}
    return result
