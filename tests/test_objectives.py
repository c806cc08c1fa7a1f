"""Objectives and their schedules, against numbers worked out by hand."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

import jaxvae as jv
from jaxvae import training
from jaxvae.objectives import cyclical_schedule

KL = jnp.array([[0.02, 0.5, 2.0], [0.04, 0.1, 4.0]])  # means 0.03, 0.3, 3


def evidence(kl_per_dimension=KL):
    zeros = jnp.zeros((1, 2))
    posterior = jv.distributions.Normal(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    kl = None if kl_per_dimension is None else kl_per_dimension.sum(1)
    log_likelihood = jnp.array([[-10.0, -20.0]])
    return jv.Evidence(log_likelihood, zeros, zeros + 0.25, kl, jnp.zeros((1, 2, 3)), posterior, kl_per_dimension)


def test_free_bits():
    np.testing.assert_allclose(jv.FreeBits(free_nats=0.2)(evidence()), [-10 - 3.5, -20 - 3.5], rtol=1e-6)
    of_all = jv.FreeBits(free_nats=5.0, per_latent=False)
    np.testing.assert_allclose(of_all(evidence()), [-15.0, -25.0], rtol=1e-6)
    estimated = jv.FreeBits(free_nats=2.0, per_latent=False, closed_form_kl=False)
    noisy = evidence()._replace(log_posterior=jnp.array([[1.0, 7.0]]))  # 4 nats in the mean
    np.testing.assert_allclose(estimated(noisy), [-14.0, -24.0], rtol=1e-6)
    np.testing.assert_allclose(
        jnp.mean(jv.FreeBits(free_nats=0.0)(evidence())), jnp.mean(jv.ELBO()(evidence())), rtol=1e-6
    )
    grads = jax.grad(lambda kl: jv.FreeBits(free_nats=0.2)(evidence(kl)).mean())(KL)
    np.testing.assert_allclose(grads, [[0.0, -0.5, -0.5]] * 2)
    with pytest.raises(ValueError, match="not a sum over the latents; write"):
        jv.FreeBits()(evidence(None))
    with pytest.raises(ValueError, match="write FreeBits"):
        jv.FreeBits(closed_form_kl=False)


def test_capacity():
    objective = jv.Capacity(gamma=10.0, nats=4.0, num_steps=100)
    kl = KL.sum(1)
    for step, capacity in [(0, 0.0), (50, 2.0), (100, 4.0), (1000, 4.0)]:
        expected = jnp.array([-10.0, -20.0]) - 10.0 * jnp.abs(kl - capacity)
        np.testing.assert_allclose(objective.at(step)(evidence()), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"objective\.at\(step\)"):
        objective(evidence())


def test_the_capacity_of_an_estimated_kl_is_the_batchs():
    """|KL - C| of each example's estimate would also penalize the noise of the draws."""
    objective = jv.Capacity(gamma=10.0, nats=4.0, num_steps=1, closed_form_kl=False).at(1)
    noisy = evidence()._replace(log_posterior=jnp.array([[1.0, 7.0]]))
    np.testing.assert_allclose(objective(noisy), [-10.0, -20.0])
    np.testing.assert_allclose(objective(noisy._replace(log_prior=jnp.array([[0.0, 1.0]]))), [-15.0, -25.0])


def test_cyclical_warm_up():
    beta = cyclical_schedule(warmup_steps=4, period=10)
    np.testing.assert_allclose([beta(step) for step in (0, 2, 4, 9, 10, 12, 19)], [0, 0.5, 1, 1, 0, 0.5, 1])
    beta = cyclical_schedule(warmup_steps=4, period=10, num_cycles=2)
    np.testing.assert_allclose([beta(step) for step in (0, 9, 10, 12, 19, 20, 35)], [0, 1, 0, 0.5, 1, 1, 1])
    with pytest.raises(ValueError, match="warmup_steps is 11 and period 10"):
        cyclical_schedule(warmup_steps=11, period=10)
    with pytest.raises(ValueError, match="num_cycles is 0"):
        cyclical_schedule(warmup_steps=1, period=10, num_cycles=0)


def test_warm_ups_of_an_experiment():
    """In epochs; several warm-ups follow one another, one in each period."""
    networks = {"encoder": jv.MLP(hidden=(8,)), "decoder": jv.MLP(hidden=(8,))}
    experiment = jv.Experiment(
        model=jv.VAE(latent_dim=2, **networks), num_epochs=8, batch_size=10, kl_warmup_epochs=1.0, kl_cycles=2
    )
    objective = experiment.build_objective(types.SimpleNamespace(sizes={"train": 100}))
    betas = [objective.at(step).beta for step in (0, 5, 10, 39, 40, 45, 79)]
    np.testing.assert_allclose(betas, [0, 0.5, 1, 1, 0, 0.5, 1])
    for epochs, warmup, cycles in ((30, 1.0, 29), (10, 3.0, 3), (13, 3.0, 4), (100, 2.0, 40)):
        many = dataclasses.replace(experiment, num_epochs=epochs, kl_warmup_epochs=warmup, kl_cycles=cycles)
        for batches in (1, 7):
            objective = many.build_objective(types.SimpleNamespace(sizes={"train": 10 * batches}))
            betas = np.array([objective.at(step).beta for step in range(epochs * batches)])
            assert np.sum(betas == 0.0) == cycles  # as many warm-ups as were asked for, and the last one ends
            assert betas[-1] == 1.0 or warmup * cycles == epochs
    with pytest.raises(ValueError, match="two schedules of one weight"):
        dataclasses.replace(experiment, objective=jv.ELBO(beta_schedule=lambda step: 1.0))
    with pytest.raises(ValueError, match="kl_warmup_epochs=5 times kl_cycles=2 must be"):
        dataclasses.replace(experiment, kl_warmup_epochs=5.0)


def test_geco_is_its_lagrangian():
    objective = jv.GECO(target=12.0, speed=0.1, decay=0.5)
    start = objective.start()
    np.testing.assert_allclose(objective(evidence()), -KL.sum(1) - jnp.array([-2.0, 8.0]), rtol=1e-6)
    after = objective.adapt(start, jnp.float32(15.0), jnp.float32(0.0))  # 3 nats too many
    np.testing.assert_allclose(after.log_multiplier, 0.3, rtol=1e-6)
    after = objective.adapt(after, jnp.float32(9.0), jnp.float32(0.0))  # 3 too few: the average is (3/4 - 3/2) / (3/4)
    np.testing.assert_allclose(after.log_multiplier, 0.3 - 0.1, rtol=1e-5)
    with jax.enable_x64(True):  # in a loop, the carry keeps its type
        wide = objective.adapt(after, jnp.float64(15.0), jnp.float64(0.0))
    assert {leaf.dtype for leaf in wide} == {np.dtype("float32")}
    for speed, steps in ((1e-3, 1.0), (0.1, 12.0)):  # however far from its target, one step and λ are bounded
        far = dataclasses.replace(objective, speed=speed).adapt(start, jnp.float32(1e9), jnp.float32(0.0))
        np.testing.assert_allclose(far.log_multiplier, steps, rtol=1e-6)
    failed = [objective.adapt(after, jnp.float32(d), jnp.float32(0.0)) for d in (np.inf, np.nan)]
    assert failed[1][1:] == after[1:]  # it says nothing
    for _ in range(60):
        failed = [objective.adapt(state, jnp.float32(11.0), jnp.float32(0.0)) for state in failed]
    np.testing.assert_allclose([state.average / state.weight for state in failed], -1.0, rtol=1e-4)
    weighted = objective.at(2, after)(evidence())
    np.testing.assert_allclose(weighted, -KL.sum(1) - np.exp(0.2) * jnp.array([-2.0, 8.0]), rtol=1e-5)


def test_geco_holds_the_distortion_at_its_target(key):
    """It spends no more KL than that takes: the ELBO of the same model has a lower distortion and a larger KL."""
    x = jax.random.normal(key, (256, 1)) @ jnp.ones((1, 6)) + 0.3 * jax.random.normal(jax.random.key(1), (256, 6))
    networks = {"encoder": jv.MLP(hidden=(16,)), "decoder": jv.MLP(hidden=(16,))}
    model = jv.VAE(latent_dim=2, event_shape=(6,), likelihood=jv.Gaussian(variance=jv.Fixed(value=0.1)), **networks)
    params, optimizer, reached = jax.jit(model.init)(key), optax.adam(3e-3), {}
    batches = training.Resident(training.Examples.of(x), jnp.arange(256)[None])
    for objective in (jv.ELBO(), jv.GECO(target=6.0, speed=1e-3)):
        state = jv.TrainState.create(params, optimizer, objective=objective)
        advance = training.make_advance(jv.make_train_step(model, objective, optimizer), fused=True)
        for num_steps in (2500, 200):
            state, totals = advance(state, training.Totals.zero(), batches, key, num_steps)
        reached[type(objective).__name__] = totals.means()
    assert abs(reached["GECO"]["distortion"] - 6.0) < 0.15
    assert reached["ELBO"]["distortion"] < 5.0
    assert reached["GECO"]["rate"] < reached["ELBO"]["rate"]


def test_an_adaptive_objective_needs_its_state(key):
    model = jv.VAE(latent_dim=2, event_shape=(6,), encoder=jv.MLP(hidden=(4,)), decoder=jv.MLP(hidden=(4,)))
    optimizer, objective = optax.sgd(1e-3), jv.GECO()
    state = jv.TrainState.create(model.init(key), optimizer)
    with pytest.raises(ValueError, match=r"write TrainState\.create\(\.\.\., objective=objective\)"):
        jv.make_train_step(model, objective, optimizer)(state, jnp.zeros((3, 6)), key)


NETWORKS = {"encoder": jv.MLP(hidden=(8,)), "decoder": jv.MLP(hidden=(8,))}


@pytest.mark.parametrize("posterior", [jv.DiagonalGaussian(), jv.FullGaussian(), jv.LowRankGaussian(rank=2)])
def test_beta_tc_of_unit_weights_is_the_elbo(posterior, key):
    """Value and gradient, whatever the batch."""
    model = jv.VAE(latent_dim=3, event_shape=(6,), posterior=posterior, **NETWORKS)
    params, x = jax.jit(model.init)(key), np.random.default_rng(1).integers(0, 2, (5, 6)).astype(np.float32)

    def total(objective):
        return jax.jit(jax.value_and_grad(lambda p: objective(model.evidence(p, key, x, num_samples=2)).sum()))(params)

    ours, elbo = total(jv.BetaTC(beta=1.0, num_examples=50)), total(jv.ELBO(closed_form_kl=False))
    np.testing.assert_allclose(ours[0], elbo[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours[1], elbo[1])


def spread_out(kind, num=5, dim=3):
    """Posteriors that differ, two draws from each of them, and log q(z_b|x_j) of all, together and by latent."""
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=(num, dim)), np.exp(0.4 * rng.normal(size=(num, dim)))
    tril = np.eye(dim) * scale[:, None]
    if kind == "correlated":
        tril = tril + np.tril(rng.normal(size=(num, dim, dim)), -1)
    covariance = tril @ tril.swapaxes(1, 2)
    z = mean + np.einsum("bij,kbj->kbi", tril, rng.normal(size=(2, num, dim)))
    q = [scipy.stats.multivariate_normal(m, c) for m, c in zip(mean, covariance, strict=True)]
    together = np.stack([one.logpdf(z) for one in q], axis=-1)
    std = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    by_latent = scipy.stats.norm(mean.T[:, None], std.T[:, None]).logpdf(z.swapaxes(1, 2)[..., None])
    normal = jv.distributions.Normal(jnp.float32(mean), jnp.float32(2 * np.log(scale)))
    correlated = jv.distributions.MultivariateNormal(jnp.float32(mean), jnp.float32(tril))
    return correlated if kind == "correlated" else normal, jnp.float32(z), together, by_latent


@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_beta_tc_is_its_formula(kind):
    """For a batch of 5 from 40 examples, against double precision."""
    q, z, together, by_latent = spread_out(kind)
    log_prior = scipy.stats.norm.logpdf(z).sum(-1)
    log_q = jnp.float32(np.diagonal(together, axis1=1, axis2=2))
    of = jv.Evidence(jnp.zeros((2, 5)) - 7.0, jnp.float32(log_prior), log_q, None, z, q)
    log_weight = np.log(np.where(np.eye(5), 1 / 40, 39 / 40 / 4))
    marginal = scipy.special.logsumexp(log_weight + together, axis=-1)
    product = scipy.special.logsumexp(log_weight + by_latent, axis=-1).sum(1)
    expected = 0.5 * (log_q - marginal) + 3.0 * (marginal - product) + 2.0 * (product - log_prior)
    bound = jax.jit(jv.BetaTC(alpha=0.5, beta=3.0, gamma=2.0, num_examples=40))(of)
    np.testing.assert_allclose(bound, -7.0 - expected.mean(0), rtol=1e-5)


def test_beta_tc_keeps_the_digits_of_a_tight_posterior(key):
    """So does the difference of a draw from its mean; the default family is no exception."""
    q = jv.distributions.Normal(2.0 + jax.random.normal(key, (3, 20)), jnp.full((3, 20), -28.0))
    z, log_q = q.sample_and_log_prob(key, (1,))
    of = jv.Evidence(jnp.zeros((1, 3)), jnp.zeros((1, 3)), log_q, None, z, q)
    assert np.max(np.abs(q.log_prob(z) - log_q)) > 0.01
    np.testing.assert_allclose(jv.BetaTC(beta=1.0, num_examples=9)(of), -log_q[0], rtol=1e-6)
    n = np.log(9)  # no draw is likely under another posterior, so a draw's own is all of each mixture
    apart = n + 6.0 * (20 * n - n) + (np.float64(log_q[0]) - 20 * n)
    np.testing.assert_allclose(jv.BetaTC(beta=6.0, num_examples=9)(of), -apart, atol=1e-3)


def test_beta_tc_keeps_the_digits_of_an_odd_covariance(key):
    """The density of a draw comes with the draw: solving for its noise may lose all digits."""
    tril = jnp.eye(20)[None] + 5.0 * jnp.tril(jax.random.normal(key, (3, 20, 20)), -1)
    q = jv.distributions.MultivariateNormal(jnp.zeros((3, 20)), tril)

    @jax.jit
    def densities(q):
        z, log_q = q.sample_and_log_prob(key, (1,))
        of = jv.Evidence(jnp.zeros((1, 3)), jnp.zeros((1, 3)), log_q, None, z, q)
        return log_q, q.log_prob(z), jv.BetaTC(beta=1.0, num_examples=9)(of)

    log_q, solved_for, bound = densities(q)
    assert np.max(np.abs(solved_for - log_q)) > 1.0
    np.testing.assert_allclose(bound, -log_q[0], rtol=1e-5)


def test_beta_tc_takes_the_number_of_examples_from_the_data():
    experiment = jv.Experiment(model=jv.VAE(latent_dim=2, **NETWORKS), objective=jv.BetaTC(), batch_size=10)
    data = types.SimpleNamespace(sizes={"train": 100})
    assert experiment.build_objective(data).num_examples == 100
    given = dataclasses.replace(experiment, objective=jv.BetaTC(num_examples=70))
    assert given.build_objective(data).num_examples == 70
    digits = jv.data.load(jv.Data())
    with pytest.raises(ValueError, match="the batch has 1 of 1285 examples; write a batch of at least 2"):
        dataclasses.replace(experiment, num_parts=10).fit_to(digits)
    with pytest.raises(ValueError, match="num_examples is not set"):
        jv.BetaTC()(evidence())
    flow = jv.distributions.Transformed(evidence().posterior, ())
    with pytest.raises(ValueError, match=r"each latent, which Transformed does not have.*posterior=DiagonalGaussian"):
        jv.BetaTC(num_examples=9)(evidence()._replace(posterior=flow))


def test_mmd_is_the_elbo_less_the_discrepancy_of_the_draws(key):
    z = np.asarray(0.7 * jax.random.normal(key, (2, 7, 4)) + 0.5)
    zeros, prior = jnp.zeros((2, 7)), jv.distributions.Normal(jnp.zeros(4), jnp.zeros(4))
    of = jv.Evidence(zeros - 3.0, zeros, zeros, jnp.arange(7.0), jnp.asarray(z), None, prior=prior)
    squares = ((z[:, :, None] - z[:, None]) ** 2).sum(-1)  # [2, 7, 7]
    normal, expected = np.random.default_rng(0).normal(size=(200_000, 4)), 0.0
    for h in (1.0, 2.0, 4.0):
        pairs = (np.exp(-squares / (2 * h**2)).sum(2) - 1) / 6
        to_prior = np.exp(-((z[:, :, None] - normal[:20_000]) ** 2).sum(-1) / (2 * h**2)).mean(2)
        within = np.exp(-((normal[::2] - normal[1::2]) ** 2).sum(-1) / (2 * h**2)).mean()
        expected += (pairs - 2 * to_prior + within).mean(0) / 3
    mmd = jax.jit(lambda of: jv.ELBO(beta=0.5)(of) - jv.MMD(beta=0.5, weight=1.0)(of))(of)
    np.testing.assert_allclose(mmd, expected, atol=8e-3)  # the error of the draws from the prior
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(jax.jit(jv.MMD(beta=0.0, weight=0.0))(of._replace(kl=None)), -3.0)
    with pytest.raises(ValueError, match="sphere, and not Transformed; write prior="):
        jv.MMD()(of._replace(prior=jv.distributions.Transformed(of.prior, ())))
