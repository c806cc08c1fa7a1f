"""The uniform and normal draws of `jax.random`, identical to the last bit and several times faster on a CPU.

On a CPU, JAX runs the rounds of Threefry as a loop, each over whole arrays in memory. Binarizing a batch of MNIST anew
took a good part of a dense training step. Unrolled, the rounds are one pass.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.typing import Array, Key, Shape

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of Threefry-2x32; Salmon et al. (2011)
_PARITY = np.uint32(0x1BD11BDA)
_COUNTED = 2**32  # the draws that a 32-bit counter can number


@partial(jax.jit, static_argnames="shape")
def uniform(key: Key, shape: Shape) -> Array:
    """Uniform float32 draws in [0, 1), the same as those of `jax.random.uniform`."""
    if not _is_threefry(key, shape):
        return jax.random.uniform(key, shape, jnp.float32)
    # 23 random bits behind the exponent of 1 make a number in [1, 2).
    mantissa = jax.lax.shift_right_logical(_bits(key, shape), np.uint32(9))
    return jax.lax.bitcast_convert_type(mantissa | np.uint32(0x3F800000), jnp.float32) - 1.0


@partial(jax.jit, static_argnames="shape")
def bernoulli(key: Key, logits: Array, shape: Shape) -> Array:
    """Booleans that are true with probability sigmoid(logits), within 2⁻²⁶ of it, and within 2⁻³³ very near 0 or 1.

    `jax.random.bernoulli` compares with uniform draws of 23 bits. 0 is one of them, so that even an event of
    probability 1e-12 comes with 2⁻²³, and one of probability 1 - 1e-9 always. Except for such events, the draws here
    are the same.
    """
    logits = jnp.broadcast_to(logits, shape).astype(jnp.float32)
    bits = _bits(key, shape) if _is_threefry(key, shape) else jax.random.bits(key, shape, jnp.uint32)
    likely = logits > 0.0
    bits = jnp.where(likely, ~bits, bits)
    # The rarer of the two events: float32 has enough digits near 0, but not near 1.
    high, low = jax.lax.shift_right_logical(bits, np.uint32(9)), bits & np.uint32(511)
    u = high.astype(jnp.float32) * 2.0**-23 + (low.astype(jnp.float32) + 0.5) * 2.0**-32
    return (u < jax.nn.sigmoid(-jnp.abs(logits))) ^ likely


@partial(jax.jit, static_argnames=("shape", "dtype"))
def normal(key: Key, shape: Shape, dtype: jax.typing.DTypeLike = jnp.float32) -> Array:
    """Draws from N(0, 1), the same as those of `jax.random.normal`."""
    if jnp.dtype(dtype) != jnp.float32 or not _is_threefry(key, shape):
        return jax.random.normal(key, shape, dtype)
    above_minus_one = np.nextafter(np.float32(-1.0), np.float32(0.0))
    u = jnp.maximum(above_minus_one, uniform(key, shape) * 2.0 + above_minus_one)
    return np.float32(math.sqrt(2.0)) * jax.lax.erf_inv(u)


def as_threefry(key: Key) -> Key:
    """A key of JAX's default kind: the key itself, or one made from the bits of a key of another kind."""
    if str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl="threefry2x32")


def _is_threefry(key: Key, shape: Shape) -> bool:
    return (
        str(jax.random.key_impl(key)) == "threefry2x32"
        and all(isinstance(n, int) for n in shape)  # not known in `jax.export` of a program for any batch
        and getattr(jax.config, "jax_threefry_partitionable", True)
        and math.prod(shape) < _COUNTED
    )


def _bits(key: Key, shape: Shape) -> Array:
    """32 random bits for each entry: its index, encrypted by Threefry with the key."""
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ _PARITY)
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    a, b = jnp.broadcast_to(keys[0], shape), place + keys[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation)))
        a, b = a + keys[(i + 1) % 3], b + (keys[(i + 2) % 3] + np.uint32(i + 1))
    return a ^ b
