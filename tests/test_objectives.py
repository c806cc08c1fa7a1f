"""Schedules against collapse, against numbers worked out by hand."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae as jv
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
    estimated = jv.FreeBits(free_nats=0.1, per_latent=False, closed_form_kl=False)
    np.testing.assert_allclose(estimated(evidence()), [-10.25, -20.25], rtol=1e-6)
    np.testing.assert_allclose(
        jnp.mean(jv.FreeBits(free_nats=0.0)(evidence())), jnp.mean(jv.ELBO()(evidence())), rtol=1e-6
    )
    grads = jax.grad(lambda kl: jv.FreeBits(free_nats=0.2)(evidence(kl)).mean())(KL)
    np.testing.assert_allclose(grads, [[0.0, -0.5, -0.5]] * 2)
    with pytest.raises(ValueError, match="no sum over the latents; write"):
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


def test_cyclical_warm_up():
    beta = cyclical_schedule(warmup_steps=4, period=10)
    np.testing.assert_allclose([beta(step) for step in (0, 2, 4, 9, 10, 12, 19)], [0, 0.5, 1, 1, 0, 0.5, 1])
    with pytest.raises(ValueError, match="warmup_steps is 11 and period 10"):
        cyclical_schedule(warmup_steps=11, period=10)


def test_warm_ups_of_an_experiment():
    """In epochs; of several, one period after the other."""
    networks = {"encoder": jv.MLP(hidden=(8,)), "decoder": jv.MLP(hidden=(8,))}
    experiment = jv.Experiment(
        model=jv.VAE(latent_dim=2, **networks), num_epochs=8, batch_size=10, kl_warmup_epochs=1.0, kl_cycles=2
    )
    objective = experiment.build_objective(types.SimpleNamespace(sizes={"train": 100}))
    betas = [objective.at(step).beta for step in (0, 5, 10, 39, 40, 45, 79)]
    np.testing.assert_allclose(betas, [0, 0.5, 1, 1, 0, 0.5, 1])
    with pytest.raises(ValueError, match="two schedules of one weight"):
        dataclasses.replace(experiment, objective=jv.ELBO(beta_schedule=lambda step: 1.0))
    with pytest.raises(ValueError, match="kl_warmup_epochs is 5, and 2 of them need"):
        dataclasses.replace(experiment, kl_warmup_epochs=5.0)


def test_geco_is_its_lagrangian():
    objective = jv.GECO(target=12.0, speed=0.1, decay=0.5)
    start = objective.start()
    np.testing.assert_allclose(objective(evidence()), -KL.sum(1) - jnp.array([-2.0, 8.0]), rtol=1e-6)
    after = objective.adapt(start, jnp.float32(15.0), jnp.float32(0.0))  # 3 nats too many
    np.testing.assert_allclose(after.log_multiplier, 0.3, rtol=1e-6)
    after = objective.adapt(after, jnp.float32(9.0), jnp.float32(0.0))  # 3 too few: the average is (3/4 - 3/2) / (3/4)
    np.testing.assert_allclose(after.log_multiplier, 0.3 - 0.1, rtol=1e-5)
    with jax.enable_x64(True):  # in a loop, what goes out is what came in
        wide = objective.adapt(after, jnp.float64(15.0), jnp.float64(0.0))
    assert {leaf.dtype for leaf in wide} == {np.dtype("float32")}
    weighted = objective.at(2, after)(evidence())
    np.testing.assert_allclose(weighted, -KL.sum(1) - np.exp(0.2) * jnp.array([-2.0, 8.0]), rtol=1e-5)


def test_geco_holds_the_distortion_at_its_target(key):
    """And spends no more KL than that takes: a plain ELBO of the same model has a lower distortion and a larger KL."""
    x = jax.random.normal(key, (256, 1)) @ jnp.ones((1, 6)) + 0.3 * jax.random.normal(jax.random.key(1), (256, 6))
    networks = {"encoder": jv.MLP(hidden=(16,)), "decoder": jv.MLP(hidden=(16,))}
    model = jv.VAE(latent_dim=2, event_shape=(6,), likelihood=jv.Gaussian(variance=jv.Fixed(value=0.1)), **networks)
    optimizer, reached = optax.adam(3e-3), {}
    for objective in (jv.ELBO(), jv.GECO(target=6.0, speed=1e-3)):
        state = jv.TrainState.create(model.init(key), optimizer, objective=objective)
        step, seen = jv.make_train_step(model, objective, optimizer), []
        for _ in range(2700):
            state, metrics = step(state, x, key)
            seen.append((float(metrics.distortion), float(metrics.rate)))
        reached[type(objective).__name__] = np.mean(seen[-200:], axis=0)
    assert abs(reached["GECO"][0] - 6.0) < 0.15
    assert reached["ELBO"][0] < 5.0
    assert reached["GECO"][1] < reached["ELBO"][1]


def test_an_adaptive_objective_needs_its_state(key):
    model = jv.VAE(latent_dim=2, event_shape=(6,), encoder=jv.MLP(hidden=(4,)), decoder=jv.MLP(hidden=(4,)))
    optimizer, objective = optax.sgd(1e-3), jv.GECO()
    state = jv.TrainState.create(model.init(key), optimizer)
    with pytest.raises(ValueError, match=r"write TrainState\.create\(\.\.\., objective=objective\)"):
        jv.make_train_step(model, objective, optimizer)(state, jnp.zeros((3, 6)), key)
