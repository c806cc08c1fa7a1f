"""The draws are those of `jax.random`, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import draws

PAIRS = [(draws.uniform, jax.random.uniform), (draws.normal, jax.random.normal)]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 5, 3), (128, 784)])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_bit(ours, theirs, shape):
    for key in (jax.random.key(7), jax.random.fold_in(jax.random.key(2**32 - 1), 9), jax.random.PRNGKey(3)):
        expected = theirs(key, shape)
        drawn = ours(key, shape)
        assert drawn.dtype == expected.dtype == jnp.float32
        np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_of_many_keys_and_within_a_program(ours, theirs):
    keys = jax.random.split(jax.random.key(1), 5)
    of_each = [jax.jit(jax.vmap(lambda key, draw=draw: 3.0 * draw(key, (4, 3))))(keys) for draw in (ours, theirs)]
    np.testing.assert_array_equal(*of_each)


def test_what_is_not_ours_to_draw_is_left_to_jax():
    """Other generators, other types, and Threefry's older way of counting."""
    other = jax.random.key(0, impl="rbg")
    for ours, theirs in PAIRS:
        np.testing.assert_array_equal(ours(other, (5,)), theirs(other, (5,)))
    key = jax.random.key(0)
    half = draws.normal(key, (5,), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, jax.random.normal(key, (5,), jnp.bfloat16))
    with jax.threefry_partitionable(False):
        np.testing.assert_array_equal(draws.uniform(key, (6,)), jax.random.uniform(key, (6,)))
    with jax.enable_x64(True):
        assert draws.uniform(key, (6,)).dtype == jnp.float32
        np.testing.assert_array_equal(draws.normal(key, (6,), jnp.float64), jax.random.normal(key, (6,)))
