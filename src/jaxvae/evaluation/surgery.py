"""ELBO surgery: the rate as what z says of the example, and how far all posteriors together are from the prior."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.evaluation.evaluator import example_keys, preprocess_each
from jaxvae.model import VAE
from jaxvae.numerics import require
from jaxvae.typing import Array, Key, Params, Preprocessing, Rows

_ENTRIES = 2**22  # log-densities times latents at once


class Surgery(NamedTuple):
    """The two parts of the rate, estimated at one draw z ~ q(z|x) of each of M examples, in nats.

    Their sum is log q(z|x) - log p(z) for every draw, and so in the mean the rate.
    """

    mutual_information: np.ndarray  # [M]  log q(z|x) - log q(z); in the mean I(x; z), from 0 to log N
    marginal_kl: np.ndarray  # [M]  log q(z) - log p(z); in the mean KL(q(z) || p(z))


def elbo_surgery(
    model: VAE,
    params: Params,
    key: Key,
    x: Rows,
    *,
    preprocess: Preprocessing = lambda key, x: x,
    max_draws: int = 2000,
) -> Surgery:
    """E_x[KL(q(z|x) || p(z))] = I(x; z) + KL(q(z) || p(z)) with q(z) = (1/N) Σ_n q(z|x_n); Hoffman and Johnson (2016).

    The mixture q(z) is that of all N examples, exactly; the expectations are over draws from it.

    Args:
      model: the model, whose q(z|x) has a density.
      params: its parameters.
      key: the evaluator's, so that the examples are preprocessed alike.
      x: [N, *event], as stored.
      preprocess: see `make_evaluator`.
      max_draws: M is N, and at most this: then the draws are of examples spread evenly over x.

    Raises:
      ValueError: q(z|x) has no density, or there are no examples.
    """
    require(len(x) > 0, "there are no examples")
    require(
        model.posterior.has_density,
        f"{type(model.posterior).__name__} has no density q(z|x), and its rate no parts",
    )
    num = len(x)
    chosen = np.unique(np.linspace(0, num - 1, min(num, max_draws)).round().astype(int))

    @jax.jit
    def encode(stored: Array, index: Array) -> Any:
        examples = preprocess_each(preprocess, key, stored, index)
        # As distributions of batch shape [1]: an array that the posteriors share is then each one's own.
        return jax.vmap(lambda example: model.encode(params, example[None]))(examples)

    @jax.jit
    def draw(q: Any, index: Array) -> Array:
        keys = example_keys(jax.random.fold_in(key, 2), index)
        return jax.vmap(lambda q, k: q.sample(k)[0])(q, keys)

    @jax.jit
    def densities(q: Any, own: Any, z: Array) -> tuple[Array, Array, Array]:
        log_q = jax.vmap(lambda q: q.log_prob(z[:, None])[:, 0])(q)  # [N, M]
        mixture = jax.nn.logsumexp(log_q, axis=0) - jnp.log(float(num))
        at_own = jax.vmap(lambda q, z: q.log_prob(z[None])[0])(own, z)
        return at_own, mixture, model.prior_distribution(params).log_prob(z)

    batches = [encode(x[i : i + 1000], np.arange(i, min(i + 1000, num))) for i in range(0, num, 1000)]
    q = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    own = jax.tree.map(lambda leaf: leaf[chosen], q)
    z = draw(own, chosen)
    step = max(1, _ENTRIES // (num * model.latent_dim))
    parts = [
        densities(q, jax.tree.map(lambda leaf: leaf[i : i + step], own), z[i : i + step])  # noqa: B023
        for i in range(0, len(chosen), step)
    ]
    at_own, mixture, prior = (np.concatenate(p).astype(np.float64) for p in zip(*parts, strict=True))
    return Surgery(at_own - mixture, mixture - prior)
