"""Evaluation: bounds on log p(x) with their error bars, for data of any size in constant memory.

Every example and every draw has a key of its own, folded from the seed's: a number does not depend on how the work was
cut.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.distributions import kl_divergence, kl_per_dimension
from jaxvae.model import VAE
from jaxvae.numerics import require
from jaxvae.objectives import Evidence
from jaxvae.typing import Array, Key, Params, Preprocessing

Tick = Callable[[int], None]

# Rows (examples times draws) through the decoder at once: enough to fill two cores or an accelerator's smallest tiles,
# few enough that the activations stay in a cache's reach.
_ROWS = 4096
_DRAWS = 64
_ENTRIES = 2**22  # and no more pixels than these, so that large images need no more memory


class PerExample(NamedTuple):
    """What an evaluator finds out about each of N examples, in nats."""

    log_evidence: np.ndarray  # [N]  log (1/K) Σ w_k, the importance-weighted bound on log p(x)
    distortion: np.ndarray  # [N]  -E_q[log p(x|z)], over the K draws
    rate: np.ndarray  # [N]  KL(q(z|x) || p(z)): closed form where there is one, else over the K draws
    posterior_mean: np.ndarray  # [N, D]
    kl_per_dimension: np.ndarray | None  # [N, D]  the rate, latent by latent, where it is a sum over them

    @property
    def elbo(self) -> np.ndarray:
        return -(self.distortion + self.rate)


class Sums(NamedTuple):
    """What the draws so far add up to."""

    log_weight: Array  # [B]  log Σ w_k
    log_likelihood: Array  # [B]
    log_ratio: Array  # [B]  Σ log q(z_k|x) - log p(z_k)

    @classmethod
    def zero(cls, batch: int) -> "Sums":
        return cls(jnp.full(batch, -jnp.inf), jnp.zeros(batch), jnp.zeros(batch))

    def add(self, evidence: Evidence, counts: Array) -> "Sums":
        """With the draws of `evidence` [K, B] for which `counts` [K, 1] is true."""

        def total(old: Array, terms: Array) -> Array:
            return old + jnp.sum(jnp.where(counts, terms, 0.0), axis=0)

        log_weights = jnp.where(counts, evidence.log_weights, -jnp.inf)
        return Sums(
            jnp.logaddexp(self.log_weight, jax.nn.logsumexp(log_weights, axis=0)),
            total(self.log_likelihood, evidence.log_likelihood),
            total(self.log_ratio, evidence.log_posterior - evidence.log_prior),
        )


class Encoded(NamedTuple):
    """A batch of examples and their posteriors, before any draw."""

    x: Array  # [B, *event], what the likelihood takes
    q: Any  # q(z|x), batch shape [B]
    each: Any  # the same as B distributions of batch shape [1]: every array in it has a leading axis B
    kl: Array | None  # [B]  KL(q(z|x) || p(z)) in closed form where one exists
    kl_per_dimension: Array | None  # [B, D]


class Evaluate(Protocol):
    def __call__(
        self, params: Params, key: Key, x: np.ndarray, *, num_importance_samples: int = 1, tick: Tick = ...
    ) -> PerExample: ...


def make_evaluator(model: VAE, *, preprocess: Preprocessing = lambda key, x: x) -> Evaluate:
    """The terms of the bound for each example, and log p(x) by importance sampling: Burda et al. (2016), eq. 8.

    Args:
      model: the model, with its `event_shape`.
      preprocess: `(key, stored) -> what the likelihood takes`, drawn once for each example.

    Returns:
      `evaluate(params, key, x, *, num_importance_samples=1, tick=...) -> PerExample` for x [N, *event] as it is stored,
      with `num_importance_samples` draws K from q(z|x) for each example. `tick` is called with the examples done since
      its last call. It raises `ValueError` where there are no examples or no draws. It compiles on its first call and
      keeps that.
    """

    def example_keys(key: Key, index: Array) -> Array:
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

    @jax.jit
    def encode(params: Params, key: Key, stored: Array, index: Array) -> Encoded:
        keys = example_keys(jax.random.fold_in(key, 0), index)
        x = jax.vmap(lambda k, s: preprocess(k, s[None])[0])(keys, stored)
        q = model.encode(params, x)
        # By vmap, since an array that the posteriors share has no axis of examples to draw along.
        each = jax.vmap(lambda example: model.encode(params, example[None]))(x)
        p_z = model.prior_distribution(params)
        return Encoded(x, q, each, kl_divergence(q, p_z), kl_per_dimension(q, p_z))

    @partial(jax.jit, static_argnames="draws")
    def weigh(
        params: Params, key: Key, encoded: Encoded, index: Array, sums: Sums, first: int, num: int, *, draws: int
    ) -> Sums:
        keys = example_keys(jax.random.fold_in(key, 1), index)
        numbers = first + jnp.arange(draws)

        def draw(q: Any, key: Key, number: Array) -> Array:
            return q.sample(jax.random.fold_in(key, number))[0]

        z = jax.vmap(jax.vmap(draw, (0, 0, None)), (None, None, 0))(encoded.each, keys, numbers)
        evidence = model.weigh(params, encoded.q, z, encoded.x)
        return sums.add(evidence, (numbers < num)[:, None])  # the last chunk may ask for fewer

    def evaluate(
        params: Params, key: Key, x: np.ndarray, *, num_importance_samples: int = 1, tick: Tick = lambda num: None
    ) -> PerExample:
        num = num_importance_samples
        require(len(x) > 0, "there are no examples to evaluate")
        require(num >= 1, f"num_importance_samples is {num}; write at least 1")
        draws = min(num, _DRAWS)
        rows_at_once = max(draws, min(_ROWS, _ENTRIES // math.prod(x.shape[1:])))
        batch = min(rows_at_once // draws, len(x))
        results = []
        for start in range(0, len(x), batch):
            rows = np.arange(start, start + batch)
            index = np.minimum(rows, len(x) - 1)  # the last batch is filled up with the last example
            encoded = encode(params, key, x[index], index)
            sums = Sums.zero(batch)
            for first in range(0, num, draws):
                sums = weigh(params, key, encoded, index, sums, first, num, draws=draws)
            rate = sums.log_ratio / num if encoded.kl is None else encoded.kl
            log_evidence = sums.log_weight - math.log(num)
            part = (log_evidence, -sums.log_likelihood / num, rate, encoded.q.mean, encoded.kl_per_dimension)
            real = len(x[start : start + batch])
            results.append(jax.tree.map(partial(_as_floats, num=real), part))
            tick(real)
        return PerExample(*jax.tree.map(lambda *parts: np.concatenate(parts), *results))

    return evaluate


def _as_floats(a: Array, *, num: int) -> np.ndarray:
    return np.asarray(a, np.float64)[:num]


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
        Burda et al. (2016), section 5.2.
    """
    num = len(terms.distortion)

    def with_stderr(name: str) -> dict[str, float | None]:
        values = getattr(terms, name)
        return {
            name: float(values.mean()),
            f"{name}_stderr": float(values.std(ddof=1) / math.sqrt(num)) if num > 1 else None,
        }

    by_latent = terms.kl_per_dimension
    result: dict[str, Any] = {
        **with_stderr("elbo"),
        **with_stderr("log_evidence"),
        **with_stderr("rate"),
        "kl_per_dimension": None if by_latent is None else by_latent.mean(axis=0).tolist(),
    }
    if not has_density:
        result = dict.fromkeys(result)
    nats = result["log_evidence"]
    discrete = nats is not None and log_bins is not None
    return result | {
        **with_stderr("distortion"),
        "active_units": int(np.sum(terms.posterior_mean.var(axis=0) > active_threshold)),
        "bits_per_dim": (-nats / event_size + log_bins) / math.log(2.0) if discrete else None,
        "num_examples": num,
    }
