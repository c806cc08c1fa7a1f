"""Annealed importance sampling encloses the evidence of the linear-Gaussian model of `test_oracle`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_oracle import BIAS, MODEL, VARIANCE, D, E, W, any_q, orthogonal

import jaxvae as jv
from jaxvae import annealing

PATH = annealing.Path(num_temperatures=1000, num_leapfrog_steps=5, num_chains=64)
SHORT = annealing.Path(num_temperatures=200, num_leapfrog_steps=5, num_chains=32)


def from_prior(params, x):
    return jv.distributions.Normal(jnp.zeros((1, D)), jnp.zeros((1, D)))


def evidence(x, w=W):
    return scipy.stats.multivariate_normal(BIAS, w.T @ w + VARIANCE * np.eye(E)).logpdf(x)


@pytest.mark.parametrize(
    ("initial", "path", "gap"),
    [
        pytest.param(None, SHORT, 0.15, id="from q(z|x), a short path"),
        pytest.param(None, PATH, 0.05, id="from q(z|x)", marks=pytest.mark.long),
        pytest.param(from_prior, PATH, 0.05, id="from the prior", marks=pytest.mark.long),
    ],
)
def test_forward_and_reverse_enclose_the_evidence(key, initial, path, gap):
    """On data drawn from the model, starting from a wrong q. The two bounds are less than `gap` nats apart."""
    p, _, _ = any_q()
    data_key, tune_key, up_key, down_key = jax.random.split(key, 4)
    x, z = annealing.simulate(MODEL, p, data_key, 50)
    exact = evidence(np.asarray(x, float))
    ticks = []
    options = {"path": path, "initial": initial}
    sizes = annealing.tune(MODEL, p, tune_key, x, **options, tick=ticks.append)
    assert sum(ticks) == path.num_temperatures
    up = annealing.forward(MODEL, p, up_key, x, step_sizes=sizes, **options)
    down = annealing.reverse(MODEL, p, down_key, x, z, step_sizes=sizes, **options)
    assert 0.5 < up.acceptance_rate.mean() < 0.85
    for bound, sign in ((up.lower_bound, -1), (down.upper_bound, 1)):
        off = sign * (bound - exact)
        error = off.std() / np.sqrt(len(off))
        assert -4 * error < off.mean() < gap / 2 + 4 * error
        assert error < 0.24 * gap
    assert (down.upper_bound - up.lower_bound).mean() < gap
    # far better than the importance-weighted bound with as many draws
    weights = MODEL.evidence(p, key, x, num_samples=path.num_chains).log_weights
    assert (exact - np.asarray(jv.losses.iwae(weights))).mean() > 10 * (exact - up.lower_bound).mean()


def test_the_steps_keep_up_with_a_short_path(key):
    """Twenty temperatures from the prior to a narrow posterior: steps of the first size would all be rejected."""
    p, _, _ = any_q()
    path = annealing.Path(num_temperatures=20, num_chains=16)
    x, _ = annealing.simulate(MODEL, p, jax.random.fold_in(key, 1), 30)
    sizes = annealing.tune(MODEL, p, jax.random.fold_in(key, 2), x, path=path, initial=from_prior)
    up = annealing.forward(MODEL, p, key, x, step_sizes=sizes, path=path, initial=from_prior)
    assert up.acceptance_rate.mean() > 0.35
    assert up.acceptance_rate[-5:].mean() > 0.4


def test_weights_are_unbiased_whatever_the_steps(key):
    """Even with three temperatures and a bad step size, the mean weight of 40,000 chains is the evidence."""
    p, _, _ = any_q()
    path = annealing.Path(num_temperatures=3, num_leapfrog_steps=2, num_chains=40_000)
    x, _ = annealing.simulate(MODEL, p, jax.random.fold_in(key, 1), 3)
    exact = evidence(np.asarray(x, float))
    sizes = np.full((3, 3), 0.3)
    up = annealing.forward(MODEL, p, key, x, step_sizes=sizes, path=path, initial=from_prior)
    ratio = np.exp(up.log_weights - exact)
    error = ratio.std(axis=0) / np.sqrt(40_000)
    assert np.all(np.abs(ratio.mean(axis=0) - 1) < 5 * error)
    assert np.all(error < 0.2)


def test_with_the_true_posterior_every_chain_is_exact(key):
    w, p = orthogonal()
    path = annealing.Path(num_temperatures=5, num_chains=3)
    x, z = annealing.simulate(MODEL, p, key, 4)
    sizes = np.full((5, 4), 0.1)
    exact = np.broadcast_to(evidence(np.asarray(x, float), w), (3, 4))
    up = annealing.forward(MODEL, p, key, x, step_sizes=sizes, path=path)
    down = annealing.reverse(MODEL, p, key, x, z, step_sizes=sizes, path=path)
    np.testing.assert_allclose(up.log_weights, exact, rtol=1e-4)
    np.testing.assert_allclose(down.log_weights, exact, rtol=1e-4)


def test_temperatures_rise_from_nothing_to_everything():
    betas = annealing.Path(num_temperatures=7).temperatures
    assert (betas[0], betas[-1], len(betas)) == (0.0, 1.0, 8)
    assert np.all(np.diff(betas) > 0)
    np.testing.assert_allclose(betas + betas[::-1], 1.0)
    even = annealing.Path(num_temperatures=7, steepness=0.01).temperatures
    np.testing.assert_allclose(even, np.linspace(0.0, 1.0, 8), atol=1e-5)
    assert betas[1] < 0.5 * even[1]


def test_the_options_of_the_transitions_are_used(key):
    """Of a higher acceptance rate the steps are smaller; with more steps of one size the chains go farther."""
    p, _, _ = any_q()
    x, _ = annealing.simulate(MODEL, p, key, 10)
    few = annealing.Path(num_temperatures=40, num_chains=4)
    usual, small = (
        annealing.tune(MODEL, p, key, x, path=dataclasses.replace(few, acceptance_rate=rate)) for rate in (0.65, 0.95)
    )
    assert small.mean() < 0.7 * usual.mean()
    one, five = (
        annealing.forward(MODEL, p, key, x, step_sizes=small, path=dataclasses.replace(few, num_leapfrog_steps=num))
        for num in (1, 5)
    )
    assert np.all(one.log_weights != five.log_weights)


def test_chains_from_the_models_own_prior(key):
    """Which has no batch, and may be a mixture: they are those from the same density for each example."""
    p, _, _ = any_q()
    x, _ = annealing.simulate(MODEL, p, key, 3)
    path = annealing.Path(num_temperatures=20, num_chains=4)
    own, same = (
        annealing.forward(
            MODEL,
            p,
            key,
            x,
            path=path,
            initial=initial,
            step_sizes=annealing.tune(MODEL, p, key, x, path=path, initial=initial),
        ).log_weights
        for initial in (lambda p, x: MODEL.prior_distribution(p), from_prior)
    )
    np.testing.assert_allclose(own, same, rtol=1e-4)
    mixture = dataclasses.replace(MODEL, posterior=jv.Delta(), prior=jv.GaussianMixture(num_components=2))
    p = mixture.init(key)
    sizes = annealing.tune(mixture, p, key, x, path=path, initial=lambda p, x: mixture.prior_distribution(p))
    assert np.isfinite(sizes).all()


def test_mistakes_are_named(key):
    p, _, _ = any_q()
    x = jnp.zeros((2, E))
    with pytest.raises(ValueError, match=r"step_sizes has the shape \(3, 2\); write tune"):
        annealing.forward(MODEL, p, key, x, step_sizes=np.ones((3, 2)), path=PATH)
    sphere = dataclasses.replace(MODEL, posterior=jv.VonMisesFisher(), prior=jv.UniformSphere())
    with pytest.raises(ValueError, match="the chains move through all vectors, but VonMisesFisher is over the unit"):
        annealing.tune(sphere, p, key, x, path=PATH)
    with pytest.raises(ValueError, match=r"z has the shape \(3, 3\); write one draw for each example, \(2, 3\)"):
        annealing.reverse(
            MODEL, p, key, x, jnp.zeros((3, D)), step_sizes=np.ones((PATH.num_temperatures, 2)), path=PATH
        )
    with pytest.raises(ValueError, match=r"Path\.num_chains is 0"):
        annealing.Path(num_chains=0)
    with pytest.raises(
        ValueError, match=r"Path\.acceptance_rate is 1\.0; write a number greater than 0 and less than 1"
    ):
        annealing.Path(acceptance_rate=1.0)
    with pytest.raises(ValueError, match=r"Path\.steepness is 1e-18"):
        annealing.Path(steepness=1e-18)


def test_tuning_with_float32_under_x64(key):
    """All that is not the model's has 64 bits under x64, and z keeps its type."""
    with jax.enable_x64(True):
        p = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), any_q()[0])
        sizes = annealing.tune(MODEL, p, key, jnp.zeros((2, E), jnp.float32), path=PATH)
    assert np.isfinite(sizes).all()


def test_acceptance_rates_are_in_the_order_of_the_temperatures(key):
    """In both directions of the chains, steps that are far too long at the last temperature are rejected there."""
    p, _, _ = any_q()
    path = annealing.Path(num_temperatures=12, num_chains=8)
    x, z = annealing.simulate(MODEL, p, key, 3)
    sizes = np.full((12, 3), 0.05)
    sizes[-1] = 10.0
    up = annealing.forward(MODEL, p, key, x, step_sizes=sizes, path=path)
    down = annealing.reverse(MODEL, p, key, x, z, step_sizes=sizes, path=path)
    for rates in (up.acceptance_rate, down.acceptance_rate):
        assert rates.shape == (12, 3)
        assert rates[-1].max() < 0.1 < 0.8 < rates[:-1].min()


def test_a_point_is_no_start(key):
    """`Delta` has no density: chains that start from it would give no bound."""
    model = dataclasses.replace(MODEL, posterior=jv.Delta())
    p, x = model.init(key), jnp.zeros((2, E))
    for call in (
        lambda: annealing.tune(model, p, key, x, path=PATH),
        lambda: annealing.forward(model, p, key, x, step_sizes=np.ones((1000, 2)), path=PATH),
        lambda: annealing.reverse(model, p, key, x, jnp.zeros((2, D)), step_sizes=np.ones((1000, 2)), path=PATH),
    ):
        with pytest.raises(ValueError, match=r"Delta has no density q\(z\|x\) to start from; write initial=lambda"):
            call()
