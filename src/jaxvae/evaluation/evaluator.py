"""The evaluator: the terms of the bound on log p(x) for each example, in chunks.

Every example has its own key, folded from the seed's, and every 64 of its draws have a key folded from that. So the
results do not depend on how the work is split, except for rounding.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.checks import require
from jaxvae.distributions import embedding, kl_divergence, kl_per_dimension, sample_and_log_prob
from jaxvae.draws import as_threefry
from jaxvae.likelihoods.entries import Entries
from jaxvae.model import VAE
from jaxvae.objectives import Evidence
from jaxvae.training import fusing_pays
from jaxvae.typing import Array, Key, Params, Preprocessing, Rows, Shape

# Draws of one example in a chunk. They share a key, so another number here gives other draws for the same seed.
_DRAWS = 64
_CHUNKS = 128  # chunks of an example's draws per dispatch, where a loop pays off
_MOST = 2**31 - 1 - _CHUNKS * _DRAWS  # the most draws of an example, counted in 32 bits
_ROWS = 4096
_ENTRIES = 2**22  # the most decoder outputs at once, except for a single example's chunk: it bounds memory


class PerExample(NamedTuple):
    """An evaluator's results for each of N examples, in nats."""

    log_evidence: np.ndarray  # [N]  log (1/K) Σ w_k, the importance-weighted bound on log p(x)
    distortion: np.ndarray  # [N]  -E_q[log p(x|z)], over the K draws
    rate: np.ndarray  # [N]  KL(q(z|x) || p(z)): closed form where there is one, else over the K draws
    embedding: np.ndarray  # [N, D]  the mean of q(z|x); for a flow, whose mean is not known, the image of its base's
    kl_per_dimension: np.ndarray | None  # [N, D]  the rate of each latent, where the rate is a sum over latents
    effective_sample_size: np.ndarray  # [N]  (Σ w_k)² / Σ w_k², from 1 to K; Kong (1992)

    @property
    def elbo(self) -> np.ndarray:
        return -(self.distortion + self.rate)

    @classmethod
    def joined(cls, parts: Sequence["PerExample"]) -> "PerExample":
        """Concatenates the results of consecutive parts of the examples."""
        return cls(*jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts))


Report = Callable[[PerExample], None]


class Total(NamedTuple):
    """A compensated sum of very many terms; Kahan (1965)."""

    value: Array  # [B]
    excess: Array  # [B]  by how much rounding made `value` too large

    @classmethod
    def zero(cls, batch: int) -> "Total":
        return cls(jnp.zeros(batch), jnp.zeros(batch))

    def add(self, terms: Array) -> "Total":
        """Adds the sum of `terms` [K, B] over K."""
        term = jnp.sum(terms, axis=0) - self.excess
        value = self.value + term
        return Total(value, jnp.where(jnp.isfinite(value), (value - self.value) - term, 0.0))

    def times(self, factor: Array) -> "Total":
        return Total(factor * self.value, factor * self.excess)


class Sums(NamedTuple):
    """Sums over the draws so far."""

    largest: Array  # [B]  the largest log w_k: sums of weights are in units of that weight, to keep their digits
    weight: Total  # Σ w_k
    square: Total  # Σ w_k²
    log_likelihood: Total
    log_ratio: Total  # Σ log q(z_k|x) - log p(z_k)

    @classmethod
    def zero(cls, batch: int) -> "Sums":
        return cls(jnp.full(batch, -jnp.inf), *(Total.zero(batch) for _ in cls._fields[1:]))

    def add(self, evidence: Evidence, counts: Array) -> "Sums":
        """Adds the draws of `evidence` [K, B] for which `counts` [K, 1] is true."""
        log_weights = jnp.where(counts, evidence.log_weights, -jnp.inf)
        largest = jnp.maximum(self.largest, jnp.max(log_weights, axis=0))
        unit = jnp.where(jnp.isfinite(largest), largest, 0.0)  # all weights so far may be 0
        before, weights = jnp.exp(self.largest - unit), jnp.exp(log_weights - unit[None])
        return Sums(
            largest,
            self.weight.times(before).add(weights),
            self.square.times(jnp.square(before)).add(jnp.square(weights)),
            self.log_likelihood.add(jnp.where(counts, evidence.log_likelihood, 0.0)),
            self.log_ratio.add(jnp.where(counts, evidence.log_posterior - evidence.log_prior, 0.0)),
        )


class Encoded(NamedTuple):
    """A batch of examples and their posteriors, before any draw."""

    x: Array  # [B, *event], as the likelihood takes it
    variational_parameters: Array  # [B, param_size], the parameters of q(z|x)
    embedding: Array  # [B, D]
    kl: Array | None  # [B]  KL(q(z|x) || p(z)) in closed form where one exists
    kl_per_dimension: Array | None  # [B, D]
    entries: Entries  # of x


class Evaluate(Protocol):
    def __call__(
        self,
        params: Params,
        key: Key,
        x: Rows,
        *,
        num_importance_samples: int = 1,
        start: int = 0,
        report: Report = ...,
    ) -> PerExample: ...


def example_keys(key: Key, index: Array) -> Array:
    """A key for each example, folded from its index in the whole set: [B]."""
    key = as_threefry(key)  # JAX draws the others' bits by the batch, not by the key
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def preprocess_each(preprocess: Preprocessing, key: Key, stored: Array, index: Array) -> Array:
    """Preprocesses stored examples, each with a key folded from its `index` in the whole set, whatever the batch."""
    keys = example_keys(jax.random.fold_in(key, 0), index)
    return jax.vmap(lambda k, s: preprocess(k, s[None])[0])(keys, stored)


def chunk_of(model: VAE, shape: Shape, num_importance_samples: int, *, rows_at_once: int = _ROWS) -> tuple[int, int]:
    """The examples of x, of this shape [N, *event], and the draws for each in one pass of an evaluator's decoder."""
    draws = min(num_importance_samples, _DRAWS)
    num, *axes, channels = shape
    rows = max(draws, min(rows_at_once, _ENTRIES // math.prod((*axes, model.likelihood.param_size(channels)))))
    return min(rows // draws, num), draws


def make_evaluator(model: VAE, *, preprocess: Preprocessing = lambda key, x: x, rows_at_once: int = _ROWS) -> Evaluate:
    """Makes an evaluator of the bound's terms and of log p(x) by importance sampling; Burda et al. (2016), eq. 8.

    Args:
      model: the model, with its `event_shape`.
      preprocess: `(key, stored) -> x`, as the likelihood takes it; drawn once for each example.
      rows_at_once: the number of examples times draws in one pass of the decoder: fewer for large events, but at least
        the 64 draws of one example. It affects speed and memory, and the results only by rounding (a little more with a
        mixture of normals as the prior, whose densities are computed by one of two formulas per chunk). 4,096 rows fill
        two cores, or an accelerator's smallest tiles, and their activations can still be cached.

    Returns:
      `evaluate(params, key, x, *, num_importance_samples=1, start=0, report=...) -> PerExample` for stored x
      [N, *event], with K = `num_importance_samples` draws from q(z|x) for each example. Examples before `start` are
      left out. `report` is called with the results of the examples done since its last call. `evaluate` raises
      `ValueError` if there are no examples or no draws, or if the likelihood is not a distribution over the values of
      x. It compiles for each size of its batches, at most min(⌊rows_at_once / min(K, 64)⌋, N) and fewer for large
      events, and for each K below 64, and not again.

    Raises:
      ValueError: `rows_at_once` is below 1.
    """
    require(rows_at_once >= 1, f"rows_at_once is {rows_at_once}; write at least 1")

    encode = jax.jit(partial(_encode, model, preprocess))
    weigh = jax.jit(partial(_weigh, model), static_argnames=("draws", "chunks"))

    @cache
    def chunks() -> int:
        """The number of chunks of draws in one dispatch."""
        return _CHUNKS if fusing_pays(model) else 1

    def evaluate(
        params: Params,
        key: Key,
        x: Rows,
        *,
        num_importance_samples: int = 1,
        start: int = 0,
        report: Report = lambda part: None,
    ) -> PerExample:
        num = num_importance_samples
        shape: Shape = getattr(x, "shape", ())
        require(len(shape) > 1, f"x has the shape {shape}; write examples [N, *event], as an array")
        require(len(x) > 0, "there are no examples to evaluate")
        require(0 <= start < len(x), f"start is {start}; write a number from 0 to {len(x) - 1}, the last example")
        whole = isinstance(num, int | np.integer) and not isinstance(num, bool)
        require(
            whole and 1 <= num <= _MOST,
            f"num_importance_samples is {num}; write a whole number of at least 1 and at most {_MOST:,}",
        )
        batch, draws = chunk_of(model, shape, num, rows_at_once=rows_at_once)
        parts = []
        for first in range(start, len(x), batch):
            # the last batch is padded with the last example
            index = np.minimum(np.arange(first, first + batch), len(x) - 1)
            encoded = encode(params, key, x[index], index)
            encoded.entries.check(model.likelihood, instead="write preprocess=...")
            sums = Sums.zero(batch)
            for number in range(0, num, chunks() * draws):
                sums = weigh(params, key, encoded, index, sums, number, num, draws=draws, chunks=chunks())
            real = min(batch, len(x) - first)
            parts.append(jax.tree.map(partial(_as_floats, num=real), _terms(encoded, sums, num)))
            report(parts[-1])
        return PerExample.joined(parts)

    return evaluate


def _encode(model: VAE, preprocess: Preprocessing, params: Params, key: Key, stored: Array, index: Array) -> Encoded:
    x = preprocess_each(preprocess, key, stored, index)
    outputs = model.variational_parameters(params, x)
    q = model.posterior_of(params, outputs)
    p_z = model.prior_distribution(params)
    real = jnp.diff(index, prepend=-1) != 0  # the last batch is padded with the last example
    entries = Entries.of(x, model.likelihood.support, real)
    return Encoded(x, outputs, embedding(q), kl_divergence(q, p_z), kl_per_dimension(q, p_z), entries)


def _weigh(
    model: VAE,
    params: Params,
    key: Key,
    encoded: Encoded,
    index: Array,
    sums: Sums,
    first: int,
    num: int,
    *,
    draws: int,
    chunks: int,
) -> Sums:
    """Adds draws `first` to `min(num, first + chunks * draws) - 1` of each example to `sums`."""
    keys = example_keys(jax.random.fold_in(key, 1), index)

    def add_chunk(i: int | Array, sums: Sums) -> Sums:
        start = first + i * draws

        def draw(outputs: Array, key: Key) -> tuple[Array, Array]:
            q = model.posterior_of(params, outputs[None])
            z, log_q = sample_and_log_prob(q, jax.random.fold_in(key, start), (draws,))
            return z[:, 0], log_q[:, 0]

        z, log_q = jax.vmap(draw, out_axes=1)(encoded.variational_parameters, keys)
        q = model.posterior_of(params, encoded.variational_parameters)
        evidence = model.weigh(params, q, z, encoded.x, log_posterior=log_q)
        return sums.add(evidence, (start + jnp.arange(draws) < num)[:, None])  # the last chunk may ask for fewer

    if chunks == 1:  # without a loop, in which a convolution may be slow
        return add_chunk(0, sums)
    return jax.lax.fori_loop(0, jnp.minimum(chunks, -(-(num - first) // draws)), add_chunk, sums)


def _terms(encoded: Encoded, sums: Sums, num: int) -> PerExample:
    """The results of a batch after `num` draws, as JAX arrays."""
    weight, square = sums.weight.value, sums.square.value
    terms: Any = {
        "log_evidence": sums.largest + jnp.log(weight / num),
        "distortion": -sums.log_likelihood.value / num,
        "rate": sums.log_ratio.value / num if encoded.kl is None else encoded.kl,
        "embedding": encoded.embedding,
        "kl_per_dimension": encoded.kl_per_dimension,
        "effective_sample_size": weight * (weight / square),
    }
    return PerExample(**terms)


def _as_floats(a: Array, *, num: int) -> np.ndarray:
    return np.asarray(a, np.float64)[:num]
