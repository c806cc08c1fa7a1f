"""`scripts/derive.py`."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.experiment.command.parsing import MAX_DRAWS, import_config, parse
from jaxvae.experiment.command.running import run_command
from jaxvae.model import VAE
from jaxvae.numerics import require_number


@dataclasses.dataclass(frozen=True)
class DeriveCommand:
    """Print the lecture's derivation of the ELBO with the numbers of a trained model that has two latents.

    The evidence and every expectation are integrals done by quadrature. The last line is one JSON object with the
    largest disagreement between the two sides of a line; values are in nats.
    """

    workdir: pathlib.Path
    """The folder of the run."""
    num_examples: int = 8
    """How many test examples."""
    num_importance_samples: int = 5000
    """The draws K of the importance-weighted bound that is printed beside the evidence."""
    data_dir: str | None = None
    """Where the TFDS sets lie, if not where they lay in training."""
    config: pathlib.Path | None = None
    """A config file to import first, for a run that uses registered classes of one's own."""

    def __post_init__(self) -> None:
        require_number(self, "num_examples", low=1, high=100, integer=True)
        require_number(self, "num_importance_samples", low=1, high=MAX_DRAWS, integer=True)


def derive_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    from jaxvae import derivation, evaluation
    from jaxvae.experiment import console, figures, restoring, workdir
    from jaxvae.experiment.session import preprocessing

    command = parse(DeriveCommand, argv)
    import_config(command.config)
    model = workdir.read_config(command.workdir).model
    derivation.check(model, jax.eval_shape(lambda: _any_posterior(model)))
    trainer, params, step = restoring.reopen(command.workdir, data_dir=command.data_dir)

    split, examples = figures.shown_split(trainer.dataset)
    key = trainer.keys.evaluate
    x = preprocessing(trainer.experiment, trainer.dataset)(key, jnp.asarray(examples.x[: command.num_examples]))
    total = derivation.num_decodings(model.encode(params, x))  # where no grid is fine enough, this says so

    def work() -> None:
        with contextlib.closing(console.Count(total, title="integrate,", unit="point")) as bar:
            result = derivation.derive(model, params, x, tick=bar.add)
        k = command.num_importance_samples
        found = evaluation.make_evaluator(model)(params, key, np.asarray(x), num_importance_samples=k)
        bound, bound_stderr = float(found.log_evidence.mean()), _stderr_of_mean(found.effective_sample_size, k)
        width = max(len(line.text) for line in result.lines)
        print(f"means over {len(x)} {split} examples, in nats; E is over q(z|x)")
        print(f"the grid has {result.num_points:,} points\n")
        print(f"{'':{width + 4}}  {'left':>10}    {'right':>10}   largest disagreement")
        for i, line in enumerate(result.lines, 1):
            left, right = line.left.mean(), line.right.mean()
            print(f"{i:2}  {line.text:{width}}  {left:10.5f}  {line.sign} {right:10.5f}   {line.disagreement:.1e}")
        print()
        print(f"log p(x)         {result.log_evidence.mean():10.5f}")
        print(f"ELBO             {result.elbo.mean():10.5f}")
        print(f"KL(q ‖ p(z|x))   {result.gap.mean():10.5f}")
        print(
            f"log (1/K) Σ w_k  {bound:10.5f} ± {bound_stderr:.5f}   the importance-weighted bound, below log p(x) in "
            f"expectation; K = {k:,} draws"
        )
        print(f"\nlargest disagreement: {result.disagreement:.1e} nats")
        print(
            json.dumps(
                {
                    "split": split,
                    "num_examples": len(x),
                    "log_evidence": result.log_evidence.mean(),
                    "elbo": result.elbo.mean(),
                    "gap": result.gap.mean(),
                    "importance_weighted_bound": bound,
                    "importance_weighted_bound_stderr": bound_stderr,
                    "largest_disagreement": result.disagreement,
                    "step": step,
                }
            )
        )

    return work


def _stderr_of_mean(effective_sample_size: np.ndarray, num_draws: int) -> float:
    """Of the mean of log (1/K) Σ w_k over some examples, from the draws alone: of each its variance is 1/ESS - 1/K."""
    variances = np.maximum(1.0 / effective_sample_size - 1.0 / num_draws, 0.0)
    return float(np.sqrt(variances.sum()) / len(variances))


def _any_posterior(model: VAE) -> Any:
    return model.encode(model.init(jax.random.key(0)), jnp.zeros((1, *(model.event_shape or ()))))
