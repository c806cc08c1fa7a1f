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


def test_bernoulli_draws_are_those_of_jax_and_rare_events_stay_rare(monkeypatch):
    key, logits = jax.random.key(3), jnp.linspace(-8.0, 8.0, 40_000)
    probability = jax.nn.sigmoid(logits)
    assert np.mean(draws.bernoulli(key, logits, (40_000,)) == jax.random.bernoulli(key, probability)) > 0.9999
    other = jax.random.key(0, impl="rbg")
    assert abs(float(np.mean(draws.bernoulli(other, logits, (40_000,)))) - 0.5) < 4 * 0.5 / 200
    # The rarest event of 32 bits that there is, and its complement, have probability 2⁻³² at most.
    cases = [(0, -22.0, True), (0, -23.0, False), (1, -20.0, True), (511, -20.0, False), (2**32 - 1, 22.0, False)]
    for bits, logit, expected in [*cases, (2**32 - 1, 23.0, True), (2**32 - 512, 20.0, True), (2**31, 0.0, False)]:
        monkeypatch.setattr(draws, "_bits", lambda key, shape, bits=bits: jnp.full(shape, bits, jnp.uint32))
        assert bool(draws.bernoulli.__wrapped__(key, jnp.float32(logit), ())) == expected, (bits, logit)


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
