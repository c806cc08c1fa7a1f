"""The gap between log p(x) and the ELBO, and its causes: the family of q(z|x) and the encoder; Cremer et al. (2018)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae.checks import require
from jaxvae.distributions import sample_and_log_prob
from jaxvae.likelihoods.entries import check_if_known
from jaxvae.model import VAE
from jaxvae.numerics import aligned, scan_in_dispatches
from jaxvae.typing import Array, Key, Params, Tick

_AT_ONCE = 25  # steps in a dispatch
_DRAWS = 50  # draws of every example in one pass of the decoder
_TO_CHOOSE = 4  # passes by which two q's are compared


class InferenceGap(NamedTuple):
    """The bounds of B examples and what lies between them, in nats."""

    log_evidence: np.ndarray  # [B]  log p(x), or the best available bound on it
    best_elbo: np.ndarray  # [B]  with the best q of the family for each example
    elbo: np.ndarray  # [B]  with the encoder's q

    @property
    def approximation(self) -> np.ndarray:
        """The part of the gap that no q of the family can close, [B]; Cremer et al. (2018), eq. 6."""
        return self.log_evidence - self.best_elbo

    @property
    def amortization(self) -> np.ndarray:
        """The part of the gap that the encoder leaves open, [B]; Cremer et al. (2018), eq. 7."""
        return self.best_elbo - self.elbo


def optimize_posterior(
    model: VAE,
    params: Params,
    key: Key,
    x: Array,
    *,
    num_steps: int = 1000,
    num_samples: int = 10,
    learning_rate: float = 0.03,
    tick: Tick = lambda num: None,
) -> Array:
    """The parameters of the best q(z|x) for each example, found by maximising its ELBO from the encoder's q.

    The optimizer is Adam with a half-cosine learning rate and the gradient of `StickingTheLanding`. Where the encoder's
    q has the higher ELBO in the end, by common draws, it is kept. If the best q is far from the encoder's, the default
    number of steps may be too small: see whether more steps raise the ELBO.

    Args:
      model: the model, whose q(z|x) has a density over all vectors.
      params: its parameters, which are not changed.
      key: the only source of randomness.
      x: [B, *event], as the likelihood takes it.
      num_steps: the number of steps of Adam.
      num_samples: the number of draws for each example in a step.
      learning_rate: the initial value of the half cosine.
      tick: called with the number of steps done since its last call.

    Returns:
      [B, param_size], which `model.posterior_of(params, ...)` turns into q(z|x).

    Raises:
      ValueError: q(z|x) has no density or is on the sphere, there are no steps or no draws, or the likelihood is not a
        distribution over the values of x.
    """
    _check(model, x)
    # A concentration may be far from its best value, and steps of this size move it little.
    require(
        model.posterior.space == "all vectors",
        f"{type(model.posterior).__name__} is over {model.posterior.space}, where these steps do not find the best q",
    )
    require(
        num_steps >= 1 and num_samples >= 1, f"num_steps is {num_steps} and num_samples {num_samples}; write 1 or more"
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss(numbers: Array, key: Key) -> Array:
        q = model.posterior_of(params, numbers)
        z = q.sample(key, (num_samples,))
        evidence = model.weigh(params, jax.lax.stop_gradient(q), z, x)  # for its gradient alone
        return -jnp.sum(jnp.mean(evidence.log_weights, axis=0))  # a sum: the examples are independent problems

    def climb(carry: tuple[Array, Any], key: Key) -> tuple[tuple[Array, Any], None]:
        numbers, state = carry
        updates, state = optimizer.update(jax.grad(loss)(numbers, key), state)
        return (optax.apply_updates(numbers, updates), state), None

    (encoded,) = aligned(jax.jit(model.variational_parameters)(params, x))
    key, choice_key = jax.random.split(key)
    start, keys = (encoded, optimizer.init(encoded)), jax.random.split(key, num_steps)
    (numbers, _), _ = scan_in_dispatches(climb, start, keys, at_once=_AT_ONCE, tick=tick)
    elbo = _make_elbo(model, params, x)
    gains = [elbo(numbers, key) - elbo(encoded, key) for key in jax.random.split(choice_key, _TO_CHOOSE)]
    return jnp.where((sum(gains, jnp.zeros(len(x))) > 0.0)[:, None], numbers, encoded)


def elbo_of(model: VAE, params: Params, key: Key, numbers: Array, x: Array, *, num_samples: int = 1000) -> np.ndarray:
    """The ELBO of each example with the q of `numbers` [B, param_size], over at least `num_samples` draws: [B].

    The KL is the closed form where there is one. Monte Carlo noise can make the gap of a single example negative.

    Raises:
      ValueError: q(z|x) has no density, there are no draws, `numbers` has another shape, or the likelihood is not a
        distribution over the values of x.
    """
    _check(model, x)
    require(num_samples >= 1, f"num_samples is {num_samples}; write 1 or more")
    expected = len(x), model.posterior.param_size(model.latent_dim)
    require(numbers.shape == expected, f"numbers has the shape {numbers.shape}; for these examples write {expected}")
    elbo, keys = _make_elbo(model, params, x), jax.random.split(key, -(-num_samples // _DRAWS))
    return np.mean([np.asarray(elbo(numbers, k), np.float64) for k in keys], axis=0)


def _make_elbo(model: VAE, params: Params, x: Array) -> Callable[[Array, Key], Array]:
    """`(numbers [B, param_size], key) -> [B]`, the ELBO of each example over `_DRAWS` draws."""

    @jax.jit
    def elbo(numbers: Array, key: Key) -> Array:
        q = model.posterior_of(params, numbers)
        z, log_q = sample_and_log_prob(q, key, (_DRAWS,))
        evidence = model.weigh(params, q, z, x, log_posterior=log_q)
        return -(evidence.distortion + evidence.rate)

    return elbo


def _check(model: VAE, x: Array) -> None:
    name = type(model.posterior).__name__
    require(model.posterior.has_density, f"{name} has no density q(z|x), and so no inference gap")
    check_if_known(x, model.likelihood)
