"""Integrals by Gauss–Legendre quadrature, over the whole latent space and along q(z|x)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.derivation.points import LIGHT, REACH, axes_of, chunks, log_sum, product
from jaxvae.distributions import Normal
from jaxvae.model import VAE
from jaxvae.typing import Array, Params, Tick

_PANELS, _NODES = 24, 8  # of the quadrature along q, in each dimension
_PARTS, _PART_NODES = 4, 5  # of a panel with noticeable mass, in each dimension
_PANEL_STDS, _PANEL = 2.5, 0.125  # a panel's width in the narrowest q's standard deviations, and its maximum


class AlongQ(NamedTuple):
    log_q: np.ndarray  # [B]  E_q[log q(z|x)]
    log_likelihood: np.ndarray  # [B]  E_q[log p(x|z)]
    log_prior: np.ndarray  # [B]  E_q[log p(z)]


def along_q(model: VAE, params: Params, q: Normal, x: Array, tick: Tick) -> AlongQ:
    """E_q[f(z)] as the integral of f(mean + std · ε) over ε ~ N(0, I), by Gauss–Legendre quadrature on panels."""

    @jax.jit
    def terms(params: Params, example: Array, q: Normal, epsilon: Array) -> tuple[Array, Array, Array]:
        z = q.mean[None] + q.std[None] * epsilon
        log_likelihood = model.decode(params, z).log_prob(example[None])
        return q.log_prob(z), log_likelihood, model.prior_distribution(params).log_prob(z)

    unit, weight = _legendre(_PANELS, _NODES, model.latent_dim)
    epsilon = REACH * (2 * unit - 1)
    weight = weight * np.exp(-0.5 * np.sum(epsilon**2, axis=1))
    keep = weight > 1e-16 * weight.max()
    totals = np.zeros((3, len(x)))
    for i in range(len(x)):
        q_i = Normal(q.mean[i], q.log_var[i])
        for e, w in chunks(epsilon[keep], weight[keep]):
            values = terms(params, x[i], q_i, jnp.asarray(e, jnp.float32))
            totals[:, i] += [np.asarray(v, np.float64) @ w for v in values]
            tick(len(e))
    return AlongQ(*(totals / weight[keep].sum()))


def log_evidence_by_panels(model: VAE, params: Params, q: Normal, x: Array, tick: Tick) -> np.ndarray:
    """log ∫ p(x, z) dz, [B], by a second rule, whose points and weights are independent of the grid's."""

    @jax.jit
    def terms(params: Params, z: Array, x: Array) -> Array:
        return model.decode(params, z).log_prob(x[:, None]) + model.prior_distribution(params).log_prob(z)[None]

    def integrals(corners: np.ndarray, unit: np.ndarray, weight: np.ndarray, x: Array) -> np.ndarray:
        """log ∫ p(x, z) dz over each panel, [B, P]."""
        z = (corners[:, None] + widths * unit).reshape(-1, len(widths))
        parts = []
        for (points,) in chunks(z.astype(np.float32)):
            parts.append(np.asarray(terms(params, jnp.asarray(points), x), np.float64))
            tick(len(points))
        values = np.concatenate(parts, axis=1)[:, : len(z)].reshape(len(x), len(corners), len(unit))
        largest = values.max(axis=-1, keepdims=True)
        return np.log(np.exp(values - largest) @ weight) + largest[..., 0] + np.log(widths).sum()

    corners, widths = _panels(q)
    whole = integrals(corners, *_legendre(1, _NODES, len(widths)), x)
    fine = _legendre(_PARTS, _PART_NODES, len(widths))
    total = []
    for i, panels in enumerate(whole):
        heavy = panels > panels.max() + LIGHT
        (divided,) = integrals(corners[heavy], *fine, x[i : i + 1])
        total.append(np.logaddexp(log_sum(panels[~heavy]), log_sum(divided)))
    return np.array(total)


def _panels(q: Normal) -> tuple[np.ndarray, np.ndarray]:
    """The lower corners [P, D] and the widths [D] of panels that cover the grid's extent."""
    narrowest = np.asarray(q.std, np.float64).min(axis=0)
    starts, widths = [], []
    for axis, std in zip(axes_of(q), narrowest, strict=True):
        num = math.ceil((axis[-1] - axis[0]) / min(_PANEL, _PANEL_STDS * std))
        widths.append((axis[-1] - axis[0]) / num)
        starts.append(axis[0] + widths[-1] * np.arange(num))
    return product(*starts), np.array(widths)


def _legendre(parts: int, num: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [M, dim] and weights [M] of the Gauss–Legendre rule with `num` nodes on each of `parts` of [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num)
    points = ((np.arange(parts)[:, None] + 0.5 + nodes / 2) / parts).ravel()
    shares = np.tile(weights / (2 * parts), parts)
    return product(*[points] * dim), product(*[shares] * dim).prod(axis=1)


def num_points(q: Normal) -> int:
    """The approximate number of points for `log_evidence_by_panels`, including those of the subdivided panels.

    The latter are estimated as if p(z|x) were q(z|x), whose density exceeds the threshold `LIGHT` in an ellipse.
    """
    corners, widths = _panels(q)
    dim, radius = len(widths), math.sqrt(-2.0 * LIGHT)
    volume = {1: 2.0, 2: math.pi}[dim] * (radius * np.asarray(q.std, np.float64) / widths).prod(axis=-1)
    return len(corners) * _NODES**dim + round(volume.sum()) * math.prod([_PARTS * _PART_NODES] * dim)


def num_points_along(dim: int) -> int:
    """The largest number of points along each q(z|x)."""
    return (_PANELS * _NODES) ** dim
