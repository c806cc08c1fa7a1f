"""Convolutions by matrix products are XLA's own, in value and gradient, whatever the sizes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.convolutions import ByProducts, ByXLA

SIZES = [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (3, 1), (2, 3), (4, 3)]  # kernel, stride


@pytest.mark.parametrize(("size", "stride"), SIZES)
@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_products_are_convolutions(name, size, stride):
    rng = np.random.default_rng(size * 10 + stride)

    def value_and_grads(by, x, kernel, bias, weights):
        def total(x, kernel, bias):
            y = by.leave(getattr(by, name)(by.enter(x), kernel, bias, stride=stride))
            return (y * weights[:, : y.shape[1], : y.shape[2]]).sum(), y

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(x, kernel, bias)

    x, kernel, bias = (rng.standard_normal(s, np.float32) for s in ((2, 7, 4, 3), (size, size, 3, 5), (5,)))
    weights = rng.standard_normal((2, 21, 12, 5), np.float32)
    ours, theirs = (jax.jit(value_and_grads, static_argnums=0)(by, x, kernel, bias, weights) for by in (BY, XLA))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)


BY, XLA = ByProducts(), ByXLA()


def test_both_flatten_alike():
    x = jnp.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    features = [by.flatten(by.enter(x)) for by in (BY, XLA)]
    np.testing.assert_array_equal(*features)
    for by in (BY, XLA):
        np.testing.assert_array_equal(by.leave(by.unflatten(features[0], (3, 4, 5))), x)
        assert by.num_channels(by.enter(x)) == 5
