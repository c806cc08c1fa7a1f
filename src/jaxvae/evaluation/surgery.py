"""The distance of the aggregate posterior from the prior: ELBO surgery, and a kernel distance without densities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.checks import require
from jaxvae.distributions import Transformed, sample_and_log_prob, squared_mmd
from jaxvae.draws import as_threefry
from jaxvae.evaluation.evaluator import example_keys, preprocess_each
from jaxvae.model import VAE
from jaxvae.typing import Array, Key, Params, Preprocessing, Rows

_ENTRIES = 2**22  # the most log-densities times latents at once
_AT_ONCE = 1000  # examples
_GROUPS = 10  # of draws, for a standard error
_HIDDEN = 1000  # used in place of the number of latents where a flow's network computes the density


class Surgery(NamedTuple):
    """The two parts of the rate, estimated at one draw z ~ q(z|x) for each of M examples, in nats.

    For every draw they add up to log q(z|x) - log p(z), whose mean is the rate. The total correlation is part of the
    second.
    """

    mutual_information: np.ndarray  # [M]  log q(z|x) - log q(z); its mean is I(x; z), from 0 to log N
    marginal_kl: np.ndarray  # [M]  log q(z) - log p(z); its mean is KL(q(z) || p(z))
    total_correlation: np.ndarray | None = None
    # [M] log q(z) - Σ_d log q(z_d), where q(z_d|x) of each latent is known; its mean is KL(q(z) || Π_d q(z_d))


def elbo_surgery(
    model: VAE,
    params: Params,
    key: Key,
    x: Rows,
    *,
    preprocess: Preprocessing = lambda key, x: x,
    max_draws: int | None = None,
) -> Surgery:
    """E_x[KL(q(z|x) || p(z))] = I(x; z) + KL(q(z) || p(z)) with q(z) = (1/N) Σ_n q(z|x_n); Hoffman and Johnson (2016).

    The total correlation is what the KLs of the individual latents leave of KL(q(z) || p(z)); Chen et al. (2018).

    q(z) is the exact mixture over all N examples; the expectations are estimated by draws from it.

    Args:
      model: the model, whose q(z|x) has a density.
      params: its parameters.
      key: the evaluator's key, so that the examples are preprocessed in the same way.
      x: [N, *event], as stored.
      preprocess: see `make_evaluator`.
      max_draws: the largest M. If N is larger, the draws are of examples spread evenly over x. None: 2,000, or 100
        where each density takes the inverse of a flow.

    Raises:
      ValueError: q(z|x) has no density, or there are no examples or no draws.
    """
    require(len(x) > 0, "there are no examples")
    require(max_draws is None or max_draws >= 1, f"max_draws is {max_draws}; write 1 or more")
    require(
        model.posterior.has_density,
        f"{type(model.posterior).__name__} has no density q(z|x), so its rate has no parts",
    )
    num = len(x)
    outputs = _encode(model, params, key, x, np.arange(num), preprocess)

    def each(outputs: Array) -> Any:
        """q(z|x) of one example, with batch shape [1]."""
        return model.posterior_of(params, outputs[None])

    kind = jax.eval_shape(each, outputs[0])
    slow, by_latent = isinstance(kind, Transformed), hasattr(type(kind), "marginals")
    if max_draws is None:
        max_draws = 100 if slow else 2000
    chosen = np.unique(np.linspace(0, num - 1, min(num, max_draws)).round().astype(int))

    @jax.jit
    def densities(outputs: Array, index: Array, z: Array, at_own: Array) -> tuple[Array, ...]:
        def under_each(log_prob: Callable[[Any], Array]) -> Array:
            """The densities [M, 1, ...] of the draws under each of the N posteriors, [N, M, ...]."""
            return jax.vmap(lambda outputs: log_prob(each(outputs))[:, 0])(outputs)

        def mixture(log_q: Array) -> Array:
            return jax.nn.logsumexp(log_q, axis=0) - jnp.log(float(num))

        # A draw's density under its own posterior is known from drawing it. Computed by an inverse it may have lost its
        # digits.
        log_q = under_each(lambda q: q.log_prob(z[:, None])).at[index, jnp.arange(len(z))].set(at_own)
        prior = model.prior_distribution(params).log_prob(z)
        if not by_latent:
            return mixture(log_q), prior
        one_by_one = mixture(under_each(lambda q: q.marginals.log_prob_by_entry(z[:, None])))  # [M, D]
        return mixture(log_q), prior, jnp.sum(one_by_one, axis=-1)

    z, at_own = _draw(model, params, key, outputs[chosen], chosen)
    step = max(1, _ENTRIES // (num * (_HIDDEN if slow else model.latent_dim)))
    pieces = [slice(i, i + step) for i in range(0, len(chosen), step)]
    parts = [densities(outputs, chosen[i], z[i], at_own[i]) for i in pieces]
    mixture, prior, *product = (np.concatenate(p).astype(np.float64) for p in zip(*parts, strict=True))
    own = np.asarray(at_own, np.float64)
    return Surgery(own - mixture, mixture - prior, mixture - product[0] if by_latent else None)


def marginal_mmd(
    model: VAE,
    params: Params,
    key: Key,
    x: Rows,
    *,
    preprocess: Preprocessing = lambda key, x: x,
    max_draws: int = 2000,
) -> np.ndarray | None:
    """The squared maximum mean discrepancy between q(z) and the prior, by `squared_mmd` with its default widths.

    It needs no density, so it also shows for a plain autoencoder whether draws from p(z) resemble the encoded examples.
    Here q(z) is that of the whole data distribution, not the mixture over these N examples.

    Args:
      model: the model.
      params: its parameters.
      key: the evaluator's key, so that the examples are preprocessed in the same way.
      x: [N, *event], as stored.
      preprocess: see `make_evaluator`.
      max_draws: the most draws, one per example. If N is larger, the examples are chosen at random.

    Returns:
      [10], dimensionless: an unbiased estimate from each tenth of the draws. None with fewer than 20 draws, or if
      `squared_mmd` does not take the prior.
    """
    size = min(len(x), max_draws) // _GROUPS
    if size < 2:
        return None
    # At random, since neighbours in x may be of one class: a group spread evenly over such an x has fewer pairs within
    # a class than independent draws do.
    order = jax.random.permutation(jax.random.fold_in(as_threefry(key), 3), len(x))
    index = np.asarray(order)[: _GROUPS * size]
    outputs = _encode(model, params, key, x, index, preprocess)
    z, _ = _draw(model, params, key, outputs, index)
    z = z.reshape(_GROUPS, size, -1)

    @jax.jit
    def estimates(params: Params, z: Array) -> Array | None:
        prior = model.prior_distribution(params)

        def of_group(z: Array) -> Array | None:
            by_draw = squared_mmd(z, prior)
            return None if by_draw is None else jnp.mean(by_draw)

        return jax.lax.map(of_group, z)

    found = estimates(params, z)
    return None if found is None else np.asarray(found, np.float64)


def _encode(model: VAE, params: Params, key: Key, x: Rows, index: np.ndarray, preprocess: Preprocessing) -> Array:
    """The encoder's outputs [M, P] of the examples `index` [M]."""

    @jax.jit
    def encode(params: Params, stored: Array, index: Array) -> Array:
        return model.variational_parameters(params, preprocess_each(preprocess, key, stored, index))

    chunks = [index[i : i + _AT_ONCE] for i in range(0, len(index), _AT_ONCE)]
    return jnp.concatenate([encode(params, x[chunk], chunk) for chunk in chunks])


def _draw(model: VAE, params: Params, key: Key, outputs: Array, index: np.ndarray) -> tuple[Array, Array]:
    """One z ~ q(z|x), [M, D], for each of the examples `index` from their outputs [M, P], and log q(z|x), [M]."""

    def of_example(params: Params, outputs: Array, key: Key) -> tuple[Array, Array]:
        z, log_q = sample_and_log_prob(model.posterior_of(params, outputs[None]), key)
        return z[0], log_q[0]

    @jax.jit
    def draw(params: Params, outputs: Array, index: Array) -> tuple[Array, Array]:
        keys = example_keys(jax.random.fold_in(key, 2), index)
        return jax.lax.map(lambda each: of_example(params, *each), (outputs, keys), batch_size=_AT_ONCE)

    return draw(params, outputs, index)
