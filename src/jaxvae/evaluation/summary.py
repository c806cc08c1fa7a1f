"""Means over the examples with their standard errors."""

import math
from typing import Any

import numpy as np

from jaxvae.evaluation.evaluator import PerExample
from jaxvae.evaluation.surgery import Surgery


def summarize(
    terms: PerExample, *, has_density: bool, log_bins: float | None, event_size: int, active_threshold: float = 0.01
) -> dict[str, Any]:
    """Means over the examples with their standard errors, in nats per example, as JSON can hold them.

    Args:
      terms: what an evaluator returned.
      has_density: whether q(z|x) is a density. If not there is no bound, and `elbo`, `rate` and `log_evidence` are
      None.
      log_bins: what turns a log-density into one of discrete data, for each entry; None: it can't be, and neither can
        `bits_per_dim`. 0 for a likelihood that is discrete itself.
      event_size: the entries D of an example.
      active_threshold: a latent unit is active if the variance over the data of its posterior mean is larger than this;
        Burda et al. (2016), section 5.2. Of a flow, the image of its base's mean stands for it. Of one example it is
        None.
    """

    def of(name: str) -> dict[str, float | None]:
        return with_stderr(name, getattr(terms, name))

    by_latent, num = terms.kl_per_dimension, len(terms.distortion)
    result: dict[str, Any] = {
        **of("elbo"),
        **of("log_evidence"),
        **of("rate"),
        "effective_sample_size": float(terms.effective_sample_size.mean()),
        "kl_per_dimension": None if by_latent is None else by_latent.mean(axis=0).tolist(),
    }
    if not has_density:
        result = dict.fromkeys(result)
    nats = result["log_evidence"]
    discrete = nats is not None and log_bins is not None
    return result | {
        **of("distortion"),
        "active_units": None if num == 1 else int(np.sum(terms.embedding.var(axis=0) > active_threshold)),
        "bits_per_dim": (-nats / event_size + log_bins) / math.log(2.0) if discrete else None,
        "num_examples": num,
    }


def summarize_surgery(surgery: Surgery | None) -> dict[str, float | int | None]:
    """The parts of the rate with their standard errors over the draws, in nats; None where there are none.

    The errors are those of draws from any examples. There is one of each instead, and so they are rather too large for
    I(x; z) and KL(q(z) || p(z)) of these very N examples, except of a handful.
    """
    num = None if surgery is None else len(surgery.marginal_kl)
    result: dict[str, float | int | None] = {"num_surgery_draws": num}
    for name in Surgery._fields:
        result |= with_stderr(name, getattr(surgery, name, None))
    return result


def with_stderr(name: str, values: np.ndarray | None) -> dict[str, float | None]:
    """The mean of independent values and its standard error; None for what can't be said."""
    if values is None:
        return {name: None, f"{name}_stderr": None}
    stderr = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {name: float(values.mean()), f"{name}_stderr": stderr}
