"""NumPyro's distributions, unchanged, as priors and as likelihoods."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import jaxvae as jv
from jaxvae.likelihoods import Likelihood
from jaxvae.typing import Support

EVENT, B, D = (6,), 4, 3


@dataclasses.dataclass(frozen=True)
class LaplacePrior(jv.priors.OverVectors):
    def init(self, key, latent_dim, seen):
        return {"log_scale": jnp.zeros(latent_dim)}

    def distribution(self, params, latent_dim, encode):
        return dist.Laplace(0.0, jnp.exp(params["log_scale"])).to_event(1)


@dataclasses.dataclass(frozen=True)
class StudentPrior(jv.priors.OverVectors):
    def init(self, key, latent_dim, seen):
        return {}

    def distribution(self, params, latent_dim, encode):
        return dist.MultivariateStudentT(5.0, jnp.zeros(latent_dim), jnp.eye(latent_dim))


@dataclasses.dataclass(frozen=True)
class NormalPrior(LaplacePrior):
    def distribution(self, params, latent_dim, encode):
        return dist.Normal(jnp.zeros(latent_dim), 1.0).to_event(1)


@dataclasses.dataclass(frozen=True)
class Poisson(Likelihood):
    @property
    def support(self):
        return Support(0.0, float("inf"), integer=True)

    def param_size(self, channels):
        return channels

    def distribution(self, params, outputs, event_ndims):
        return dist.Poisson(jnp.exp(outputs)).to_event(event_ndims)

    def initial_outputs(self, data_mean):
        return jnp.log(jnp.maximum(data_mean, 1e-3))


@pytest.fixture(autouse=True)
def numpyros_ranks():
    """Allows arrays of different ranks to broadcast, as NumPyro needs."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(
    "choices",
    [
        {"prior": LaplacePrior()},
        pytest.param({"prior": StudentPrior()}, marks=pytest.mark.long),
        {"likelihood": Poisson()},
    ],
    ids=str,
)
def test_it_trains_evaluates_and_generates(choices, key):
    model = jv.VAE(latent_dim=D, event_shape=EVENT, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,)), **choices)
    x = jax.random.bernoulli(key, 0.4, (B, *EVENT)).astype(jnp.float32)
    params = jax.jit(model.init)(key, data_mean=x.mean(0))
    objective = jv.ELBO(closed_form_kl="prior" not in choices, num_samples=2)
    loss = lambda params: -objective(model.evidence(params, key, x, num_samples=2)).mean()  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert jnp.isfinite(value)
    chex.assert_tree_all_finite(grads)
    terms = jv.make_evaluator(model)(params, key, x, num_importance_samples=7)
    assert np.isfinite(terms.log_evidence).all()
    for sample in (True, False):
        new = jax.jit(lambda params: model.generate(params, key, num=5, sample=sample))(params)  # noqa: B023
        chex.assert_shape(new, (5, *EVENT))


def test_numpyros_standard_normal_is_ours(key):
    """The same evidence, draw for draw."""
    own = jv.VAE(latent_dim=D, event_shape=EVENT, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,)))
    theirs = dataclasses.replace(own, prior=NormalPrior())
    x = jax.random.bernoulli(key, 0.4, (B, *EVENT)).astype(jnp.float32)
    params = [jax.jit(model.init)(key) for model in (own, theirs)]
    pairs = list(zip((own, theirs), params, strict=True))
    a, b = (jax.jit(lambda p, m=m: m.evidence(p, key, x, num_samples=3).log_weights)(p) for m, p in pairs)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    a, b = (jv.make_evaluator(m)(p, key, x, num_importance_samples=5).log_evidence for m, p in pairs)
    np.testing.assert_allclose(a, b, rtol=1e-5)
