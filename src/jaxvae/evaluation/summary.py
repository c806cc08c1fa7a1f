"""Means over the examples with their standard errors."""

import math
from typing import Any

import numpy as np

from jaxvae.evaluation.evaluator import PerExample
from jaxvae.evaluation.surgery import Surgery


def summarize(
    terms: PerExample, *, has_density: bool, log_bins: float | None, event_size: int, active_threshold: float = 0.01
) -> dict[str, Any]:
    """JSON-serializable means over the examples with their standard errors, in nats per example.

    Args:
      terms: an evaluator's results.
      has_density: whether q(z|x) is a density. If not, there is no bound: `elbo`, `log_evidence`, `rate`,
        `effective_sample_size` and `kl_per_dimension` are None.
      log_bins: the nats per entry that convert a log-density to the log-mass of discrete data, 0 for a discrete
        likelihood. None: there is no such conversion, and `bits_per_dim` is None.
      event_size: the number of entries D of an example.
      active_threshold: a latent unit is active if the variance over the data of its posterior mean is larger than this;
        Burda et al. (2016), section 5.2. For a flow, the image of its base's mean is used. With one example
        `active_units` is None.
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
    """The parts of the rate with their standard errors over the draws, in nats; None without a surgery.

    The standard errors are those for draws from random examples. There is one draw of each example instead, so the
    errors are rather too large for I(x; z) and KL(q(z) || p(z)) of exactly these N examples, unless N is very small.
    """
    num = None if surgery is None else len(surgery.marginal_kl)
    result: dict[str, float | int | None] = {"num_surgery_draws": num}
    for name in Surgery._fields:
        result |= with_stderr(name, getattr(surgery, name, None))
    return result


def with_stderr(name: str, values: np.ndarray | None) -> dict[str, float | None]:
    """The mean of independent values and its standard error; None for what cannot be computed."""
    if values is None:
        return {name: None, f"{name}_stderr": None}
    stderr = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {name: float(values.mean()), f"{name}_stderr": stderr}
