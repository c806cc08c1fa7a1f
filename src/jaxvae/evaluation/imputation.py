"""Imputation of unobserved entries from the observed ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.distributions import sample_and_log_prob
from jaxvae.likelihoods.entries import check_if_known
from jaxvae.model import VAE
from jaxvae.typing import Array, Key, Params


class Imputed(NamedTuple):
    """Completed examples, and the effective sample size of the draws behind them."""

    x: Array  # [B, *event], or [num, B, *event]
    effective_sample_size: Array  # [B]  (Σ w_k)² / Σ w_k² of the K draws, from 1 to K; Kong (1992)


def impute(model: VAE, params: Params, key: Key, x: Array, *, num_samples: int = 100) -> Array:
    """x with E[x_missing | x_observed] where it is NaN, by importance sampling; Mattei and Frellsen (2019), eq. 12.

    The weights are normalized by their sum, so with few effective draws the mean is too close to that under
    q(z|x_observed).

    Args:
      model: one with an `Incomplete` likelihood.
      params: its parameters.
      key: the only source of randomness.
      x: [B, *event], NaN where it was not observed.
      num_samples: K draws from q(z|x_observed), weighed by p(x_observed|z) p(z) / q(z|x_observed).

    Returns:
      [B, *event], with the mean of each missing entry.

    Raises:
      ValueError: the likelihood takes complete examples only or is not a distribution over the observed values of x
        (where x is not traced), q(z|x) has no density, or there are no draws.
    """
    return by_means(model, params, key, x, num_samples=num_samples).x


def multiple_imputations(
    model: VAE, params: Params, key: Key, x: Array, *, num: int = 10, num_samples: int = 100
) -> Array:
    """x with draws from p(x_missing | x_observed) where it is NaN; Mattei and Frellsen (2019), multiple imputation.

    Unlike the means of `impute`, the draws vary as much as the values they stand for, and the entries of a draw vary
    jointly. So the spread over the draws of any result computed from the completed sets is its uncertainty due to the
    missing entries (Rubin's rules). The method is sampling importance resampling, with replacement among the K draws.
    If `num_samples` is large, the result is as good as draws from the model. If it is small, the draws are too close to
    q(z|x_observed) and may share one z.

    Args:
      model: one with an `Incomplete` likelihood.
      params: its parameters.
      key: the only source of randomness.
      x: [B, *event], NaN where it was not observed.
      num: the number of draws for each example.
      num_samples: K draws from q(z|x_observed), which are resampled by their importance weights.

    Returns:
      [num, B, *event].

    Raises:
      ValueError: the likelihood takes complete examples only or is not a distribution over the observed values of x
        (where x is not traced), q(z|x) has no density, or there are no draws.
    """
    return by_draws(model, params, key, x, num=num, num_samples=num_samples).x


def by_means(model: VAE, params: Params, key: Key, x: Array, *, num_samples: int) -> Imputed:
    """See `impute`."""
    z, log_weights = _weighed(model, params, key, x, num_samples)
    weights = jax.nn.softmax(log_weights, axis=0)
    means = model.decode(params, z).conditional_mean(x[None])
    expected = jnp.sum(weights.reshape(*weights.shape, *(1,) * (means.ndim - 2)) * means, axis=0)
    return Imputed(jnp.where(jnp.isnan(x), expected, x), _effective(log_weights))


def by_draws(model: VAE, params: Params, key: Key, x: Array, *, num: int, num_samples: int) -> Imputed:
    """See `multiple_imputations`."""
    require(num >= 1, f"num is {num}; write 1 or more")
    z_key, choice_key, x_key = jax.random.split(key, 3)
    z, log_weights = _weighed(model, params, z_key, x, num_samples)
    chosen = jax.random.categorical(choice_key, log_weights, axis=0, shape=(num, len(x)))
    z = jnp.take_along_axis(z, chosen[..., None], axis=0)
    draws = model.decode(params, z).conditional_sample(x_key, x[None])
    return Imputed(jnp.where(jnp.isnan(x)[None], draws, x[None]), _effective(log_weights))


def _effective(log_weights: Array) -> Array:
    return 1.0 / jnp.sum(jnp.square(jax.nn.softmax(log_weights, axis=0)), axis=0)


def _weighed(model: VAE, params: Params, key: Key, x: Array, num_samples: int) -> tuple[Array, Array]:
    """Draws z [K, B, D] from q(z|x), and log p(x_observed|z) p(z) / q(z|x) of each, [K, B]."""
    require(num_samples >= 1, f"num_samples is {num_samples}; write 1 or more")
    require(
        model.likelihood.support.missing,
        f"the {type(model.likelihood).__name__} likelihood needs whole examples; write "
        f"likelihood=Incomplete(likelihood={model.likelihood})",
    )
    require(
        model.posterior.has_density,
        f"draws are weighed by q(z|x), but {type(model.posterior).__name__} has no density; write "
        "posterior=DiagonalGaussian()",
    )
    check_if_known(x, model.likelihood)
    q = model.encode(params, x)
    z, log_q = sample_and_log_prob(q, key, (num_samples,))
    return z, model.weigh(params, q, z, x, log_posterior=log_q).log_weights
