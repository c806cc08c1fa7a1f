"""Networks give the shapes they promise, for any image, and say what does not fit."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jaxvae as jv
from jaxvae.networks import WithOutput


def apply(network, x, **kwargs):
    variables = network.init(jax.random.key(0), x, **kwargs)
    return network.apply(variables, x, **kwargs), variables["params"]


@pytest.mark.parametrize("shape", [(28, 28, 1), (5,), (3, 4)])
def test_mlp_flattens_everything_but_the_batch(shape):
    out, params = apply(jv.MLP(hidden=(7, 4), activation="tanh"), jnp.ones((2, *shape)))
    chex.assert_shape(out, (2, 4))
    assert set(params) == {"dense_0", "dense_1"}
    assert abs(out).max() <= 1


@pytest.mark.parametrize("image", [(28, 28, 1), (27, 13, 3), (8, 8, 1), (1, 5, 2)])
def test_convolutions_take_any_image(image):
    features, _ = apply(jv.ConvEncoder(channels=(4, 6, 8), dense=10), jnp.ones((2, *image)))
    chex.assert_shape(features, (2, 10))
    wanted = (*image[:-1], 2 * image[-1])
    out, _ = apply(jv.ConvDecoder(channels=(8, 6, 4), dense=10), jnp.ones((2, 5)), output_shape=wanted)
    chex.assert_shape(out, (2, *wanted))


def test_a_decoders_pixels_all_depend_on_z():
    decoder = jv.ConvDecoder(channels=(8, 4), dense=16, activation="tanh")
    z = jax.random.normal(jax.random.key(1), (1, 5))
    variables = decoder.init(jax.random.key(0), z, output_shape=(7, 9, 1))
    jacobian = jax.jacobian(lambda z: decoder.apply(variables, z, output_shape=(7, 9, 1)))(z)
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
