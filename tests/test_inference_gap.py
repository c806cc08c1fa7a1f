"""The two gaps of the linear-Gaussian model of `test_oracle`, where the best q of the family is known."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_oracle import BIAS, MODEL, VARIANCE, D, W, X, any_q, evidence, exact_gap, orthogonal

import jaxvae as jv
from jaxvae import annealing, inference_gap

BATCH = jnp.asarray(X, jnp.float32)


class Halves(nn.Module):
    """A linear encoder whose output has 16 bits."""

    @nn.compact
    def __call__(self, x, output_shape):
        return nn.Dense(*output_shape, name="output")(x).astype(jnp.bfloat16)


def test_both_gaps_are_exact(key):
    """The best diagonal q has the posterior's mean, and the diagonal of its precision."""
    p, mean, covariance = any_q()
    ticks = []
    numbers = inference_gap.optimize_posterior(MODEL, p, key, BATCH, num_steps=600, tick=ticks.append)
    assert sum(ticks) == 600
    gap = inference_gap.InferenceGap(
        evidence(W),
        inference_gap.elbo_of(MODEL, p, key, numbers, BATCH, num_samples=20_000),
        inference_gap.elbo_of(MODEL, p, key, MODEL.variational_parameters(p, BATCH), BATCH, num_samples=20_000),
    )
    precision = np.eye(D) + W @ W.T / VARIANCE
    true_mean = (X - np.asarray(p["decoder"]["output"]["bias"])) @ W.T / VARIANCE @ np.linalg.inv(precision)
    approximation = exact_gap(true_mean, np.diag(1 / np.diag(precision)))
    assert approximation.mean() > 0.1
    np.testing.assert_allclose(gap.approximation, approximation, atol=0.06)
    np.testing.assert_allclose(gap.amortization, exact_gap(mean, covariance) - approximation, rtol=0.02)
    np.testing.assert_allclose(MODEL.posterior_of(p, numbers).mean, true_mean, atol=0.05)


def test_a_bad_climb_keeps_the_encoders_q(key):
    """From the best q a few long steps can only lead away."""
    _, p = orthogonal()
    before = MODEL.variational_parameters(p, BATCH)
    climb = functools.partial(inference_gap.optimize_posterior, MODEL, num_steps=1)
    np.testing.assert_array_equal(climb(p, key, BATCH, learning_rate=3.0), before)
    np.testing.assert_array_equal(jax.jit(functools.partial(climb, learning_rate=3.0))(p, key, BATCH), before)
    p["encoder"]["output"]["bias"] = p["encoder"]["output"]["bias"].at[:D].add(50.0)
    far = MODEL.variational_parameters(p, BATCH)
    np.testing.assert_allclose(climb(p, key, BATCH, learning_rate=0.1)[:, :D], far[:, :D] - 0.1, atol=1e-3)


def test_an_encoder_of_16_bits_is_only_the_start(key):
    """In its type the last steps would be rounded to nothing."""
    half = dataclasses.replace(MODEL, encoder=Halves())
    p, _, _ = any_q()
    p["encoder"] = {"network": p["encoder"]}
    numbers = inference_gap.optimize_posterior(half, p, key, BATCH, num_steps=600)
    precision = np.eye(D) + W @ W.T / VARIANCE
    true_mean = (X - BIAS) @ W.T / VARIANCE @ np.linalg.inv(precision)
    assert half.variational_parameters(p, BATCH).dtype == jnp.bfloat16
    np.testing.assert_allclose(half.posterior_of(p, numbers).mean, true_mean, atol=0.05)


def test_mistakes_are_named(key):
    p, _, _ = any_q()
    with pytest.raises(ValueError, match=r"numbers has the shape \(1, 6\); for these examples write \(6, 6\)"):
        inference_gap.elbo_of(MODEL, p, key, jnp.zeros((1, 2 * D)), BATCH)
    binary = dataclasses.replace(MODEL, likelihood=jv.Bernoulli())
    for call in (inference_gap.optimize_posterior, annealing.tune):
        with pytest.raises(ValueError, match=r"Bernoulli likelihood takes values in .* preprocess x as in training"):
            call(binary, p, key, BATCH)


def test_without_a_density_there_is_no_gap(key):
    model = dataclasses.replace(MODEL, posterior=jv.Delta())
    p = model.init(key)
    with pytest.raises(ValueError, match="Delta has no density"):
        inference_gap.optimize_posterior(model, p, key, BATCH)
    with pytest.raises(ValueError, match="Delta has no density"):
        inference_gap.elbo_of(model, p, key, model.variational_parameters(p, BATCH), BATCH)


def test_on_the_sphere_the_best_q_is_not_found(key):
    """Its concentration may be too far from the best one for steps of this size, so it is refused."""
    model = dataclasses.replace(MODEL, posterior=jv.VonMisesFisher(), prior=jv.UniformSphere())
    with pytest.raises(ValueError, match="VonMisesFisher is over the unit sphere, where these steps do not find"):
        inference_gap.optimize_posterior(model, model.init(key), key, BATCH)
