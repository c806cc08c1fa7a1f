"""Closed forms of KL(q || p)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxvae import numerics
from jaxvae.checks import require
from jaxvae.distributions.composed import Delta
from jaxvae.distributions.gaussian import LowRankNormal, MultivariateNormal, Normal
from jaxvae.distributions.sphere import UniformOnSphere, VonMisesFisher, log_area
from jaxvae.typing import Array, Distribution


def _kl_by_entry_normal_normal(q: Normal, p: Normal) -> Array:
    return numerics.normal_kl(*numerics.aligned(q.mean, q.log_var, p.mean, p.log_var))


def _kl_normal_normal(q: Normal, p: Normal) -> Array:
    return numerics.sum_last(_kl_by_entry_normal_normal(q, p), q.event_ndims)


def _kl_correlated_normal(q: MultivariateNormal | LowRankNormal, p: Normal) -> Array:
    """The KL of the marginals plus the total correlation of q; neither is negative."""
    marginals = q.marginals
    total_correlation = 0.5 * numerics.not_negative(jnp.sum(marginals.log_var, axis=-1) - q.log_det)
    return _kl_normal_normal(marginals, p) + total_correlation


def _kl_delta(q: Delta, p: Distribution) -> Array:
    return q.log_prob(q.value)


def _kl_von_mises_fisher_uniform(q: VonMisesFisher, p: UniformOnSphere) -> Array:
    """Davidson et al. (2018), section 3."""
    return numerics.not_negative(q.concentration * q.mean_cosine_less_one - q.log_constant + log_area(p.dim))


# Closed forms by the types of q and p (`object`: any p). For other pairs the KL is None, and an objective that asks for
# a closed form raises an error.
CLOSED_FORM_KL: dict[tuple[type, type], Callable[[Any, Any], Array]] = {
    (Normal, Normal): _kl_normal_normal,
    (MultivariateNormal, Normal): _kl_correlated_normal,
    (LowRankNormal, Normal): _kl_correlated_normal,
    (VonMisesFisher, UniformOnSphere): _kl_von_mises_fisher_uniform,
    (Delta, object): _kl_delta,
}


def kl_divergence(q: Distribution, p: Distribution) -> Array | None:
    """KL(q || p) in nats, [*batch]; None where `CLOSED_FORM_KL` has no entry for the two types.

    Raises:
      ValueError: q or p is not a distribution.
    """
    _require_distributions(q, p)
    closed_form = CLOSED_FORM_KL.get((type(q), type(p))) or CLOSED_FORM_KL.get((type(q), object))
    return None if closed_form is None else closed_form(q, p)


# The closed forms that are sums over the entries of the event, since both distributions have independent entries.
KL_BY_ENTRY: dict[tuple[type, type], Callable[[Any, Any], Array]] = {(Normal, Normal): _kl_by_entry_normal_normal}


def kl_per_dimension(q: Distribution, p: Distribution) -> Array | None:
    """KL(q || p) in nats for each entry of the event, [*batch, D]; the entries add up to `kl_divergence`.

    None where `KL_BY_ENTRY` has no entry for the two types: their KL is not such a sum.

    Raises:
      ValueError: q or p is not a distribution.
    """
    _require_distributions(q, p)
    by_entry = KL_BY_ENTRY.get((type(q), type(p)))
    return None if by_entry is None else by_entry(q, p)


def _require_distributions(q: object, p: object) -> None:
    for name, given in (("q", q), ("p", p)):
        require(
            hasattr(given, "sample"),
            f"{name} is a {type(given).__name__}, not a distribution; write one, such as model.encode(params, x) or "
            "model.prior_distribution(params)",
        )
