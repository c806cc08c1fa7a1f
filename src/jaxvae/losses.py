"""The lecture's loss, term by term, as pure functions of arrays.

Every function returns one number per example, in nats: summed over the event, constants included, never averaged.
Log-likelihoods and bounds are to be maximised, a KL is to be minimised. Nothing here knows of a network or a key, so
that each of these can be taken into other code as it is.

Parameters may carry leading axes that the data lacks, for instance K samples of the latent variable:
`logits [K, B, *event]` and `x [B, *event]` give `[K, B]`.
"""

import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.typing import Array


def gaussian_kl(mean: Array, log_var: Array) -> Array:
    """KL(N(mean, diag(exp(log_var))) || N(0, I)), in closed form.

    Kingma and Welling (2014), appendix B: ½ Σ_d (μ_d² + σ_d² - 1 - log σ_d²).

    Args:
      mean: [..., D].
      log_var: [..., D], log σ².

    Returns:
      [...], nats, never negative.

    Raises:
      ValueError: the shapes differ.
    """
    _check_same_shape("mean", mean, "log_var", log_var)
    mean, log_var = numerics.aligned(mean, log_var)
    return numerics.sum_last(numerics.normal_kl(mean, log_var, jnp.zeros_like(mean), jnp.zeros_like(mean)), 1)


def bernoulli_log_likelihood(logits: Array, x: Array) -> Array:
    """log p(x) for independent Bernoulli pixels with the given logits; Kingma and Welling (2014), appendix C.1.

    Args:
      logits: [..., B, *event].
      x: [B, *event], 0 or 1. (Values between give the expectation under a random binarization; values beyond give a
        number without a meaning, which cannot be refused under `jit`: check the data's range once, before.)

    Returns:
      [..., B], nats, summed over the event.

    Raises:
      ValueError: the trailing shape of `logits` is not the shape of `x`.
    """
    _check_covers("logits", logits, x)
    event_ndims = jnp.ndim(x) - 1
    logits, x = numerics.aligned(logits, x)
    return numerics.sum_last(numerics.bernoulli_log_mass(logits, x), event_ndims)


def gaussian_log_likelihood(mean: Array, log_var: Array, x: Array) -> Array:
    """log N(x; mean, diag(exp(log_var))), with its constant; Kingma and Welling (2014), appendix C.2.

    Args:
      mean: [..., B, *event].
      log_var: any shape that broadcasts against `mean`: one variance for each pixel, or one for all.
      x: [B, *event].

    Returns:
      [..., B], nats, summed over the event.

    Raises:
      ValueError: the trailing shape of `mean` is not the shape of `x`, or `log_var` is larger than `mean`.
    """
    _check_covers("mean", mean, x)
    event_ndims = jnp.ndim(x) - 1
    mean, log_var, x = numerics.aligned(mean, log_var, x)
    numerics.require(
        jnp.broadcast_shapes(mean.shape, log_var.shape) == mean.shape,
        f"log_var {log_var.shape} does not broadcast against mean {mean.shape}",
    )
    return numerics.sum_last(numerics.normal_log_density(mean, log_var, x), event_ndims)


def elbo(log_likelihood: Array, kl: Array, *, beta: float | Array = 1.0) -> Array:
    """E_q[log p(x|z)] - β KL(q(z|x) || p(z)): a lower bound on log p(x) for β ≥ 1, exact when q is the posterior and β
    = 1.

    Kingma and Welling (2014), eq. 3; β from Higgins et al. (2017), eq. 4.

    Args:
      log_likelihood: [B], E_q[log p(x|z)] or its estimate.
      kl: [B], KL(q(z|x) || p(z)) or its estimate.
      beta: the weight of the KL.

    Returns:
      [B], nats, to be maximised.

    Raises:
      ValueError: the shapes differ.
    """
    _check_same_shape("log_likelihood", log_likelihood, "kl", kl)
    return log_likelihood - beta * kl


def iwae(log_weights: Array) -> Array:
    """log (1/K) Σ_k w_k, the importance-weighted bound on log p(x); Burda et al. (2016), eq. 8.

    Args:
      log_weights: [K, B], log w_k = log p(x, z_k) - log q(z_k|x) with z_k drawn from q(z|x).

    Returns:
      [B], nats, to be maximised: the bound itself, in expectation below log p(x) and growing with K.

    Raises:
      ValueError: `log_weights` has no axis of samples.
    """
    numerics.require(log_weights.ndim >= 1, "log_weights must have a leading axis of samples: [K, B]")
    return numerics.log_mean_exp(log_weights, axis=0)


def _check_same_shape(name_a: str, a: Array, name_b: str, b: Array) -> None:
    numerics.require(
        jnp.shape(a) == jnp.shape(b), f"{name_a} {jnp.shape(a)} and {name_b} {jnp.shape(b)} must have the same shape"
    )


def _check_covers(name: str, parameter: Array, x: Array) -> None:
    shape, event = jnp.shape(parameter), jnp.shape(x)
    numerics.require(len(event) >= 1, f"x must have a leading axis of examples: [B, *event]; it has shape {event}")
    numerics.require(
        shape[len(shape) - len(event) :] == event,
        f"{name} {shape} must end in the shape of x {event}: [..., B, *event]",
    )
