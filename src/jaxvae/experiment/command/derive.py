"""`scripts/derive.py`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import derivation, evaluation
from jaxvae.checks import require_number
from jaxvae.experiment import console, outcome, restoring, stopping, workdir
from jaxvae.experiment.command.parsing import MAX_DRAWS, OfRun, parse_of_run
from jaxvae.experiment.command.running import run_command
from jaxvae.model import VAE
from jaxvae.typing import Array, Key, Params

_MOST_APART = 0.01  # nats; on trained models they differ by less than 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeriveCommand(OfRun):
    """Print the lecture's derivation of the ELBO with the numbers of a trained model that has two latents.

    The evidence and every expectation are integrals computed by quadrature. The last line is one JSON object with the
    largest disagreement between the two sides of a line; values are in nats.
    """

    num_examples: int = 8
    """The number of test examples."""
    num_importance_samples: int = 5000
    """The number of draws K in the importance-weighted bound, which is printed beside the evidence."""

    def __post_init__(self) -> None:
        require_number(self, "num_examples", low=1, high=100, integer=True)
        require_number(self, "num_importance_samples", low=1, high=MAX_DRAWS, integer=True)


def derive_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    command = parse_of_run(DeriveCommand, argv)
    model = workdir.read_config(command.workdir).model
    derivation.check(model, jax.eval_shape(lambda: _any_posterior(model)))
    trainer, params, step = restoring.reopen(command.workdir, data_dir=command.data_dir)

    split, examples = trainer.dataset.held_out
    key, stored = trainer.keys.evaluate, jnp.asarray(examples.x[: command.num_examples])
    x = evaluation.preprocess_each(trainer.preprocess, key, stored, jnp.arange(len(stored)))  # as evaluate.py does
    total = derivation.num_decodings(model.encode(params, x))  # raises if no grid is fine enough

    def work() -> None:
        with console.Count(total, title="integrate,", unit="point") as bar:
            result = derivation.derive(model, params, x, tick=bar.add)
        bound = _bound(model, params, key, x, command.num_importance_samples)
        print(f"means over {len(x)} {split} examples, in nats; E is over q(z|x)")
        _require_fine_enough(result)
        _print(result, bound)
        of_what = {"split": split, "num_examples": len(x)}
        print(outcome.as_line(of_what | _summary(result, bound) | {"step": step}))

    return work


class _Bound(NamedTuple):
    """The mean over some examples of log (1/K) Σ w_k, and its standard error from the draws alone.

    The error is by the delta method, which needs many draws, none of which outweighs all the others.
    """

    num_draws: int
    mean: float
    stderr: float | None  # None for one draw


def _bound(model: VAE, params: Params, key: Key, x: Array, num_draws: int) -> _Bound:
    terms = evaluation.make_evaluator(model)(params, key, np.asarray(x), num_importance_samples=num_draws)
    mean = float(terms.log_evidence.mean())
    if num_draws == 1:
        return _Bound(num_draws, mean, None)
    relative = np.maximum(num_draws / terms.effective_sample_size - 1.0, 0.0)  # the variance of weights with mean 1
    return _Bound(num_draws, mean, float(np.sqrt(relative.sum() / (num_draws - 1))) / len(relative))


def _require_fine_enough(result: derivation.Derivation) -> None:
    """Refuses a log p(x) that the two rules do not agree on: p(z|x) is too narrow for them where q(z|x) is wide.

    Raises:
      Diverged: they do not agree.
    """
    apart = result.lines[0].disagreement
    if apart >= _MOST_APART:  # what is not a number is refused elsewhere
        raise stopping.Diverged(
            f"the two rules for log p(x) differ by {apart:.2g} nats: p(z|x) is so much narrower than q(z|x) that their "
            "points miss it; train a model with a smaller weight β of the KL"
        )


def _print(result: derivation.Derivation, bound: _Bound) -> None:
    """Prints the lines, and below them the terms that they are made of."""
    width = max(len(line.text) for line in result.lines)
    print(f"the grid has {result.num_points:,} points\n")
    print(f"{'':{width + 4}}  {'left':>10}    {'right':>10}   largest disagreement")
    for i, line in enumerate(result.lines, 1):
        left, right = line.left.mean(), line.right.mean()
        print(f"{i:2}  {line.text:{width}}  {left:10.5f}  {line.sign} {right:10.5f}   {line.disagreement:.1e}")
    print()
    print(f"log p(x)         {result.log_evidence.mean():10.5f}")
    print(f"ELBO             {result.elbo.mean():10.5f}")
    print(f"KL(q ‖ p(z|x))   {result.gap.mean():10.5f}")
    error = "" if bound.stderr is None else f" ± {bound.stderr:.5f}"
    print(
        f"log (1/K) Σ w_k  {bound.mean:10.5f}{error}   the importance-weighted bound, below log p(x) in "
        f"expectation; K = {bound.num_draws:,} draws"
    )
    print(f"\nlargest disagreement: {result.disagreement:.1e} nats")


def _summary(result: derivation.Derivation, bound: _Bound) -> dict[str, float | None]:
    return {
        "log_evidence": result.log_evidence.mean(),
        "elbo": result.elbo.mean(),
        "gap": result.gap.mean(),
        "importance_weighted_bound": bound.mean,
        "importance_weighted_bound_stderr": bound.stderr,
        "largest_disagreement": result.disagreement,
    }


def _any_posterior(model: VAE) -> Any:
    return model.encode(model.init(jax.random.key(0)), jnp.zeros((1, *(model.event_shape or ()))))
