"""Annealed importance sampling: bounds on log p(x) that do not rely on q(z|x) being near the posterior.

A chain moves through densities f_t(z) = q_0(z)^(1-β_t) p(x, z)^β_t between a q_0 that can be sampled and the joint
density p(x, z), by Hamiltonian transitions that leave each of them invariant; Neal (2001). Upwards from draws of q_0,
its weights are unbiased for p(x), which gives a lower bound. Downwards from an exact draw of p(z|x), the inverse
weights are unbiased for 1/p(x), which gives an upper bound; Grosse et al. (2015). Exact draws are known where x was
drawn from the model, by `simulate`. Both are bounds in expectation. Each call compiles anew, so it pays to give it many
examples.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.checks import require, require_number
from jaxvae.likelihoods.entries import check_if_known
from jaxvae.model import VAE
from jaxvae.numerics import aligned, scan_in_dispatches
from jaxvae.typing import Array, Distribution, Key, Params, Tick

Initial = Callable[[Params, Array], Distribution]  # (params, x [1, *event]) -> q_0 over z [D], batch shape [1] or ()
_Densities = Callable[[Array, Array], tuple[Array, Array]]  # z [D], x [*event] -> log p(x, z), log q_0(z)

_AT_ONCE = 10  # temperatures in a dispatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """The path of a chain from q_0 to the joint, and the number of chains."""

    num_temperatures: int = 500
    """The number of steps from β = 0 to β = 1; the more, the tighter the bounds."""
    num_leapfrog_steps: int = 10
    """The number of leapfrog steps of each Hamiltonian transition."""
    num_chains: int = 16
    """The number of independent chains for each example."""
    acceptance_rate: float = 0.65
    """The acceptance rate that the step sizes are tuned to; Neal (2011), section 5.4.4."""
    steepness: float = 4.0
    """How much more slowly β moves near 0 and 1 than in between: β_t follows a sigmoid from -steepness to steepness."""

    def __post_init__(self) -> None:
        for name in ("num_temperatures", "num_leapfrog_steps", "num_chains"):
            require_number(self, name, low=1, integer=True)
        require_number(self, "acceptance_rate", low=0.0, strict=True, below=1.0)
        require_number(self, "steepness", low=0.01, high=30.0)

    @property
    def temperatures(self) -> np.ndarray:
        """β_0 = 0 to β_T = 1, [T + 1]; Wu et al. (2017), section 3.2."""
        sigmoid = 1.0 / (1.0 + np.exp(-np.linspace(-self.steepness, self.steepness, self.num_temperatures + 1)))
        return (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


class Annealed(NamedTuple):
    """The results of C chains for each of B examples."""

    log_weights: np.ndarray  # [C, B]  nats
    acceptance_rate: np.ndarray  # [T, B]  means over the chains, from β_1 to β_T

    @property
    def lower_bound(self) -> np.ndarray:
        """For `forward` chains: log of the mean weight, in expectation at most log p(x); [B]."""
        return _log_mean_exp(self.log_weights)

    @property
    def upper_bound(self) -> np.ndarray:
        """For `reverse` chains: minus the log of the mean inverse weight, in expectation at least log p(x); [B]."""
        return -_log_mean_exp(-self.log_weights)


def _log_mean_exp(log_values: np.ndarray) -> np.ndarray:
    log_values = np.asarray(log_values, np.float64)  # which JAX has with a setting only
    return np.logaddexp.reduce(log_values, axis=0) - math.log(len(log_values))


def simulate(model: VAE, params: Params, key: Key, num: int) -> tuple[Array, Array]:
    """Examples x ~ p(x|z) from the model, and the z ~ p(z) of each, an exact draw from p(z|x): both [num, ...].

    Raises:
      ValueError: `num` is below 1.
    """
    require(num >= 1, f"num is {num}; write 1 or more")
    z_key, x_key = jax.random.split(key)
    z = model.prior_distribution(params).sample(z_key, (num,))
    return model.decode(params, z).sample(x_key), z


def forward(
    model: VAE,
    params: Params,
    key: Key,
    x: Array,
    *,
    step_sizes: np.ndarray,
    path: Path = Path(),
    initial: Initial | None = None,
    tick: Tick = lambda num: None,
) -> Annealed:
    """Chains from q_0 to the joint, whose weights bound log p(x) from below; Neal (2001), eq. 11.

    Args:
      model: the model.
      params: its parameters.
      key: the only source of randomness.
      x: [B, *event], as the likelihood takes it.
      step_sizes: [T, B], from `tune` with another key.
      path: the temperatures, transitions and chains.
      initial: q_0; by default the model's q(z|x), from which the path is short. From the prior, it is
        `lambda params, x: model.prior_distribution(params)`.
      tick: called with the number of temperatures done since its last call.

    Raises:
      ValueError: `step_sizes` belong to another path or other examples, q_0 is the model's q(z|x) and has no density,
        z is not over all vectors, or the likelihood is not a distribution over the values of x.
    """
    _check(model, x, initial)
    densities = _make_densities(model, params, initial)
    start_key, key = jax.random.split(key)
    z = _draw_initial(model, params, start_key, x, path, initial)
    return _run(densities, key, x, z, step_sizes=step_sizes, path=path, tick=tick, upwards=True)


def reverse(
    model: VAE,
    params: Params,
    key: Key,
    x: Array,
    z: Array,
    *,
    step_sizes: np.ndarray,
    path: Path = Path(),
    initial: Initial | None = None,
    tick: Tick = lambda num: None,
) -> Annealed:
    """Chains from exact draws of p(z|x) back to q_0, whose weights bound log p(x) from above; Grosse et al. (2015).

    Args:
      z: [B, D], for each example a draw from its p(z|x), from `simulate`. For any other z the result is not a bound.

    The other arguments are those of `forward`.

    Raises:
      ValueError: as `forward`, or z has another shape.
    """
    _check(model, x, initial)
    densities = _make_densities(model, params, initial)
    require(
        z.shape == (len(x), model.latent_dim),
        f"z has the shape {z.shape}; write one draw for each example, ({len(x)}, {model.latent_dim})",
    )
    (z,) = aligned(z)
    z = jnp.broadcast_to(z, (path.num_chains, *z.shape))
    return _run(densities, key, x, z, step_sizes=step_sizes, path=path, tick=tick, upwards=False)


def tune(
    model: VAE,
    params: Params,
    key: Key,
    x: Array,
    *,
    path: Path = Path(),
    initial: Initial | None = None,
    tick: Tick = lambda num: None,
) -> np.ndarray:
    """A step size for each temperature and example, [T, B], adapted in a first run with a few chains.

    The chains that make a bound then use fixed step sizes, since adapting them would bias the weights. `tick` is called
    as in `forward`.

    Raises:
      ValueError: as `forward`.
    """
    _check(model, x, initial)
    densities = _make_densities(model, params, initial)
    few = dataclasses.replace(path, num_chains=min(4, path.num_chains))
    start_key, burn_key, key = jax.random.split(key, 3)
    transition = _make_transition(densities, x, path)

    def adapt(carry: tuple[Array, Array], this: tuple[Key, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (z, size), (key, beta, rate) = carry, this
        z, accepted = transition(key, z, beta, size)
        return (z, size * jnp.exp(rate * jnp.sign(accepted - path.acceptance_rate))), size

    def adapted(carry: tuple[Array, Array], key: Key, betas: Array, rate: float, tick: Tick) -> Any:
        xs = jax.random.split(key, len(betas)), betas, jnp.full(len(betas), rate, betas.dtype)
        return scan_in_dispatches(adapt, carry, xs, at_once=_AT_ONCE, tick=tick)

    z = _draw_initial(model, params, start_key, x, few, initial)
    carry = z, jnp.full(x.shape[0], 0.1, z.dtype)
    # First at q_0 itself, where only the scale has to be found.
    carry, _ = adapted(carry, burn_key, jnp.zeros(40, z.dtype), 0.2, lambda num: None)
    # On a short path the densities narrow quickly from one temperature to the next, and the sizes must keep up.
    rate = max(0.03, 6.0 / path.num_temperatures)
    _, sizes = adapted(carry, key, jnp.asarray(path.temperatures[1:], z.dtype), rate, tick)
    return sizes


def _run(
    densities: _Densities,
    key: Key,
    x: Array,
    z: Array,
    *,
    step_sizes: np.ndarray,
    path: Path,
    tick: Tick,
    upwards: bool,
) -> Annealed:
    """Runs the chains through temperatures 1 to T or T to 1, updating the weights at each change of temperature."""
    num, step_sizes = path.num_temperatures, np.asarray(step_sizes)
    require(
        step_sizes.shape == (num, x.shape[0]),
        f"step_sizes has the shape {step_sizes.shape}; write tune(...) with the same path and examples: "
        f"({num}, {x.shape[0]})",
    )
    transition, log_ratio = _make_transition(densities, x, path), _make_log_ratio(densities, x)

    def advance(carry: tuple[Array, Array], this: tuple[Key, Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (z, log_weights), (key, beta, increment, size) = carry, this
        if upwards:
            log_weights = log_weights + increment * log_ratio(z)
        z, accepted = transition(key, z, beta, size)
        if not upwards:
            log_weights = log_weights + increment * log_ratio(z)
        return (z, log_weights), accepted

    betas = path.temperatures
    order = np.arange(1, num + 1) if upwards else np.arange(num, 0, -1)
    steps = (betas[order], betas[order] - betas[order - 1], step_sizes[order - 1])
    xs = jax.random.split(key, num), *(jnp.asarray(a, jnp.float32) for a in steps)
    start = z, jnp.zeros(z.shape[:2])
    (_, log_weights), accepted = scan_in_dispatches(advance, start, xs, at_once=_AT_ONCE, tick=tick)
    return Annealed(np.asarray(log_weights, np.float64), accepted[np.argsort(order)])


def _make_densities(model: VAE, params: Params, initial: Initial | None) -> _Densities:
    """log p(x, z) and log q_0(z) of one z and one x."""
    q_0 = initial or model.encode

    def densities(z: Array, x: Array) -> tuple[Array, Array]:
        log_likelihood = model.decode(params, z[None]).log_prob(x[None])[0]
        log_prior = model.prior_distribution(params).log_prob(z[None])[0]
        return log_likelihood + log_prior, q_0(params, x[None]).log_prob(z[None]).reshape(())

    return densities


def _check(model: VAE, x: Array, initial: Initial | None) -> None:
    require(
        model.posterior.space == "all vectors",
        f"the chains move through all vectors, but {type(model.posterior).__name__} is over {model.posterior.space}",
    )
    require(
        initial is not None or model.posterior.has_density,
        f"{type(model.posterior).__name__} has no density q(z|x) to start from; write "
        "initial=lambda params, x: model.prior_distribution(params)",
    )
    check_if_known(x, model.likelihood)


def _draw_initial(model: VAE, params: Params, key: Key, x: Array, path: Path, initial: Initial | None) -> Array:
    """Draws from q_0, [C, B, D]."""
    q_0 = initial or model.encode

    def draw(key: Key, x: Array) -> Array:
        return q_0(params, x[None]).sample(key, (path.num_chains,)).reshape(path.num_chains, -1)

    return jax.jit(jax.vmap(draw, out_axes=1))(jax.random.split(key, x.shape[0]), x)


def _make_log_ratio(densities: _Densities, x: Array) -> Callable[[Array], Array]:
    """log p(x, z) - log q_0(z) for z [C, B, D]: [C, B]."""

    def one(z: Array, x: Array) -> Array:
        joint, log_q = densities(z, x)
        return joint - log_q

    return lambda z: jax.vmap(jax.vmap(one), (0, None))(z, x)


def _make_transition(
    densities: _Densities, x: Array, path: Path
) -> Callable[[Key, Array, Array, Array], tuple[Array, Array]]:
    """`(key, z [C, B, D], β, size [B]) -> (z, acceptance rate [B])`: it leaves f_β invariant."""
    from blackjax.mcmc import hmc

    kernel = hmc.build_kernel()

    def one(key: Key, z: Array, x: Array, beta: Array, size: Array) -> tuple[Array, Array]:
        def log_density(z: Array) -> Array:
            joint, log_q = densities(z, x)
            return beta * joint + (1.0 - beta) * log_q

        state, info = kernel(
            key, hmc.init(z, log_density), log_density, size, jnp.ones_like(z), path.num_leapfrog_steps
        )
        return state.position, info.acceptance_rate

    def transition(key: Key, z: Array, beta: Array, size: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key, z.shape[:2])
        over_examples = jax.vmap(one, (0, 0, 0, None, 0))
        z, accepted = jax.vmap(over_examples, (0, 0, None, None, None))(keys, z, x, beta, size)
        return z, jnp.mean(accepted, axis=0, dtype=z.dtype)

    return transition
