"""Convolutions by matrix products are XLA's own, in value and gradient, whatever the sizes."""

import chex
import jax
import numpy as np
import pytest

from jaxvae.convolutions import ByProducts, ByXLA

BY, XLA = ByProducts(), ByXLA()
SIZES = [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (3, 1), (2, 3), (4, 3)]  # kernel, stride
CHANNELS = [("conv", 3, 5), ("conv_transpose", 3, 5), ("conv_transpose", 9, 1)]  # the last two take different ways


@pytest.mark.parametrize(("size", "stride"), SIZES)
@pytest.mark.parametrize(("name", "inputs", "outputs"), CHANNELS)
def test_products_are_convolutions(name, inputs, outputs, size, stride):
    rng = np.random.default_rng(size * 10 + stride)

    def value_and_grads(by, x, kernel, bias, weights):
        def total(x, kernel, bias):
            y = by.leave(getattr(by, name)(by.enter(x), kernel, bias, stride=stride))
            return (y * weights[:, : y.shape[1], : y.shape[2]]).sum(), y

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(x, kernel, bias)

    shapes = ((2, 7, 4, inputs), (size, size, inputs, outputs), (outputs,))
    x, kernel, bias = (rng.standard_normal(s, np.float32) for s in shapes)
    weights = rng.standard_normal((2, 21, 12, outputs), np.float32)
    ours, theirs = (jax.jit(value_and_grads, static_argnums=0)(by, x, kernel, bias, weights) for by in (BY, XLA))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_both_have_the_same_dense_layers():
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 4, 5), (60, 7), (7,), (7, 60), (60,))
    x, *weights = (rng.standard_normal(s, np.float32) for s in shapes)
    features = [by.to_features(by.enter(x), *weights[:2]) for by in (BY, XLA)]
    np.testing.assert_allclose(features[0], x.reshape(2, 60) @ weights[0] + weights[1], rtol=1e-5, atol=1e-5)
    images = [by.leave(by.from_features(features[0], *weights[2:], (3, 4, 5))) for by in (BY, XLA)]
    for pair in (features, images):
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-5)
    assert [by.num_channels(by.enter(x)) for by in (BY, XLA)] == [5, 5]
