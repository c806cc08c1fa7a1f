"""What was not observed, from what was."""

import jax
import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.distributions import sample_and_log_prob
from jaxvae.model import VAE
from jaxvae.typing import Array, Key, Params


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
    require(num_samples >= 1, f"num_samples is {num_samples}; write 1 or more")
    likelihood = type(model.likelihood).__name__
    require(
        model.likelihood.support.missing,
        f"the {likelihood} likelihood is of whole examples; write likelihood=Incomplete(likelihood={likelihood}())",
    )
    require(
        model.posterior.has_density,
        f"draws are weighed by q(z|x), and {type(model.posterior).__name__} has no density; write "
        "posterior=DiagonalGaussian()",
    )
    q = model.encode(params, x)
    z, log_q = sample_and_log_prob(q, key, (num_samples,))
    log_weights = model.weigh(params, q, z, x, log_posterior=log_q).log_weights
    weights = jax.nn.softmax(log_weights, axis=0)
    means = model.decode(params, z).conditional_mean(x[None])
    expected = jnp.sum(weights.reshape(*weights.shape, *(1,) * (means.ndim - 2)) * means, axis=0)
    return jnp.where(jnp.isnan(x), expected, x)
