"""Gradient estimators: how the gradient of an objective reaches the parameters of q(z|x).

Each is a function `(model, objective, params, key, x) -> (bound [B], Evidence)`. The value is always that of the
objective; an estimator changes only its gradient under `jax.grad`.

With log w_k = log p(x, z_k) - log q(z_k|x), the parameters φ of q enter an objective twice: through the draws z_k and
through the density. The gradient through the density, the score term, has expectation 0 or can also be estimated
through the draws. The estimators differ in how they use that.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae.checks import require
from jaxvae.distributions import sample_and_log_prob
from jaxvae.objectives import ELBO, Evidence, Objective, OfWeights
from jaxvae.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Estimator(abc.ABC):
    """An estimator of an objective's gradient from draws of q(z|x)."""

    def check(self, objective: Objective, posterior: Any) -> None:
        """Checks that the estimator applies to this objective and this family of q(z|x).

        Raises:
          ValueError: it does not; the message says what to write.
        """
        self._check(objective, posterior)
        require(
            posterior.has_density or not objective.needs_density,
            f"{_name(objective)} weighs draws by the density q(z|x), but {_name(posterior)} has none; write "
            "objective=ELBO()",
        )

    def __call__(self, model: Any, objective: Objective, params: Params, key: Key, x: Array) -> tuple[Array, Evidence]:
        """The objective of a batch x [B, *event], to be differentiated with respect to `params`.

        Args:
          model: a `jaxvae.VAE`.
          objective: the objective to maximise, which sets the number of draws.
          params: the model's parameters.
          key: the only source of randomness.
          x: [B, *event].

        Returns:
          The objective [B], whose gradient is the estimate, and what it was computed from, which has no gradient.

        Raises:
          ValueError: see `check`.
        """
        self.check(objective, model.posterior)
        bound, evidence = self._estimate(model, objective, params, key, x)
        return bound, jax.lax.stop_gradient(evidence)

    @abc.abstractmethod
    def _check(self, objective: Objective, posterior: Any) -> None:
        """Checks what this estimator requires, besides what the objective does."""

    @abc.abstractmethod
    def _estimate(
        self, model: Any, objective: Objective, params: Params, key: Key, x: Array
    ) -> tuple[Array, Evidence]: ...


@dataclasses.dataclass(frozen=True)
class Pathwise(Estimator):
    """Gradients through draws and density: the lecture's reparameterization; Kingma and Welling (2014), section 2.3."""

    def _check(self, objective: Objective, posterior: Any) -> None:
        """Every objective has this gradient."""

    def _estimate(self, model: Any, objective: Objective, params: Params, key: Key, x: Array) -> tuple[Array, Evidence]:
        evidence = model.evidence(params, key, x, num_samples=objective.num_samples)
        bound = objective(evidence)
        if objective.for_posterior is objective:
            return bound, evidence
        # Two gradients from one forward pass: one for the model's parameters, one for those of q(z|x).
        q, z = jax.lax.stop_gradient((evidence.posterior, evidence.z))
        log_q = evidence.log_posterior
        generative = objective(model.weigh(params, q, z, x, log_posterior=jax.lax.stop_gradient(log_q)))
        inference = objective.for_posterior(
            model.weigh(jax.lax.stop_gradient(params), evidence.posterior, evidence.z, x, log_posterior=log_q)
        )
        return _with_gradient(bound, generative + inference), evidence


@dataclasses.dataclass(frozen=True)
class StickingTheLanding(Estimator):
    """Gradients through the draws alone: the score of q, whose mean is 0, is left out; Roeder et al. (2017), eq. 5.

    If q(z|x) equals the posterior, its part of the gradient is 0 for every draw, not only in the mean.
    """

    def _check(self, objective: Objective, posterior: Any) -> None:
        _require_density(self, posterior)
        of_weights = isinstance(objective, OfWeights) and objective.for_posterior is objective
        unbiased = DoublyReparameterized() if of_weights else Pathwise()
        require(
            isinstance(objective, ELBO),
            f"StickingTheLanding is for ELBO, where the mean of the score is 0, and not for {_name(objective)}; write "
            f"estimator={unbiased}",
        )
        require(
            objective.needs_density,
            "StickingTheLanding needs the KL to be estimated from the draws; write ELBO(closed_form_kl=False)",
        )

    def _estimate(self, model: Any, objective: Objective, params: Params, key: Key, x: Array) -> tuple[Array, Evidence]:
        q = model.encode(params, x)
        z, log_q = sample_and_log_prob(q, key, (objective.num_samples,))
        evidence = _weighed_at(model, params, jax.lax.stop_gradient(q), z, x, log_q)
        return objective(evidence), evidence


@dataclasses.dataclass(frozen=True)
class DoublyReparameterized(Estimator):
    """Gradients through the draws alone, which also express the score term; Tucker et al. (2019), eq. 8.

    For an objective L of the log-weights, ∂L/∂log w_k · ∇ log q(z_k) has the same mean as ∂²L/∂(log w_k)² ·
    ∂log w_k/∂z_k · ∂z_k/∂φ. So the gradient through z_k has the weight ∂L/∂log w_k - ∂²L/∂(log w_k)²: the squared
    normalized importance weight in IWAE, 1/K in an average. The gradient for the model's own parameters has the weight
    ∂L/∂log w_k. The gradient with respect to x is not that of the bound: only its path through q(z|x) is followed.
    """

    def _check(self, objective: Objective, posterior: Any) -> None:
        _require_density(self, posterior)
        require(
            not isinstance(objective, ELBO),
            "for an ELBO, DoublyReparameterized is sticking the landing; write estimator=StickingTheLanding() and "
            "objective=ELBO(closed_form_kl=False)",
        )
        require(
            isinstance(objective, OfWeights),
            f"DoublyReparameterized needs an objective of the log-weights, which {_name(objective)} is not; "
            "write estimator=Pathwise()",
        )
        _require_one_gradient(self, objective)

    def _estimate(self, model: Any, objective: Objective, params: Params, key: Key, x: Array) -> tuple[Array, Evidence]:
        assert isinstance(objective, OfWeights)
        q = model.encode(params, x)
        z, log_q = sample_and_log_prob(q, key, (objective.num_samples,))
        q, log_q = jax.lax.stop_gradient((q, log_q))
        return _in_two_stages(model, objective)(params, z, q, log_q, x)


@dataclasses.dataclass(frozen=True)
class ScoreFunction(Estimator):
    """Gradients through the density alone, with a leave-one-out baseline: what reparameterization replaces.

    The score ∇ log q(z_k|x) is weighted by the objective minus its value with the k-th draw replaced by the mean of the
    others. For the ELBO this is the baseline of Kool et al. (2019), for IWAE that of Mnih and Rezende (2016), eq. 8. It
    needs no derivative of log p(x|z) with respect to z, at the cost of a larger variance.
    """

    def _check(self, objective: Objective, posterior: Any) -> None:
        _require_density(self, posterior)
        require(
            isinstance(objective, ELBO | OfWeights),
            f"ScoreFunction is for ELBO and objectives of importance weights, and not for {_name(objective)}; write "
            "estimator=Pathwise()",
        )
        require(
            objective.num_samples >= 2,
            f"ScoreFunction compares a draw with others, but {_name(objective)} takes one; write num_samples=2 or more",
        )
        _require_one_gradient(self, objective)

    def _estimate(self, model: Any, objective: Objective, params: Params, key: Key, x: Array) -> tuple[Array, Evidence]:
        q = model.encode(params, x)
        z, log_q = jax.lax.stop_gradient(sample_and_log_prob(q, key, (objective.num_samples,)))
        evidence = _weighed_at(model, params, q, z, x, log_q)
        bound = objective(evidence)
        baseline = _without_each(objective, evidence)
        # Any number will do that does not depend on the draw itself: all the others may have weight 0.
        signal = jax.lax.stop_gradient(bound[None] - jnp.where(jnp.isfinite(baseline), baseline, 0.0))
        return _with_gradient(bound, bound + jnp.sum(signal * evidence.log_posterior, axis=0)), evidence


@jax.custom_jvp
def _with_gradient(value: Array, surrogate: Array) -> Array:
    """`value` to the last bit, with the gradient of `surrogate`."""
    return value


@_with_gradient.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[1]


def _weighed_at(model: Any, params: Params, q: Any, z: Array, x: Array, log_q: Array) -> Evidence:
    """`weigh` with log q(z|x) differentiable in z and q, and with its value `log_q` from drawing z.

    Far from the initial parameters, the inverse of a flow or of a covariance does not recover the draws exactly.
    """
    return model.weigh(params, q, z, x, log_posterior=_with_gradient(log_q, q.log_prob(z)))


def _in_two_stages(model: Any, objective: OfWeights) -> Callable[..., tuple[Array, Evidence]]:
    """`(params, z, q, log_q, x) -> (bound [B], Evidence)`, doubly reparameterized, without a gradient for q.

    The weight of the gradient through z_k is known once all importance weights are: after the model's forward pass and
    before its only backward pass.
    """

    @jax.custom_vjp
    def bound(params: Params, z: Array, q: Any, log_q: Array, x: Array) -> tuple[Array, Evidence]:
        evidence = model.weigh(params, q, z, x, log_posterior=log_q)
        return objective(evidence), evidence

    def forward(params: Params, z: Array, q: Any, log_q: Array, x: Array) -> tuple[tuple[Array, Evidence], Any]:
        def weigh(params: Params, z: Array) -> tuple[Array, Evidence]:
            evidence = _weighed_at(model, params, q, z, x, log_q)
            return evidence.log_weights, evidence

        log_weights, pull, evidence = jax.vjp(weigh, params, z, has_aux=True)
        slope, curvature = _slope_and_curvature(objective.of, log_weights)
        # Where the slope has vanished, nothing is pulled back and nothing needs scaling.
        scale = jnp.where(slope == 0.0, 0.0, 1.0 - curvature / jnp.where(slope == 0.0, 1.0, slope))
        return (objective.of(log_weights), evidence), (pull, slope, scale)

    def backward(residuals: Any, cotangents: tuple[Array, Evidence]) -> tuple[Params, Array, None, None, None]:
        pull, slope, scale = residuals
        to_params, to_z = pull(slope * cotangents[0][None])
        return to_params, (scale[..., None] * to_z).astype(to_z.dtype), None, None, None

    bound.defvjp(forward, backward)
    return bound


_AT_ONCE = 128  # draws that are each compared with all others


def _slope_and_curvature(of: Callable[[Array], Array], log_weights: Array) -> tuple[Array, Array]:
    """∂L/∂log w_k and ∂²L/∂(log w_k)² of an objective L of log-weights [K, B], both [K, B]."""
    slope_at = jax.grad(lambda log_weights: jnp.sum(of(log_weights)))

    def curvature(k: Array) -> Array:
        one = jnp.zeros_like(log_weights).at[k].set(1.0)
        return jax.jvp(slope_at, (log_weights,), (one,))[1][k]

    return slope_at(log_weights), _for_each_draw(curvature, log_weights.shape[0])


def _without_each(objective: Objective, evidence: Evidence) -> Array:
    """The objective with each draw in turn replaced by the mean of the others, [K, B]."""
    terms = {name: getattr(evidence, name) for name in ("log_likelihood", "log_prior", "log_posterior")}

    def without(k: Array) -> Array:
        def replaced(term: Array) -> Array:
            # Not the sum less one: of an outlier, or of minus infinity, that would leave something of the draw itself.
            others = jnp.sum(term.at[k].set(0.0), axis=0)
            return term.at[k].set(others / (term.shape[0] - 1))

        return objective(evidence._replace(**jax.tree.map(replaced, terms)))

    return _for_each_draw(without, evidence.log_posterior.shape[0])


def _for_each_draw(f: Callable[[Array], Array], num: int) -> Array:
    """f(k) for each of `num` draws, [num, ...]; computed in chunks, since each f(k) reads all draws."""
    return jax.lax.map(f, jnp.arange(num), batch_size=_AT_ONCE)


def _require_density(estimator: Estimator, posterior: Any) -> None:
    require(
        posterior.has_density,
        f"{_name(estimator)} needs the density q(z|x), but {_name(posterior)} has none; write estimator=Pathwise()",
    )


def _require_one_gradient(estimator: Estimator, objective: Objective) -> None:
    require(
        objective.for_posterior is objective,
        f"{_name(objective)} has two gradients, one for the model and one for q, but {_name(estimator)} gives one; "
        "write estimator=Pathwise()",
    )


def _name(choice: Any) -> str:
    return type(choice).__name__
