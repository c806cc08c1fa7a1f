"""Convolutions by matrix products are XLA's own, in value and gradient, whatever the sizes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.convolutions import ByProducts, ByXLA

BY, XLA = ByProducts(), ByXLA()
SIZES = [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (3, 1), (4, 1), (2, 3), (4, 3), (7, 3)]  # kernel, stride
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


def test_the_two_ways_of_a_transposed_convolution(monkeypatch):
    rng, ways = np.random.default_rng(0), []
    for name in ("_gathered", "_spread"):
        way = getattr(ByProducts, name)
        monkeypatch.setattr(ByProducts, name, lambda *args, name=name, way=way: ways.append(name) or way(*args))
    for inputs, outputs in ((3, 1), (4, 1), (3, 5)):  # the smaller side is copied: C, or s · s · C'
        x, kernel = (rng.standard_normal(s, np.float32) for s in ((inputs, 2, 3, 4), (4, 4, inputs, outputs)))
        BY.conv_transpose(x, kernel, jnp.zeros(outputs), stride=2)
    assert ways == ["_gathered", "_spread", "_gathered"]


def test_both_have_the_same_dense_layers():
    rng = np.random.default_rng(0)
    x, *weights = (rng.standard_normal(s, np.float32) for s in ((2, 3, 4, 5), (60, 7), (7,), (7, 60), (60,)))

    def there_and_back(by, x, weights):
        h = by.to_features(by.enter(x), *weights[:2])
        image = by.leave(by.from_features(jnp.sin(h), *weights[2:], (3, 4, 5)))
        return jnp.sum(jnp.sin(image)), (h, image)

    value_and_grad = jax.jit(jax.value_and_grad(there_and_back, (1, 2), has_aux=True), static_argnums=0)
    ours, theirs = (value_and_grad(by, x, weights) for by in (BY, XLA))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours[0][1][0], x.reshape(2, 60) @ weights[0] + weights[1], rtol=1e-5, atol=1e-5)
    assert [by.num_channels(by.enter(x)) for by in (BY, XLA)] == [5, 5]


IN_16_BITS = [  # implementation, name, x, kernel, the rest
    *((ByProducts, name, (2, 6, 4, c), (4, 4, c, outputs), {"stride": 2}) for name, c, outputs in CHANNELS),
    (ByXLA, "output", (2, 6, 4, 9), (4, 4, 9, 1), {"stride": 2}),
    (ByProducts, "to_features", (2, 6, 4, 3), (72, 5), {}),
    (ByProducts, "from_features", (2, 7), (7, 60), {"image": (3, 4, 5)}),
]


@pytest.mark.parametrize(("kind", "name", "x_shape", "kernel_shape", "rest"), IN_16_BITS)
def test_bfloat16_rounds_the_operands(kind, name, x_shape, kernel_shape, rest):
    rng = np.random.default_rng(0)
    x, kernel, bias = (rng.standard_normal(s, np.float32) for s in (x_shape, kernel_shape, kernel_shape[-1:]))

    @functools.partial(jax.jit, static_argnums=0)
    def result(compute, x, kernel):
        by = kind(compute)

        def total(x, kernel):
            y = getattr(by, name)(x if x.ndim == 2 else by.enter(x), kernel, bias, **rest)
            return jnp.sum(jnp.sin(y)), y

        grads, y = jax.grad(total, (0, 1), has_aux=True)(x, kernel)
        return y, grads

    rounded = (a.astype(jnp.bfloat16).astype(np.float32) for a in (x, kernel))
    (ours, grads), (exact, exact_grads) = result("bfloat16", x, kernel), result("float32", *rounded)
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)
    assert np.abs(ours - result("float32", x, kernel)[0]).max() > 1e-3
    for found, expected in zip(grads, exact_grads, strict=True):
        assert found.dtype == jnp.float32
        assert 0 < np.linalg.norm(found - expected) < 4e-3 * np.linalg.norm(expected)  # half of the last of 8 bits
