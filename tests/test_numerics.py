"""The numerics that all layers use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import numerics


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
