"""The maximum mean discrepancy: a kernel distance between draws and a distribution."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require
from jaxvae.distributions.composed import Mixture
from jaxvae.distributions.gaussian import Normal
from jaxvae.distributions.sphere import UniformOnSphere, VonMisesFisher, log_area
from jaxvae.typing import Array, Distribution

_COMPONENTS = 16  # mixture components that are compared with all others at once


def squared_mmd(z: Array, p: Distribution, *, widths: tuple[float, ...] | None = None) -> Array | None:
    """The squared maximum mean discrepancy between the distribution of N draws z and p; Gretton et al. (2012).

    MMD² = E k(z, z') - 2 E k(z, y) + E k(y, y') with z, z' from the distribution of the draws and y, y' from p. Here
    the kernel k is the mean over `widths` of exp(-|a - b|² / 2h²). Both expectations over p are in closed form, so no
    draws from p add noise; the first expectation is over all pairs of draws (their lemma 6). For a mixture of K
    components the last one takes K² D operations.

    Args:
      z: [..., N, D], N ≥ 2 independent draws.
      p: a `Normal` of batch shape (), a `Mixture` of normals, or `UniformOnSphere` with z on the sphere too.
      widths: the widths h, Python numbers. None: ½√D, √D and 2√D, for a p with variances of about 1; on the unit sphere
        ½, 1 and 2.

    Returns:
      [..., N], the dimensionless contribution of each draw. Their mean is an unbiased estimate, which can be negative.
      None where the expectations have no closed form.

    Raises:
      ValueError: there are fewer than 2 draws, they have another D than p, or there are no widths, or one is not
        positive.
    """
    num = z.shape[-2]
    if widths is None:
        spread = 1.0 if isinstance(p, UniformOnSphere) else math.sqrt(z.shape[-1])
        widths = (0.5 * spread, spread, 2.0 * spread)
    require(num >= 2, f"MMD compares draws, but z has {num}; write z [..., N, D] with N of at least 2")
    require(len(widths) > 0 and min(widths) > 0, f"widths is {widths}; write one or more positive numbers")
    expectations = _expectations(p)
    if expectations is None:
        return None
    (z,) = numerics.aligned(z)
    columns = jnp.swapaxes(z, -1, -2)
    squares = jnp.sum(jnp.square(columns[..., :, None] - columns[..., None, :]), axis=-3)  # [..., N, N]

    def of_width(h: float) -> Array:
        to_others = (jnp.sum(jnp.exp(-0.5 / h**2 * squares), axis=-1) - 1.0) / (num - 1)  # without the draw itself
        to_p, within = expectations(z, h)
        return to_others - 2.0 * to_p + within

    return sum(map(of_width, widths), jnp.zeros(())) / len(widths)


_Expectations = Callable[[Array, float], tuple[Array, Array]]  # (z, h) -> E k(z, y), one for each z, and E k(y, y')


def _expectations(p: Distribution) -> _Expectations | None:
    if isinstance(p, UniformOnSphere):
        return _of_sphere(p)
    mixture = _as_mixture(p)
    return None if mixture is None else _of_mixture(*mixture)


def _of_sphere(p: UniformOnSphere) -> _Expectations:
    def expectations(z: Array, h: float) -> tuple[Array, Array]:
        _require_dim(z, p.dim)
        # For two directions the kernel is exp(κ (cos θ - 1)) with κ = 1/h². By symmetry the expectation is the same for
        # every z.
        concentrated = VonMisesFisher(jnp.eye(1, p.dim)[0], jnp.asarray(h**-2, z.dtype))
        each = jnp.exp(concentrated.log_constant - log_area(p.dim))
        return jnp.broadcast_to(each, z.shape[:-1]), each

    return expectations


def _of_mixture(weights: Array, mean: Array, variance: Array) -> _Expectations:
    def average(of_components: Array) -> Array:
        return jnp.matmul(of_components, weights, precision="highest")  # nearly all of it cancels in MMD²

    def expectations(z: Array, h: float) -> tuple[Array, Array]:
        def to_p(centre: Array, spread: Array) -> Array:
            """E k(x, y) for a normal x with mean `centre` and variances `spread`, both [..., D]."""
            x, own, means, variances = numerics.aligned(centre[..., None, :], spread[..., None, :], mean, variance)
            total = own + variances
            by_entry = jnp.log1p(total / h**2) + jnp.square(x - means) / (total + h**2)
            return average(jnp.exp(-0.5 * jnp.sum(by_entry, axis=-1)))

        _require_dim(z, mean.shape[-1])
        # The gradient would keep the pairs of all components.
        of_component = jax.checkpoint(lambda component: to_p(*component))
        within = jax.lax.map(of_component, (mean, variance), batch_size=min(_COMPONENTS, len(mean)))
        return to_p(z, jnp.zeros_like(z)), average(within)

    return expectations


def _require_dim(z: Array, dim: int) -> None:
    require(z.shape[-1] == dim, f"z has the shape {z.shape}, but p is over vectors of {dim}; write z [..., N, {dim}]")


def _as_mixture(p: Distribution) -> tuple[Array, Array, Array] | None:
    """Weights [K], means [K, D] and variances [K, D]."""
    if isinstance(p, Mixture) and isinstance(p.components, Normal):
        (logits,) = numerics.aligned(p.logits)
        weights, parts = jax.nn.softmax(logits), p.components
    elif isinstance(p, Normal) and p.mean.ndim == p.event_ndims == 1:
        weights, parts = jnp.ones(1), Normal(p.mean[None], p.log_var[None])
    else:
        return None
    mean, log_var = numerics.aligned(parts.mean, parts.log_var)
    return weights, mean, jnp.exp(jnp.broadcast_to(log_var, mean.shape))
