"""Densities that integrate to one, draws that follow them, and the KL table."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import jaxvae as jv
from jaxvae import numerics
from jaxvae.distributions import Bernoulli, Delta, Normal, kl_divergence, reparameterize
from jaxvae.typing import Distribution

GRID = jnp.linspace(-30, 30, 20001)


class ReparameterizeTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_it_is_mean_plus_std_times_the_keys_noise(self):
        mean, std = jnp.arange(6.0).reshape(2, 3), jnp.array([[0.5, 1.0, 2.0]])
        epsilon = jax.random.normal(jax.random.key(7), (2, 3))
        z = self.variant(reparameterize)(jax.random.key(7), mean, std)
        np.testing.assert_allclose(z, mean + std * epsilon, rtol=1e-6)

    def test_gradients_pass_through_mean_and_std(self):
        mean, std = jnp.ones(3), jnp.full(3, 2.0)
        grads = jax.grad(lambda m, s: reparameterize(jax.random.key(7), m, s).sum(), (0, 1))(mean, std)
        np.testing.assert_allclose(grads[0], jnp.ones(3))
        np.testing.assert_allclose(grads[1], jax.random.normal(jax.random.key(7), (3,)))


def test_every_distribution_has_numpyros_methods():
    for distribution in (Normal(GRID, GRID), Bernoulli(GRID), Delta(GRID)):
        assert isinstance(distribution, Distribution)


@pytest.mark.parametrize(("mean", "log_var"), [(0.0, 0.0), (2.0, 1.5), (-3.0, -2.0)])
def test_normal_integrates_to_one(mean, log_var):
    density = jnp.exp(Normal(jnp.full(1, mean), jnp.full(1, log_var)).log_prob(GRID[:, None]))
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=GRID), 1.0, atol=1e-5)


def test_bernoulli_sums_to_one():
    b = Bernoulli(jnp.array([-2.0, 0.3, 5.0]))
    everything = jnp.array([[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)])
    np.testing.assert_allclose(jnp.exp(b.log_prob(everything)).sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(b.variance, b.mean * (1 - b.mean), rtol=1e-5)


def test_draws_follow_the_density(key):
    n = Normal(jnp.array([1.0, -2.0]), jnp.array([0.7, -1.0]))
    draws = np.asarray(n.sample(key, (20_000,)))
    for d in range(2):
        assert scipy.stats.kstest(draws[:, d], scipy.stats.norm(n.mean[d], n.std[d]).cdf).pvalue > 1e-3
    b = Bernoulli(jnp.array([-1.0, 2.0]))
    draws = np.asarray(b.sample(key, (20_000,)))
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), b.mean, atol=4 * 0.5 / np.sqrt(20_000))


@pytest.mark.parametrize(
    "make", [lambda s: Normal(jnp.zeros(s), jnp.zeros(s), 2), lambda s: Bernoulli(jnp.zeros(s), 2)]
)
def test_shapes(make, key):
    d = make((5, 4, 3))
    z = d.sample(key, (7, 2))
    chex.assert_shape(z, (7, 2, 5, 4, 3))
    chex.assert_shape(d.log_prob(z), (7, 2, 5))
    same = jax.tree.map(lambda a: a, d)
    assert same.event_ndims == 2


def test_delta_is_its_point(key):
    d = Delta(jnp.arange(6.0).reshape(2, 3))
    z = d.sample(key, (4,))
    np.testing.assert_array_equal(z, np.broadcast_to(d.value, (4, 2, 3)))
    np.testing.assert_array_equal(d.log_prob(z), np.zeros((4, 2)))
    np.testing.assert_array_equal(d.std, np.zeros((2, 3)))


def test_kl_of_two_normals_is_the_integral(key):
    q, p = Normal(jnp.array([0.5]), jnp.array([0.4])), Normal(jnp.array([-1.0]), jnp.array([1.2]))
    log_q, log_p = q.log_prob(GRID[:, None]), p.log_prob(GRID[:, None])
    expected = scipy.integrate.simpson(jnp.exp(log_q) * (log_q - log_p), x=GRID)
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-5)
    assert kl_divergence(q, q) == 0


def test_kl_without_a_closed_form_is_none():
    assert kl_divergence(Normal(GRID, GRID), Bernoulli(GRID)) is None
    assert jv.kl_divergence(Delta(GRID), Normal(GRID, GRID)) == 0


@pytest.mark.parametrize("log_var", [-1e9, -1e8, -40.0, -3.0, 0.0, 3.0, 40.0, 1e8, 1e30])
def test_log_variances_are_bounded_and_keep_their_gradient(log_var):
    value, gradient = jax.value_and_grad(numerics.bound_log_var)(jnp.float32(log_var))
    assert value == np.clip(log_var, -30, 30)
    assert gradient == 1.0
