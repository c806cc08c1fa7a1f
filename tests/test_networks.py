"""Networks give the shapes they promise, for any image, and say what does not fit."""

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.networks import WithOutput, compute_of, in_float32
from jaxvae.numerics import product


def apply(network, x, **kwargs):
    out, variables = jax.jit(partial(network.init_with_output, **kwargs))(jax.random.key(0), x)
    return out, variables["params"]


@pytest.mark.parametrize("shape", [(28, 28, 1), (5,), (3, 4)])
def test_mlp_flattens_everything_but_the_batch(shape):
    out, params = apply(jv.MLP(hidden=(7, 4), activation="tanh"), jnp.ones((2, *shape)))
    chex.assert_shape(out, (2, 4))
    assert set(params) == {"dense_0", "dense_1"}
    assert abs(out).max() <= 1


@pytest.mark.parametrize("image", [(28, 28, 1), (27, 13, 3), (8, 8, 1), (1, 5, 2)])
def test_convolutions_take_any_image(image):
    def shape(network, x, **kwargs):
        return jax.eval_shape(partial(network.init_with_output, **kwargs), jax.random.key(0), x)[0].shape

    assert shape(jv.ConvEncoder(channels=(4, 6, 8), dense=10), jnp.ones((2, *image))) == (2, 10)
    wanted = (*image[:-1], 2 * image[-1])
    assert shape(jv.ConvDecoder(channels=(8, 6, 4), dense=10), jnp.ones((2, 5)), output_shape=wanted) == (2, *wanted)


def test_a_decoders_pixels_all_depend_on_z():
    decoder = jv.ConvDecoder(channels=(8, 4), dense=16, activation="tanh")
    z = jax.random.normal(jax.random.key(1), (1, 5))
    _, params = apply(decoder, z, output_shape=(7, 9, 1))
    jacobian = jax.jit(jax.jacobian(lambda z: decoder.apply({"params": params}, z, output_shape=(7, 9, 1))))(z)
    assert jnp.all(jnp.abs(jacobian).sum(axis=(-1, -2)) > 0)


def test_any_linen_module_gets_an_output_layer():
    out, params = apply(WithOutput(nn.Sequential([nn.Dense(6), nn.relu]), (4, 4, 2)), jnp.ones((3, 5)))
    chex.assert_shape(out, (3, 4, 4, 2))
    chex.assert_shape(params["output"]["kernel"], (6, 32))


def test_the_output_bias_starts_where_it_is_told():
    bias = jnp.arange(6.0).reshape(2, 3)
    out, _ = apply(WithOutput(jv.MLP(hidden=(4,)), (2, 3), lambda: bias), jnp.zeros((1, 5)))
    chex.assert_trees_all_close(out[0], bias)


@pytest.mark.parametrize("choice", [{"encoder": jv.ConvEncoder()}, {"decoder": jv.ConvDecoder()}])
def test_vectors_are_no_images(choice):
    model = jv.VAE(**{"event_shape": (64,), "latent_dim": 2, "encoder": jv.MLP(), "decoder": jv.MLP()} | choice)
    with pytest.raises(ValueError, match=r"needs images \[height, width, channels\].*use MLP"):
        jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize(
    ("choice", "shape"),
    [
        (jv.MLP(hidden=(30, 20)), {}),
        (jv.ConvEncoder(channels=(4, 6), dense=10), {}),
        pytest.param(jv.ConvDecoder(channels=(9, 4), dense=10), {"output_shape": (7, 9, 1)}, marks=pytest.mark.long),
    ],
)
def test_bfloat16_rounds_the_operands_of_products_alone(choice, shape):
    x = jax.random.normal(jax.random.key(1), (16, 8, 8, 1))
    rounded = choice.clone(compute="bfloat16")
    (_, params), (_, same) = (apply(network, x, **shape) for network in (choice, rounded))
    chex.assert_trees_all_equal(same, params)

    def grads(network):
        def total(params):
            y = network.apply({"params": params}, x, **shape)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(total, has_aux=True))(params)

    (exact_grads, exact), (grads_, near) = grads(choice), grads(rounded)
    for ours, reference in ((near, exact), *zip(*map(jax.tree.leaves, (grads_, exact_grads)), strict=True)):
        assert ours.dtype == jnp.float32
        error = jnp.linalg.norm(ours - reference) / jnp.linalg.norm(reference)
        assert 0 < error < 0.05, error  # a bfloat16 has 8 bits, and some relu units switch


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bool_])
@pytest.mark.parametrize("encoder", [jv.MLP(hidden=(4,)), jv.ConvEncoder(channels=(2,), dense=4)])
def test_whole_numbers_are_rounded_too(encoder, dtype):
    rounded, x = encoder.clone(compute="bfloat16"), jax.random.bernoulli(jax.random.key(1), 0.5, (3, 6, 6, 1))
    _, params = apply(rounded, x.astype(jnp.float32))
    value_and_grad = jax.jit(jax.value_and_grad(lambda p, x: rounded.apply({"params": p}, x).sum()))
    chex.assert_trees_all_equal(value_and_grad(params, x.astype(dtype)), value_and_grad(params, x.astype(jnp.float32)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("encoder", [jv.MLP(hidden=(4,)), jv.ConvEncoder(channels=(2,), dense=4)])
def test_with_double_precision_at_hand_parameters_are_float32(encoder, compute, dtype):
    with jax.enable_x64(True):
        x = jnp.ones((3, 6, 6, 1), dtype)
        network = encoder.clone(compute=compute)
        _, params = apply(network, x)
        grads, of_x = jax.jit(jax.grad(lambda p, x: network.apply({"params": p}, x).sum(), (0, 1)))(params, x)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {np.dtype("float32")}
    assert of_x.dtype == dtype


def test_compute_is_a_field_of_two_values():
    class Other(nn.Module):
        compute: Any = jnp.float32

        def __call__(self, x):
            return x

    class Method(nn.Module):
        def compute(self, x):
            return x

        def __call__(self, x):
            return self.compute(x)

    assert compute_of(jv.MLP(compute="bfloat16")) == "bfloat16"
    assert in_float32(jv.MLP(compute="bfloat16")) == jv.MLP()
    assert compute_of(Method()) is None
    assert in_float32(Method()) == Method()
    with pytest.raises(ValueError, match=r"Other\.compute is <class '.*float32'>; write float32 or bfloat16"):
        jax.eval_shape(WithOutput(Other(), (3,)).init, jax.random.key(0), jnp.ones((2, 4)))


def test_sums_of_bfloat16_products_are_float32():
    x, w = jnp.full((1, 4096), 1.0), jnp.full((4096, 1), 1.0).at[0].set(256.0)
    assert product(x, w, "bfloat16") == 4095 + 256  # a sum in bfloat16 would stop at 512


def test_layers_that_are_computed_again_are_not_kept():
    """For 24 layers in groups of 5, only the inputs of the groups are kept for the backward pass."""
    deep, x = jv.MLP(hidden=(64,) * 24, activation="tanh"), jnp.ones((512, 64))
    params = deep.init(jax.random.key(0), x)

    def kept(network):
        y, backward = jax.vjp(lambda params: network.apply(params, x), params)
        activations = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape == (512, 64)]
        return len(activations), backward(y)

    (all_of_them, grads), (few, same) = kept(deep), kept(deep.clone(remat_every=5))
    assert few <= 6 < 24 <= all_of_them
    chex.assert_trees_all_close(grads, same, rtol=1e-5)
