"""The lecture's derivation of the ELBO, line by line, in numbers: for a model with one or two latents.

There every expectation is an integral that can be done. The two sides of a line are found in different ways: on a grid
over the whole latent space, fine where the posterior is; by Gauss and Legendre's rule, over the whole space and along
q(z|x) by its reparameterization; and in closed form. So a line is a check of both.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.distributions import Normal, kl_divergence
from jaxvae.model import VAE
from jaxvae.numerics import require
from jaxvae.typing import Array, Params

Tick = Callable[[int], None]

_REACH = 8.0  # standard deviations: what lies outside weighs less than 1e-14
_STEP, _PER_STD = 0.05, 2.0  # the grid's step, at most: and its points in the narrowest q's standard deviation
_MOST = 1_000_000  # points of the grid
_LIGHT = math.log(1e-10)  # of the heaviest cell: cells below it are not worth dividing
_FINE = 60_000  # points that an example's heavy cells are divided into
_PANELS, _NODES = 24, 8  # of the quadrature along q, in each dimension
_PANEL_STDS, _PANEL = 2.5, 0.125  # a panel over the whole space: in the narrowest q's standard deviation, and at most
_CHUNK = 2048


class Line(NamedTuple):
    """One line of the derivation, for each of B examples, in nats."""

    text: str
    left: np.ndarray  # [B]
    right: np.ndarray  # [B]
    sign: str = "="  # or "≥"

    @property
    def disagreement(self) -> float:
        """The largest |left - right| of an equation; of an inequality, by how much it is violated at the most."""
        difference = self.left - self.right
        return float(np.max(np.abs(difference) if self.sign == "=" else np.maximum(-difference, 0.0)))


class Derivation(NamedTuple):
    """All lines, and what they are made of: [B] each, in nats."""

    log_evidence: np.ndarray  # log p(x), by the grid
    elbo: np.ndarray  # by quadrature along q, and the closed-form KL
    gap: np.ndarray  # KL(q(z|x) || p(z|x)), by the grid
    lines: list[Line]
    num_points: int  # of the grid, for all examples

    @property
    def disagreement(self) -> float:
        """The largest of the lines', nats."""
        return max(line.disagreement for line in self.lines)


class _OnGrid(NamedTuple):
    log_evidence: np.ndarray  # [B]  log ∫ p(x, z) dz
    mass: np.ndarray  # [B]  ∫ q dz
    log_q: np.ndarray  # [B]  ∫ q log q dz
    log_joint: np.ndarray  # [B]  ∫ q log p(x, z) dz
    num_points: int


class _AlongQ(NamedTuple):
    log_q: np.ndarray  # [B]  E_q[log q(z|x)]
    log_likelihood: np.ndarray  # [B]  E_q[log p(x|z)]
    log_prior: np.ndarray  # [B]  E_q[log p(z)]


def derive(model: VAE, params: Params, x: Array, *, tick: Tick = lambda num: None) -> Derivation:
    """The derivation for the examples x [B, *event], as the likelihood takes them.

    Args:
      model: with one or two latents, a diagonal Gaussian posterior, and a prior with a density.
      params: its parameters.
      x: a few examples.
      tick: is called with the points that were decoded since its last call.

    Raises:
      ValueError: the model is of another kind, or a posterior is so narrow that no grid of a feasible size sees it.
    """
    q = model.encode(params, x)
    check(model, q)
    grid = _on_grid(model, params, q, x, tick)
    along = _along_q(model, params, q, x, tick)
    log_p_x = _log_evidence_by_panels(model, params, q, x, tick)  # the grid, which makes the gap, never saw it
    entropy = 0.5 * np.sum(math.log(2 * math.pi * math.e) + np.asarray(q.log_var, np.float64), axis=-1)
    kl_prior = np.asarray(kl_divergence(q, model.prior_distribution(params)), np.float64)

    gap = grid.log_q - grid.log_joint + grid.mass * grid.log_evidence
    log_joint = along.log_likelihood + along.log_prior
    elbo = along.log_likelihood - kl_prior
    lines = [
        Line("log p(x) = log ∫ p(x|z) p(z) dz", grid.log_evidence, log_p_x),
        Line("KL(q ‖ p(z|x)) = E[log q(z|x) / p(z|x)]", gap, along.log_q - (log_joint - log_p_x)),
        Line("              = E[log q(z|x)] − E[log p(z|x)]", gap, -entropy - (log_joint - log_p_x)),
        Line("              = E[log q(z|x)] − E[log p(z, x) / p(x)]", gap, -entropy - (log_joint - log_p_x)),
        Line(
            "              = E[log q(z|x)] − E[log p(z, x)] + E[log p(x)]",
            gap,
            along.log_q - log_joint + grid.mass * log_p_x,
        ),
        Line("E[log p(x)] = log p(x), since ∫ q(z|x) dz = 1", grid.mass * grid.log_evidence, log_p_x),
        Line("KL(q ‖ p(z|x)) = E[log q(z|x)] − E[log p(z, x)] + log p(x)", gap, along.log_q - log_joint + log_p_x),
        Line("KL(q ‖ p(z|x)) ≥ 0", gap, np.zeros_like(gap), "≥"),
        Line("log p(x) = −E[log q(z|x)] + E[log p(z, x)] + KL(q ‖ p(z|x))", log_p_x, entropy + log_joint + gap),
        Line("log p(x) ≥ −E[log q(z|x)] + E[log p(z, x)] = ELBO", log_p_x, entropy + log_joint, "≥"),
        Line("ELBO = −E[log q(z|x)] + E[log p(z, x)]", elbo, entropy + log_joint),
        Line(
            "     = −E[log q(z|x)] + E[log p(x|z)] + E[log p(z)]",
            elbo,
            -along.log_q + along.log_likelihood + along.log_prior,
        ),
        Line(
            "     = E[log p(x|z)] − E[log q(z|x) / p(z)]",
            elbo,
            along.log_likelihood - (along.log_q - along.log_prior),
        ),
        Line("E[log q(z|x) / p(z)] = KL(q ‖ p(z)), its closed form", along.log_q - along.log_prior, kl_prior),
        Line("log p(x) = ELBO + KL(q ‖ p(z|x))", log_p_x, elbo + gap),
    ]
    return Derivation(grid.log_evidence, elbo, gap, lines, grid.num_points)


def check(model: VAE, q: Any) -> None:
    """Refuses a model whose integrals can't be done here.

    Args:
      model: the model.
      q: its posterior, of any batch, or of shapes alone.

    Raises:
      ValueError: it has more than two latents, or its posterior is no diagonal Gaussian.
    """
    require(
        model.latent_dim <= 2,
        f"the model has {model.latent_dim} latents, and integrals over more than 2 can't be done on a grid; train one "
        "with --config.model.latent_dim=2",
    )
    require(isinstance(q, Normal), f"q(z|x) is a {type(q).__name__}; write posterior=DiagonalGaussian()")


def _axes(q: Normal) -> list[np.ndarray]:
    """The middles of the grid's cells in each dimension: all of N(0, I), and all of every posterior."""
    mean, std = np.asarray(q.mean, np.float64), np.asarray(q.std, np.float64)
    low = np.minimum(-_REACH, (mean - _REACH * std).min(axis=0))
    high = np.maximum(_REACH, (mean + _REACH * std).max(axis=0))
    step = np.minimum(std.min(axis=0) / _PER_STD, _STEP)
    counts = np.ceil((high - low) / step).astype(int) + 1
    num = math.prod(counts.tolist())
    extent = " by ".join(f"{b - a:.3g}" for a, b in zip(low, high, strict=True))
    require(
        num <= _MOST,
        f"posteriors as narrow as a standard deviation of {std.min():.2g} in a latent space of {extent} need a grid of "
        f"{num:,} points, and {_MOST:,} can be done; write other examples, or train a model with a smaller rate, such "
        "as one with a larger variance of p(x|z)",
    )
    return [a + s * np.arange(n) for a, s, n in zip(low, step, counts, strict=True)]


def _product(*axes: np.ndarray) -> np.ndarray:
    """All points [N, D] with an entry of each of D axes."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _chunks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Pieces of one length, the last filled up with zeros: what is compiled for one serves all."""
    for start in range(0, len(arrays[0]), _CHUNK):
        parts = [a[start : start + _CHUNK] for a in arrays]
        yield tuple(np.concatenate([p, np.zeros((_CHUNK - len(p), *p.shape[1:]), p.dtype)]) for p in parts)


def _on_grid(model: VAE, params: Params, q: Normal, x: Array, tick: Tick) -> _OnGrid:
    """Sums over the middles of cells: over a regular grid, the cells that weigh something divided further."""

    @jax.jit
    def terms(params: Params, z: Array, x: Array, q: Normal) -> tuple[Array, Array]:
        log_joint = model.decode(params, z).log_prob(x[:, None]) + model.prior_distribution(params).log_prob(z)[None]
        return log_joint, q.log_prob(z[:, None]).T  # [B, chunk] each

    def at(z: np.ndarray, x: Array, q: Normal) -> tuple[np.ndarray, np.ndarray]:
        """log p(x, z) and log q(z|x), [B, len(z)] each."""
        parts = []
        for (points,) in _chunks(z.astype(np.float32)):
            parts.append([np.asarray(a, np.float64) for a in terms(params, jnp.asarray(points), x, q)])
            tick(len(points))
        log_joint, log_q = (np.concatenate(a, axis=1)[:, : len(z)] for a in zip(*parts, strict=True))
        return log_joint, log_q

    axes = _axes(q)
    steps = np.array([axis[1] - axis[0] for axis in axes])
    cells = _product(*axes)
    whole_joint, whole_q = at(cells, x, q)
    sums, num_points = [], len(cells)
    for i, (log_joint, log_q) in enumerate(zip(whole_joint, whole_q, strict=True)):
        heavy = (log_joint > log_joint.max() + _LIGHT) | (log_q > log_q.max() + _LIGHT)
        parts = max(1, int((_FINE / heavy.sum()) ** (1 / len(axes))))
        sub = _product(*[np.arange(parts)] * len(axes))
        fine = (cells[heavy][:, None] + steps * ((sub + 0.5) / parts - 0.5)).reshape(-1, len(axes))
        (fine_joint,), (fine_q,) = at(fine, x[i : i + 1], Normal(q.mean[i : i + 1], q.log_var[i : i + 1]))
        log_cell = np.log(steps).sum()
        log_fine = log_cell - len(axes) * math.log(parts)
        light = _log_sum(log_joint[~heavy]) + log_cell
        weight = np.concatenate([np.exp(log_q[~heavy] + log_cell), np.exp(fine_q + log_fine)])
        sums.append(
            (
                np.logaddexp(light, _log_sum(fine_joint) + log_fine),
                weight.sum(),
                weight @ np.concatenate([log_q[~heavy], fine_q]),
                weight @ np.concatenate([log_joint[~heavy], fine_joint]),
            )
        )
        num_points += len(fine)
    log_evidence, mass, log_q, log_joint = np.array(sums).T
    return _OnGrid(log_evidence, mass, log_q, log_joint, num_points)


def _panels(q: Normal) -> tuple[np.ndarray, np.ndarray]:
    """The lower corners [P, D] and the widths [D] of panels that cover the grid's extent."""
    narrowest = np.asarray(q.std, np.float64).min(axis=0)
    starts, widths = [], []
    for axis, std in zip(_axes(q), narrowest, strict=True):
        num = math.ceil((axis[-1] - axis[0]) / min(_PANEL, _PANEL_STDS * std))
        widths.append((axis[-1] - axis[0]) / num)
        starts.append(axis[0] + widths[-1] * np.arange(num))
    return _product(*starts), np.array(widths)


def _legendre(parts: int, num: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [M, dim] and weights [M] of Gauss and Legendre's rule of `num` nodes on each of `parts` of [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num)
    points = ((np.arange(parts)[:, None] + 0.5 + nodes / 2) / parts).ravel()
    shares = np.tile(weights / (2 * parts), parts)
    return _product(*[points] * dim), _product(*[shares] * dim).prod(axis=1)


def _log_evidence_by_panels(model: VAE, params: Params, q: Normal, x: Array, tick: Tick) -> np.ndarray:
    """log ∫ p(x, z) dz once more, [B]: by another rule, whose points and weights know nothing of the grid's."""

    @jax.jit
    def terms(params: Params, z: Array, x: Array) -> Array:
        return model.decode(params, z).log_prob(x[:, None]) + model.prior_distribution(params).log_prob(z)[None]

    def integrals(corners: np.ndarray, unit: np.ndarray, weight: np.ndarray, x: Array) -> np.ndarray:
        """log ∫ p(x, z) dz over each panel, [B, P]."""
        z = (corners[:, None] + widths * unit).reshape(-1, len(widths))
        parts = []
        for (points,) in _chunks(z.astype(np.float32)):
            parts.append(np.asarray(terms(params, jnp.asarray(points), x), np.float64))
            tick(len(points))
        values = np.concatenate(parts, axis=1)[:, : len(z)].reshape(len(x), len(corners), len(unit))
        largest = values.max(axis=-1, keepdims=True)
        return np.log(np.exp(values - largest) @ weight) + largest[..., 0] + np.log(widths).sum()

    corners, widths = _panels(q)
    whole = integrals(corners, *_legendre(1, _NODES, len(widths)), x)
    fine = _legendre(4, 5, len(widths))
    total = []
    for i, panels in enumerate(whole):
        heavy = panels > panels.max() + _LIGHT
        (divided,) = integrals(corners[heavy], *fine, x[i : i + 1])
        total.append(np.logaddexp(_log_sum(panels[~heavy]), _log_sum(divided)))
    return np.array(total)


def _along_q(model: VAE, params: Params, q: Normal, x: Array, tick: Tick) -> _AlongQ:
    """E_q[f(z)] as the integral of f(mean + std · ε) over ε ~ N(0, I), by Gauss and Legendre's rule on panels."""

    @jax.jit
    def terms(params: Params, example: Array, q: Normal, epsilon: Array) -> tuple[Array, Array, Array]:
        z = q.mean[None] + q.std[None] * epsilon
        log_likelihood = model.decode(params, z).log_prob(example[None])
        return q.log_prob(z), log_likelihood, model.prior_distribution(params).log_prob(z)

    unit, weight = _legendre(_PANELS, _NODES, model.latent_dim)
    epsilon = _REACH * (2 * unit - 1)
    weight = weight * np.exp(-0.5 * np.sum(epsilon**2, axis=1))
    keep = weight > 1e-16 * weight.max()
    totals = np.zeros((3, len(x)))
    for i in range(len(x)):
        q_i = Normal(q.mean[i], q.log_var[i])
        for e, w in _chunks(epsilon[keep], weight[keep]):
            values = terms(params, x[i], q_i, jnp.asarray(e, jnp.float32))
            totals[:, i] += [np.asarray(v, np.float64) @ w for v in values]
            tick(len(e))
    return _AlongQ(*(totals / weight[keep].sum()))


def _log_sum(log_values: np.ndarray) -> float:
    """log Σ exp, in float64."""
    if len(log_values) == 0:
        return -math.inf
    largest = log_values.max()
    return float(largest + np.log(np.exp(log_values - largest).sum()))


def num_decodings(q: Normal) -> int:
    """About how many points `derive` decodes, for a progress bar."""
    num, dim = q.mean.shape
    whole = math.prod(len(axis) for axis in _axes(q)) + len(_panels(q)[0]) * _NODES**dim
    return whole + num * (_FINE + (_PANELS * _NODES) ** dim)
