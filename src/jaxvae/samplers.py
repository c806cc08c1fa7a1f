"""Samplers: distributions that are fitted, after training, to the codes of all examples.

The codes of a plain autoencoder do not follow a p(z), and a VAE's aggregate posterior (1/N) Σ_n q(z|x_n) is not quite
its prior. Draws from a distribution fitted to the codes are like those that the decoder was trained on; Ghosh et al.
(2020), section 4.
"""

import abc
import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import numerics
from jaxvae.checks import require, require_kind, require_number
from jaxvae.distributions import Mixture, MultivariateNormal, Transformed, pytree
from jaxvae.flows import Flow, SplineCoupling
from jaxvae.priors import FlowPrior
from jaxvae.typing import Array, Distribution, Key, Params, Tick


@dataclasses.dataclass(frozen=True)
class Sampler(abc.ABC):
    """A family of distributions over z, and how to fit one of them."""

    @property
    def fewest(self) -> int:
        """The smallest number of codes that `fit` takes."""
        return 2

    @abc.abstractmethod
    def fit(self, key: Key, z: Array) -> Params:
        """The parameters that fit the codes z [N, D].

        Raises:
          ValueError: there are too few codes, or some are not finite.
        """

    @abc.abstractmethod
    def distribution(self, params: Params) -> Distribution:
        """The fitted distribution, batch shape (), event shape [D]."""


@dataclasses.dataclass(frozen=True)
class GaussianSampler(Sampler):
    """The normal distribution with the codes' mean and covariance."""

    def fit(self, key: Key, z: Array) -> Params:
        codes, mean, std = _whitened(z, at_least=self.fewest)
        return {"mean": _float32(mean), "scale_tril": _float32(std[:, None] * _tril_of(codes))}

    def distribution(self, params: Params) -> MultivariateNormal:
        return MultivariateNormal(params["mean"], params["scale_tril"])


@dataclasses.dataclass(frozen=True)
class MixtureSampler(Sampler):
    """A mixture of normals with full covariances, by scikit-learn's expectation maximization."""

    num_components: int = 10
    """The number of normals in the mixture."""

    def __post_init__(self) -> None:
        require_number(self, "num_components", low=1, integer=True)

    @property
    def fewest(self) -> int:
        return 2 * self.num_components

    def fit(self, key: Key, z: Array) -> Params:
        from sklearn.mixture import GaussianMixture

        white, mean, std = _whitened(z, at_least=self.fewest)
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        model = GaussianMixture(self.num_components, reg_covar=_FLOOR, random_state=seed, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a likelihood that still rises a little after 200 iterations
            model.fit(white)
        return {
            "logits": _float32(np.log(model.weights_)),
            "mean": _float32(mean + std * model.means_),
            "scale_tril": _float32(std[:, None] * np.linalg.cholesky(model.covariances_)),
        }

    def distribution(self, params: Params) -> Mixture:
        return Mixture(params["logits"], MultivariateNormal(params["mean"], params["scale_tril"]))


_AT_ONCE = 100  # steps in a dispatch
_HELD_OUT, _MOST_HELD_OUT = 7, 2000  # one code in so many is held out, up to a number that is quick to look at


class _Best(NamedTuple):
    params: Params
    density: Array  # ()  the mean log-density of the held-out codes, nats


_State = tuple[Params, Any, _Best]  # the parameters, the optimizer's state, and the best parameters so far


@dataclasses.dataclass(frozen=True)
class FlowSampler(Sampler):
    """The image of a normal distribution under a flow, fitted by maximum likelihood; Dinh et al. (2017).

    A flow can memorize a thousand codes. So one code in seven (at most 2,000) is held out, and of the start and every
    hundredth step, the one with the highest density of these codes is kept. The start is about the `GaussianSampler`,
    except for `InverseAutoregressive`, which starts narrower.
    """

    flow: Flow = SplineCoupling()
    """The flow, in coordinates in which the codes have mean 0 and covariance I."""
    num_steps: int = 2000
    """The number of steps of Adam, with a half-cosine learning rate."""
    batch_size: int = 256
    """The number of codes in a step."""
    learning_rate: float = 2e-3
    """The initial value of the half cosine."""

    def __post_init__(self) -> None:
        require_kind("FlowSampler.flow", self.flow, Flow, "a flow, such as SplineCoupling()")
        for name in ("num_steps", "batch_size"):
            require_number(self, name, low=1, integer=True)
        require_number(self, "learning_rate", low=0.0, strict=True)

    def fit(self, key: Key, z: Array, *, tick: Tick = lambda num: None) -> Params:
        """See `Sampler.fit`; `tick` is called with the number of steps done since its last call."""
        codes, mean, std = _whitened(z, at_least=self.fewest)
        init_key, order_key, noise_key, choice_key = jax.random.split(key, 4)
        # A direction without variance could be made ever more likely, at the cost of the fit of all others. Its noise
        # has the smallest scale in the end.
        noise, tril = np.asarray(jax.random.normal(noise_key, codes.shape)), _tril_of(codes)
        alike = np.linalg.solve(tril, (codes + math.sqrt(_FLOOR) * noise).T).T
        white, dim = jax.random.permutation(choice_key, _float32(alike)), codes.shape[1]
        num_held_out = min(max(1, len(white) // _HELD_OUT), _MOST_HELD_OUT)
        held_out, seen = white[:num_held_out], white[num_held_out:]
        start = FlowPrior(self.flow).init(init_key, dim, white[0])
        optimizer = optax.chain(
            optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.num_steps))
        )

        def loss(params: Params, rows: Array) -> Array:
            return -jnp.mean(self._white(params, dim).log_prob(rows))

        def better(best: _Best, params: Params) -> _Best:
            now = _Best(params, -loss(params, held_out))
            return jax.tree.map(lambda new, old: jnp.where(now.density > best.density, new, old), now, best)

        def step(carry: _State, this: tuple[Key, Array]) -> tuple[_State, None]:
            (params, state, best), (key, due) = carry, this
            rows = seen[jax.random.randint(key, (self.batch_size,), 0, len(seen))]
            updates, state = optimizer.update(jax.grad(loss)(params, rows), state)
            params = optax.apply_updates(params, updates)
            return (params, state, jax.lax.cond(due, better, lambda best, params: best, best, params)), None

        best = jax.jit(better)(_Best(start, jnp.float32(-jnp.inf)), start)
        taken = jnp.arange(1, self.num_steps + 1)
        xs = jax.random.split(order_key, self.num_steps), (taken % _AT_ONCE == 0) | (taken == self.num_steps)
        carry = start, optimizer.init(start), best
        (_, _, best), _ = numerics.scan_in_dispatches(step, carry, xs, at_once=_AT_ONCE, tick=tick)
        return best.params | {"mean": _float32(mean), "scale_tril": _float32(std[:, None] * tril)}

    def distribution(self, params: Params) -> Transformed:
        white = self._white(params, params["mean"].shape[-1])
        return Transformed(white.base, (*white.maps, Affine(params["mean"], params["scale_tril"])))

    def _white(self, params: Params, dim: int) -> Transformed:
        return FlowPrior(self.flow).distribution(params, dim, lambda seen: seen)


@pytree
@dataclasses.dataclass(frozen=True)
class Affine:
    """mean + L z with a triangular L: a map like those of `flows`."""

    mean: Array  # [D]
    scale_tril: Array  # [D, D]  L

    def forward(self, z: Array) -> tuple[Array, Array]:
        mean, z = numerics.aligned(self.mean, z)
        moved = jnp.matmul(z, self.scale_tril.astype(z.dtype).T, precision="highest")
        return mean + moved, jnp.broadcast_to(self._log_det, z.shape[:-1])

    def inverse(self, y: Array) -> tuple[Array, Array]:
        mean, y = numerics.aligned(self.mean, y)
        away = (y - mean).reshape(-1, y.shape[-1])
        tril = self.scale_tril.astype(away.dtype)
        z = jax.lax.linalg.triangular_solve(tril, away.T, left_side=True, lower=True).T
        return z.reshape(y.shape), jnp.broadcast_to(-self._log_det, y.shape[:-1])

    @property
    def _log_det(self) -> Array:
        return jnp.sum(jnp.log(jnp.diagonal(self.scale_tril)))


_FLOOR = 1e-6  # added to a direction's variance, where each latent's is 1: codes may not vary along a direction


def _whitened(z: Array, *, at_least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The codes [N, D] standardized to mean 0 and variance 1 in each latent, and their original mean and std [D]."""
    codes = np.asarray(z, np.float64)
    require(
        codes.ndim == 2 and len(codes) >= at_least,
        f"z has the shape {codes.shape}; write [N, D] with N of at least {at_least}",
    )
    require(bool(np.isfinite(codes).all()), "z has values that are NaN or infinite; leave these codes out")
    mean, std = codes.mean(axis=0), codes.std(axis=0)
    std = np.maximum(std, max(1e-6 * std.max(), 1e-9))  # a latent that is the same for all examples has std 0
    return (codes - mean) / std, mean, std


def _tril_of(codes: np.ndarray) -> np.ndarray:
    """The Cholesky factor [D, D] of the covariance of standardized codes [N, D]."""
    return np.linalg.cholesky(np.atleast_2d(np.cov(codes, rowvar=False)) + _FLOOR * np.eye(codes.shape[1]))


def _float32(a: Any) -> Array:
    return jnp.asarray(a, jnp.float32)
