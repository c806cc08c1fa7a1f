"""The lecture's loss, term by term, as pure functions of arrays.

Every function returns one number per example, in nats: summed over the event, constants included, never averaged.
Log-likelihoods and bounds are to be maximised, a KL is to be minimised. Nothing here depends on a network or a key, so
each function can be used in other code unchanged.

Parameters may carry leading axes that the data lacks, for instance K samples of the latent variable:
`logits [K, B, *event]` and `x [B, *event]` give `[K, B]`. Pass a single example, as under `jax.vmap`, as `x[None]`.

The importance weights' log q(z|x) and log p(z) are `jaxvae.distributions.Normal(mean, log_var).log_prob(z)`: [K, B] for
draws z [K, B, D] and mean [B, D].
"""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require
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
      x: [B, *event], 0 or 1; a single example, as under `jax.vmap`, is `x[None]`. (Values in between give the
        expectation under a random binarization. Values outside give a meaningless number, which cannot be refused
        under `jit`: check the data's range beforehand.)

    Returns:
      [..., B], nats, summed over the event.

    Raises:
      ValueError: the trailing shape of `logits` is not the shape of `x`.
    """
    _check_covers("logits", logits, x)
    event_ndims = jnp.ndim(x) - 1
    logits, x = numerics.aligned(logits, x)
    return numerics.bernoulli_log_mass_sum(logits, x, event_ndims)


def gaussian_log_likelihood(mean: Array, log_var: Array, x: Array) -> Array:
    """log N(x; mean, diag(exp(log_var))), with its constant; Kingma and Welling (2014), appendix C.2.

    Args:
      mean: [..., B, *event].
      log_var: any shape that broadcasts against `mean`: one variance for each pixel, or one for all.
      x: [B, *event]; a single example, as under `jax.vmap`, is `x[None]`.

    Returns:
      [..., B], nats, summed over the event.

    Raises:
      ValueError: the trailing shape of `mean` is not the shape of `x`, or `log_var` is larger than `mean`.
    """
    _check_covers("mean", mean, x)
    event_ndims = jnp.ndim(x) - 1
    mean, log_var, x = numerics.aligned(mean, log_var, x)
    require(
        jnp.broadcast_shapes(mean.shape, log_var.shape) == mean.shape,
        f"log_var {log_var.shape} does not broadcast against mean {mean.shape}",
    )
    return numerics.sum_last(numerics.normal_log_density(mean, log_var, x), event_ndims)


def elbo(log_likelihood: Array, kl: Array, *, beta: float | Array = 1.0) -> Array:
    """E_q[log p(x|z)] - β KL(q(z|x) || p(z)): for β ≥ 1 a lower bound on log p(x).

    Exact when q is the posterior and β = 1. Kingma and Welling (2014), eq. 3; β from Higgins et al. (2017), eq. 4.

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
    log_likelihood, kl = numerics.aligned(log_likelihood, kl)
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
    log_weights = _samples(log_weights)
    return numerics.log_mean_exp(log_weights, axis=0)


def miwae(log_weights: Array, *, num_groups: int) -> Array:
    """The mean of M importance-weighted bounds of K draws each; Rainforth et al. (2018), their MIWAE.

    It lies between the ELBO (K = 1) and the bound of all M·K draws (M = 1). It is looser than the latter, but the
    encoder's gradient has a higher signal-to-noise ratio.

    Args:
      log_weights: [M·K, B], M groups of K consecutive draws.
      num_groups: M.

    Returns:
      [B], nats, to be maximised: the bound itself.

    Raises:
      ValueError: the draws can't be divided into `num_groups` groups of one size.
    """
    log_weights = _samples(log_weights)
    draws = log_weights.shape[0]
    require(
        isinstance(num_groups, numbers.Integral) and num_groups >= 1 and draws % num_groups == 0,
        f"{draws} draws can't be divided into {num_groups} groups; write a whole num_groups that divides them",
    )
    groups = log_weights.reshape(num_groups, draws // num_groups, *log_weights.shape[1:])
    return jnp.mean(numerics.log_mean_exp(groups, axis=1), axis=0)


def ciwae(log_weights: Array, *, elbo_weight: float) -> Array:
    """β · ELBO + (1 - β) · IWAE, a bound like both of them; Rainforth et al. (2018), their CIWAE.

    Args:
      log_weights: [K, B].
      elbo_weight: β in [0, 1], a Python number.

    Returns:
      [B], nats, to be maximised: the bound itself.

    Raises:
      ValueError: `log_weights` has no axis of samples, or β is not in [0, 1].
    """
    log_weights = _samples(log_weights)
    require(0.0 <= elbo_weight <= 1.0, f"elbo_weight is {elbo_weight}; write a number in [0, 1]")
    if elbo_weight == 0.0:  # a weight w_k of 0 makes the ELBO -inf, and 0 · ELBO NaN
        return iwae(log_weights)
    if elbo_weight == 1.0:  # likewise where all weights are 0
        return jnp.mean(log_weights, axis=0)
    return elbo_weight * jnp.mean(log_weights, axis=0) + (1.0 - elbo_weight) * iwae(log_weights)


def renyi(log_weights: Array, *, alpha: float) -> Array:
    """1/(1 - α) · log (1/K) Σ_k w_k^(1-α), the variational Rényi bound; Li and Turner (2016), over K draws.

    α = 0 is the importance-weighted bound, α → 1 the ELBO. For 0 ≤ α < 1 and any K it is in expectation a lower bound
    on log p(x), and the larger α, the looser it is. For α < 0 its limit for many draws is an upper bound.

    Args:
      log_weights: [K, B].
      alpha: α, not 1; a Python number, not an array.

    Returns:
      [B], nats.

    Raises:
      ValueError: `log_weights` has no axis of samples, or α is 1 or not finite.
    """
    require(math.isfinite(alpha), f"alpha is {alpha}; write a number")
    require(alpha != 1.0, "alpha is 1, where Rényi's bound is the ELBO; write ELBO() or losses.elbo")
    log_weights = _samples(log_weights)
    return numerics.log_power_mean(log_weights, 1.0 - alpha)


def cubo(log_weights: Array, *, order: float = 2.0) -> Array:
    """1/n · log (1/K) Σ_k w_k^n, whose limit for many draws is an upper bound on log p(x); Dieng et al. (2017).

    With a finite K it is too low in expectation, since the log is concave. It is a bound only where the weights' n-th
    moment has converged.

    Args:
      log_weights: [K, B].
      order: n ≥ 1, a Python number; 2 is the χ² divergence's.

    Returns:
      [B], nats: the estimate of the bound, to be minimised.

    Raises:
      ValueError: `log_weights` has no axis of samples, or n is below 1 or not finite.
    """
    require(1.0 <= order < math.inf, f"order is {order}; write a number of at least 1")
    return renyi(log_weights, alpha=1.0 - order)


class KLParts(NamedTuple):
    """The parts of KL(q(z|x) || p(z)) for each draw, in nats. They add up to log q(z|x) - log p(z)."""

    mutual_information: Array  # log q(z|x) - log q(z); its mean is I(x; z)
    total_correlation: Array  # log q(z) - Σ_d log q(z_d); its mean is KL(q(z) || Π_d q(z_d))
    dimension_wise_kl: Array  # Σ_d log q(z_d) - log p(z); its mean is Σ_d KL(q(z_d) || p(z_d)) for a product p


def kl_parts(log_q_by_latent: Array, log_prior: Array, *, num_examples: int, log_q: Array | None = None) -> KLParts:
    """Splits the KL of a batch in three, estimating q(z) = (1/N) Σ_n q(z|x_n) from it; Chen et al. (2018), eq. 2.

    z_b is drawn from q(z|x_b), so x_b has its weight 1/N in q(z), and the other B - 1 examples of the batch share the
    rest evenly. Like their stratified sampling (appendix C.2), this estimates q(z) without bias. The log of the
    estimate, which is used here, is biased. With B = N everything is exact.

    Args:
      log_q_by_latent: [..., D, B, B], log q(z_bd|x_j) of each draw b under each posterior j, for each latent d.
      log_prior: [..., B], log p(z_b).
      num_examples: N, the number of examples from which the batch is drawn without replacement; a Python number.
      log_q: [..., B, B], log q(z_b|x_j) of all latents together; None: the latents are independent, and it is the sum
        over them.

    Returns:
      Three arrays [..., B].

    Raises:
      ValueError: the shapes do not match, or the batch has one example or more than N.
    """
    pairs, shape = (*log_prior.shape, *log_prior.shape[-1:]), log_q_by_latent.shape
    fits = len(shape) == len(pairs) + 1 >= 3 and (*shape[:-3], *shape[-2:]) == pairs
    require(
        fits and (log_q is None or log_q.shape == pairs),
        f"log_q_by_latent is {shape}, log_prior {log_prior.shape} and log_q {None if log_q is None else log_q.shape}; "
        "write [..., D, B, B], [..., B] and [..., B, B]",
    )
    batch = pairs[-1]
    require(
        2 <= batch <= num_examples,
        f"the batch has {batch} of {num_examples} examples; write a batch of at least 2, and at most num_examples",
    )
    log_q_by_latent, log_prior = (numerics.aligned(a)[0] for a in (log_q_by_latent, log_prior))
    (log_q,) = numerics.aligned(jnp.sum(log_q_by_latent, axis=-3) if log_q is None else log_q)
    others = math.log((num_examples - 1) / (num_examples * (batch - 1)))
    log_weight = jnp.where(jnp.eye(batch, dtype=bool), -math.log(num_examples), others)

    def mixture(log_q: Array) -> Array:
        return jax.nn.logsumexp(log_weight[(None,) * (log_q.ndim - 2)] + log_q, axis=-1)

    marginal, product = mixture(log_q), jnp.sum(mixture(log_q_by_latent), axis=-2)
    own = jnp.diagonal(log_q, axis1=-2, axis2=-1)
    return KLParts(own - marginal, marginal - product, product - log_prior)


def _samples(log_weights: Array) -> Array:
    """Checks that the log-weights have an axis of samples, and casts them to 32 bits or more."""
    shape = jnp.shape(log_weights)
    require(
        len(shape) >= 1 and shape[0] >= 1,
        f"log_weights has the shape {shape}; write a leading axis of samples, [K, B] with K of at least 1",
    )
    return numerics.aligned(log_weights)[0]


def _check_same_shape(name_a: str, a: Array, name_b: str, b: Array) -> None:
    require(
        jnp.shape(a) == jnp.shape(b), f"{name_a} {jnp.shape(a)} and {name_b} {jnp.shape(b)} must have the same shape"
    )


def _check_covers(name: str, parameter: Array, x: Array) -> None:
    shape, event = jnp.shape(parameter), jnp.shape(x)
    require(len(event) >= 1, f"x must have a leading axis of examples: [B, *event]; it has shape {event}")
    require(
        shape[len(shape) - len(event) :] == event,
        f"{name} {shape} must end in the shape of x {event}: [..., B, *event]",
    )
