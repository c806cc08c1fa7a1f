"""The lines of the derivation."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae.checks import require
from jaxvae.derivation import grid, quadrature
from jaxvae.derivation.points import axes_of
from jaxvae.distributions import Normal, kl_divergence
from jaxvae.model import VAE
from jaxvae.priors import StandardNormal
from jaxvae.typing import Array, Params, Tick


class Line(NamedTuple):
    """One line of the derivation, for each of B examples, in nats."""

    text: str
    left: np.ndarray  # [B]
    right: np.ndarray  # [B]
    sign: str = "="  # or "≥"

    @property
    def disagreement(self) -> float:
        """The largest |left - right| of an equation, or the largest violation of an inequality."""
        difference = self.left - self.right
        return float(np.max(np.abs(difference) if self.sign == "=" else np.maximum(-difference, 0.0)))


class Derivation(NamedTuple):
    """All lines, and the quantities in them: [B] each, in nats."""

    log_evidence: np.ndarray  # log p(x), by the grid
    elbo: np.ndarray  # by quadrature along q and the closed-form KL
    gap: np.ndarray  # KL(q(z|x) || p(z|x)), by the grid
    lines: list[Line]
    num_points: int  # of the grid, for all examples

    @property
    def disagreement(self) -> float:
        """The largest disagreement of the lines, in nats."""
        return float(np.max([line.disagreement for line in self.lines]))


def derive(model: VAE, params: Params, x: Array, *, tick: Tick = lambda num: None) -> Derivation:
    """The derivation for the examples x [B, *event], as the likelihood takes them.

    Args:
      model: with one or two latents, a diagonal Gaussian posterior, and the standard normal prior.
      params: its parameters.
      x: a few examples.
      tick: called with the number of points decoded since its last call.

    Raises:
      ValueError: the model is of another kind, there are no examples, a posterior is too narrow or too far away for a
        grid of feasible size, or q(z|x) or log p(x|z) is not a number.
    """
    require(len(x) > 0, "there are no examples")
    with jax.default_matmul_precision("highest"):  # an accelerator's default is too imprecise here
        q = model.encode(params, x)
        check(model, q)
        on_grid = grid.on_grid(model, params, q, x, tick)
        along = quadrature.along_q(model, params, q, x, tick)
        # Computed without the grid, which gives the gap.
        log_p_x = quadrature.log_evidence_by_panels(model, params, q, x, tick)
    entropy = 0.5 * np.sum(math.log(2 * math.pi * math.e) + np.asarray(q.log_var, np.float64), axis=-1)
    kl_prior = np.asarray(kl_divergence(q, model.prior_distribution(params)), np.float64)

    gap = on_grid.log_q - on_grid.log_joint + on_grid.mass * on_grid.log_evidence
    log_joint = along.log_likelihood + along.log_prior
    elbo = along.log_likelihood - kl_prior
    lines = [
        Line("log p(x) = log ∫ p(x|z) p(z) dz", on_grid.log_evidence, log_p_x),
        Line("KL(q ‖ p(z|x)) = E[log q(z|x) / p(z|x)]", gap, along.log_q - (log_joint - log_p_x)),
        Line("              = E[log q(z|x)] − E[log p(z|x)]", gap, -entropy - (log_joint - log_p_x)),
        Line("              = E[log q(z|x)] − E[log p(z, x) / p(x)]", gap, -entropy - (log_joint - log_p_x)),
        Line(
            "              = E[log q(z|x)] − E[log p(z, x)] + E[log p(x)]",
            gap,
            along.log_q - log_joint + on_grid.mass * log_p_x,
        ),
        Line("E[log p(x)] = log p(x), since ∫ q(z|x) dz = 1", on_grid.mass * on_grid.log_evidence, log_p_x),
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
        Line("E[log q(z|x) / p(z)] = KL(q ‖ p(z)), in closed form", along.log_q - along.log_prior, kl_prior),
        Line("log p(x) = ELBO + KL(q ‖ p(z|x))", log_p_x, elbo + gap),
    ]
    return Derivation(on_grid.log_evidence, elbo, gap, lines, on_grid.num_points)


def check(model: VAE, q: Any) -> None:
    """Refuses a model whose integrals cannot be computed here.

    Args:
      model: the model.
      q: its posterior for any batch; shapes instead of arrays will do.

    Raises:
      ValueError: it has more than two latents, its posterior is not a diagonal Gaussian, or its prior is not N(0, I).
    """
    require(
        model.latent_dim <= 2,
        f"the model has {model.latent_dim} latents, and integrals over more than 2 can't be done on a grid; train one "
        "with --config.model.latent_dim=2",
    )
    require(isinstance(q, Normal), f"q(z|x) is a {type(q).__name__}; write posterior=DiagonalGaussian()")
    # Any other prior has no closed-form KL, or has mass outside the grid.
    require(
        isinstance(model.prior, StandardNormal),
        f"p(z) is a {type(model.prior).__name__}, but the derivation needs N(0, I); write prior=StandardNormal()",
    )


def num_decodings(q: Normal) -> int:
    """The approximate number of points that `derive` decodes, for a progress bar."""
    num, dim = q.mean.shape
    whole = math.prod(len(axis) for axis in axes_of(q)) + quadrature.num_points(q)
    return whole + num * (grid.FINE + quadrature.num_points_along(dim))
