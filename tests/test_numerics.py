"""The numerics that all layers use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import numerics, special


@pytest.mark.parametrize("num", [784, 3 * 32**2, 3 * 256**2])
def test_a_sum_keeps_its_digits(num):
    """Also over a large image, where a running sum in float32 would be off by nats."""
    x = -np.abs(np.random.default_rng(0).normal(size=(8, num))).astype(np.float32)
    np.testing.assert_allclose(numerics.sum_last(jnp.asarray(x), 1), x.astype(np.float64).sum(1), rtol=3e-7)


def test_a_scan_in_dispatches_is_a_scan():
    """When it reports steps, they are done: nothing is still being computed."""

    def step(carry, x):
        total, slow = carry
        return (total + x, jnp.tanh(slow @ slow)), total * x

    x, ticks = jnp.arange(1.0, 8.0), []

    def tick(num):
        ticks.append(num)
        assert all(array.is_ready() for array in jax.live_arrays())

    start = jnp.float32(0.0), jnp.ones((600, 600))
    (total, _), each = numerics.scan_in_dispatches(step, start, x, at_once=3, tick=tick)
    assert ticks == [3, 3, 1]
    assert total == x.sum()
    np.testing.assert_array_equal(each, np.array([0, 2, 9, 24, 50, 90, 147.0]))


def test_series_and_formula_are_one_function():
    """On both sides of where one takes over from the other, to float32's precision."""
    x = np.concatenate([np.geomspace(0.01, 80.0, 400), 0.3 + np.linspace(-1e-3, 1e-3, 9)]).astype(np.float32)
    exact = x.astype(float)
    np.testing.assert_allclose(special.log_sinhc(jnp.asarray(x)), np.log(np.sinh(exact) / exact), rtol=1e-6, atol=2e-7)
    np.testing.assert_allclose(special.langevin(jnp.asarray(x)), 1 / np.tanh(exact) - 1 / exact, rtol=1e-6, atol=6e-7)
    log_complement = np.where(exact < 1.0, np.log(-np.expm1(-exact)), np.log1p(-np.exp(-exact)))
    np.testing.assert_allclose(special.log_one_minus_exp(jnp.asarray(x)), log_complement, rtol=1e-6)
    odd = np.array([-1.0, 1.0], np.float32)
    np.testing.assert_array_equal(special.log_sinhc(jnp.asarray(odd)), special.log_sinhc(jnp.asarray(np.abs(odd))))
    np.testing.assert_array_equal(special.langevin(jnp.asarray(-x)), -special.langevin(jnp.asarray(x)))
