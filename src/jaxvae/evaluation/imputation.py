"""What was not observed, from what was."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.distributions import sample_and_log_prob
from jaxvae.model import VAE
from jaxvae.typing import Array, Key, Params


class Imputed(NamedTuple):
    """Examples that were filled in, and how much there was to go by."""

    x: Array  # [B, *event], or [num, B, *event]
    effective_sample_size: Array  # [B]  (Σ w_k)² / Σ w_k² of the K draws, from 1 to K; Kong (1992)


def impute(model: VAE, params: Params, key: Key, x: Array, *, num_samples: int = 100) -> Array:
    """x with E[x_missing | x_observed] where it is NaN, by importance sampling; Mattei and Frellsen (2019), eq. 12.

    Args:
      model: one with an `Incomplete` likelihood.
      params: its parameters.
      key: the only source of randomness.
      x: [B, *event], NaN where it was not observed.
      num_samples: K draws from q(z|x_observed), weighed by p(x_observed|z) p(z) / q(z|x_observed).

    Returns:
      [B, *event]: the mean, for each entry on its own.

    Raises:
      ValueError: the likelihood is of whole examples, q(z|x) has no density, or there are no draws.
    """
    return by_means(model, params, key, x, num_samples=num_samples).x


def multiple_imputations(
    model: VAE, params: Params, key: Key, x: Array, *, num: int = 10, num_samples: int = 100
) -> Array:
    """x with draws from p(x_missing | x_observed) where it is NaN; Mattei and Frellsen (2019), multiple imputation.

    Unlike the means of `impute` they vary as much as what they stand for, and the entries of one draw together: of what
    is computed from each completed set, the spread over the draws is what the missing entries leave open (Rubin's
    rules). By sampling importance resampling, with replacement among the K draws: as good as draws from the model where
    `num_samples` is large, and too near to q(z|x_observed), with draws of one z, where it is not.

    Args:
      model: one with an `Incomplete` likelihood.
      params: its parameters.
      key: the only source of randomness.
      x: [B, *event], NaN where it was not observed.
      num: draws of each example.
      num_samples: K draws from q(z|x_observed), of which those for x are chosen by their importance weights.

    Returns:
      [num, B, *event].

    Raises:
      ValueError: the likelihood is of whole examples, q(z|x) has no density, or there are no draws.
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
    q = model.encode(params, x)
    z, log_q = sample_and_log_prob(q, key, (num_samples,))
    return z, model.weigh(params, q, z, x, log_posterior=log_q).log_weights
