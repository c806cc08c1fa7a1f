"""Integrals over the whole latent space, by sums over the midpoints of a grid's cells."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.checks import require
from jaxvae.derivation.points import LIGHT, axes_of, chunks, log_sum, product
from jaxvae.distributions import Normal
from jaxvae.model import VAE
from jaxvae.typing import Array, Params, Tick

FINE = 60_000  # points that an example's heavy cells are divided into


class OnGrid(NamedTuple):
    log_evidence: np.ndarray  # [B]  log ∫ p(x, z) dz
    mass: np.ndarray  # [B]  ∫ q dz
    log_q: np.ndarray  # [B]  ∫ q log q dz
    log_joint: np.ndarray  # [B]  ∫ q log p(x, z) dz
    num_points: int


def on_grid(model: VAE, params: Params, q: Normal, x: Array, tick: Tick) -> OnGrid:
    """Sums over the midpoints of a regular grid's cells, of which those with noticeable mass are subdivided."""

    @jax.jit
    def terms(params: Params, z: Array, x: Array, q: Normal) -> tuple[Array, Array]:
        log_joint = model.decode(params, z).log_prob(x[:, None]) + model.prior_distribution(params).log_prob(z)[None]
        return log_joint, q.log_prob(z[:, None]).T  # [B, chunk] each

    def at(z: np.ndarray, x: Array, q: Normal) -> tuple[np.ndarray, np.ndarray]:
        """log p(x, z) and log q(z|x), [B, len(z)] each."""
        parts = []
        for (points,) in chunks(z.astype(np.float32)):
            parts.append([np.asarray(a, np.float64) for a in terms(params, jnp.asarray(points), x, q)])
            tick(len(points))
        log_joint, log_q = (np.concatenate(a, axis=1)[:, : len(z)] for a in zip(*parts, strict=True))
        return log_joint, log_q

    axes = axes_of(q)
    steps = np.array([axis[1] - axis[0] for axis in axes])
    cells = product(*axes)
    whole_joint, whole_q = at(cells, x, q)
    require(not np.isnan(whole_joint).any(), "log p(x|z) is NaN for some z: the decoder's outputs are not finite")
    sums, num_points = [], len(cells)
    for i, (log_joint, log_q) in enumerate(zip(whole_joint, whole_q, strict=True)):
        heavy = (log_joint > log_joint.max() + LIGHT) | (log_q > log_q.max() + LIGHT)
        parts = max(1, int((FINE / heavy.sum()) ** (1 / len(axes))))
        sub = product(*[np.arange(parts)] * len(axes))
        fine = (cells[heavy][:, None] + steps * ((sub + 0.5) / parts - 0.5)).reshape(-1, len(axes))
        (fine_joint,), (fine_q,) = at(fine, x[i : i + 1], Normal(q.mean[i : i + 1], q.log_var[i : i + 1]))
        log_cell = np.log(steps).sum()
        log_fine = log_cell - len(axes) * math.log(parts)
        light = log_sum(log_joint[~heavy]) + log_cell
        weight = np.concatenate([np.exp(log_q[~heavy] + log_cell), np.exp(fine_q + log_fine)])
        sums.append(
            (
                np.logaddexp(light, log_sum(fine_joint) + log_fine),
                weight.sum(),
                weight @ np.concatenate([log_q[~heavy], fine_q]),
                weight @ np.concatenate([log_joint[~heavy], fine_joint]),
            )
        )
        num_points += len(fine)
    log_evidence, mass, log_q, log_joint = np.array(sums).T
    return OnGrid(log_evidence, mass, log_q, log_joint, num_points)
