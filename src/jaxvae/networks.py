"""Networks: linen modules that turn arrays into features. They do not depend on distributions.

Any `flax.linen.Module` that maps [N, ...] to [N, ...] can be an encoder or a decoder: the model flattens its result and
adds a linear output layer. A network whose `__call__` also takes `output_shape` must return exactly this shape, and so
makes its own output layer; `ConvDecoder` does.
"""

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvae import convolutions
from jaxvae.checks import require, require_number
from jaxvae.numerics import product
from jaxvae.typing import Array, Compute, Shape

Activation: TypeAlias = Literal["elu", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh"]


def _activate(name: Activation, x: Array) -> Array:
    return getattr(jax.nn, name)(x)


def _dense(features: int, compute: Compute, **kwargs: Any) -> nn.Dense:
    def dot_general(x: Array, kernel: Array, dimensions: Any, **_: Any) -> Array:
        return product(x, kernel, compute)

    return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform(), dot_general=dot_general, **kwargs)


class MLP(nn.Module):
    """Dense layers with an activation after each: [N, ...] -> [N, hidden[-1]].

    With `hidden=()` it only flattens, and the model's output layer makes it a linear map.
    """

    hidden: tuple[int, ...] = (200, 200)
    """The width of each layer, from input to output."""
    activation: Activation = "relu"
    """The activation after each layer."""
    compute: Compute = "float32"
    """The type of the operands of products, also in the output layer; parameters and sums are always float32."""
    remat_every: int | None = None
    """For deep networks: how many consecutive layers are recomputed in the backward pass, so that only the input of the
    first is kept in memory (Chen et al., 2016); None: all activations are kept."""

    def __post_init__(self) -> None:
        _check(self, "hidden")
        require_number(self, "remat_every", low=1, integer=True, optional=True)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def layers(self: MLP, h: Array, first: int, last: int) -> Array:
            for i, width in enumerate(self.hidden[first:last], first):
                h = _activate(self.activation, _dense(width, self.compute, name=f"dense_{i}")(h))
            return h

        h = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        if self.remat_every is None:
            return layers(self, h, 0, len(self.hidden))
        for first in range(0, len(self.hidden), self.remat_every):
            last = first + self.remat_every
            h = nn.remat(lambda mdl, h, first=first, last=last: layers(mdl, h, first, last))(self, h)
        return h


class _Weights(nn.Module):
    """A kernel, and a bias for each of its outputs, under linen's names."""

    shape: Shape  # of the kernel
    initializer: Callable[..., Array]

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = self.param("kernel", self.initializer, self.shape, jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros_init(), self.shape[-1:], jnp.float32)


def _dense_weights(inputs: int, outputs: int, name: str) -> tuple[Array, Array]:
    return _Weights((inputs, outputs), nn.initializers.glorot_uniform(), name=name)()


def _conv_weights(size: int, inputs: int, outputs: int, name: str) -> tuple[Array, Array]:
    return _Weights((size, size, inputs, outputs), nn.initializers.he_normal(), name=name)()


class ConvEncoder(nn.Module):
    """Strided convolutions, then a dense layer: images [N, H, W, C] of any size -> [N, dense]."""

    channels: tuple[int, ...] = (32, 64)
    """The channels of each convolution; each halves height and width, rounding up."""
    kernel_size: int = 4
    """Height and width of each kernel, at least the stride of 2: a smaller one would pass over pixels."""
    dense: int = 256
    """The width of the dense layer."""
    activation: Activation = "relu"
    """The activation after each layer."""
    compute: Compute = "float32"
    """The type of the operands of products, also in the output layer, and, off a CPU, of the results and gradients of
    convolutions; the results of the output layer, parameters and all else are always float32."""

    def __post_init__(self) -> None:
        _check(self, "channels", kernel_size=2, dense=1)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _require_image("ConvEncoder", x.shape[1:])
        by = convolutions.for_backend(self.compute)
        h = by.enter(x)
        for i, width in enumerate(self.channels):
            weights = _conv_weights(self.kernel_size, by.num_channels(h), width, f"conv_{i}")
            h = _activate(self.activation, by.conv(h, *weights, stride=2))
        weights = _dense_weights(h.size // x.shape[0], self.dense, "dense")
        return _activate(self.activation, by.to_features(h, *weights))


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`, including the output layer: [N, D] -> [N, H, W, C] for any image size.

    Each transposed convolution doubles height and width; for odd sizes the excess is cut off. The last one is the
    output layer, with as many channels as the likelihood needs.
    """

    channels: tuple[int, ...] = (64, 32)
    """The input channels of each transposed convolution, from first to last."""
    kernel_size: int = 4
    """Height and width of each kernel, at least the stride of 2: a smaller one would pass over pixels."""
    dense: int = 256
    """The width of the first dense layer."""
    activation: Activation = "relu"
    """The activation after each layer but the last."""
    compute: Compute = "float32"
    """The type of the operands of products, also in the output layer, and, off a CPU, of the results and gradients of
    convolutions; the results of the output layer, parameters and all else are always float32."""

    def __post_init__(self) -> None:
        _check(self, "channels", kernel_size=2, dense=1)
        require(len(self.channels) > 0, "ConvDecoder.channels is empty; write one or more, such as (64, 32)")
        super().__post_init__()

    @nn.compact
    def __call__(self, z: Array, output_shape: Shape) -> Array:
        _require_image("ConvDecoder", output_shape)
        *image, out = output_shape
        sizes = [tuple(math.ceil(n / 2**i) for n in image) for i in range(len(self.channels), -1, -1)]
        h = _activate(self.activation, _dense(self.dense, self.compute, name="dense")(z.reshape(z.shape[0], -1)))
        by = convolutions.for_backend(self.compute)
        smallest = (*sizes[0], self.channels[0])
        h = by.from_features(h, *_dense_weights(self.dense, math.prod(smallest), "project"), smallest)
        for i, (width, (height, breadth)) in enumerate(zip((*self.channels[1:], out), sizes[1:], strict=True)):
            weights = _conv_weights(self.kernel_size, by.num_channels(h), width, f"conv_{i}")
            convolve = by.output if i == len(self.channels) - 1 else by.conv_transpose
            h = convolve(_activate(self.activation, h), *weights, stride=2)[:, :height, :breadth]
        return by.leave(h)


class WithOutput(nn.Module):
    """A network and, unless it makes its own, a linear output layer: [N, ...] -> [N, *output_shape]."""

    network: nn.Module
    output_shape: Shape
    initial_bias: Callable[[], Array] | None = None  # [*output_shape]; None: zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        own = makes_own_output(self.network)
        h: Any = self.network(x, output_shape=self.output_shape) if own else self.network(x)
        num = x.shape[0]  # `len` fails in `jax.export` of a program for any number
        shape, wanted = getattr(h, "shape", None), (num, *self.output_shape)
        what = type(h).__name__ if shape is None else f"the shape {shape}"
        returns = f"{type(self.network).__name__} returns {what} for {num} examples"
        if own:
            require(shape == wanted, f"{returns}; write an array of the shape {wanted}, (examples, *output_shape)")
            return h
        require(
            isinstance(shape, tuple) and shape[:1] == wanted[:1],
            f"{returns}; write an array of features, ({num}, ...)",
        )
        size = math.prod(self.output_shape)
        bias = self.initial_bias
        bias_init = nn.initializers.zeros_init() if bias is None else lambda *_: jnp.ravel(bias())
        compute = compute_of(self.network) or "float32"
        out = _dense(size, compute, bias_init=bias_init, name="output")(h.reshape(h.shape[0], math.prod(h.shape[1:])))
        return out.reshape(num, *self.output_shape)


def compute_of(network: nn.Module) -> Compute | None:
    """The precision of a network's products, which is that of the output layer too; None: it has no field `compute`.

    Raises:
      ValueError: the field has another value.
    """
    if "compute" not in (field.name for field in dataclasses.fields(network)):
        return None
    require(
        isinstance(network.compute, str) and network.compute in get_args(Compute),
        f"{type(network).__name__}.compute is {network.compute!r}; write float32 or bfloat16, for the output layer "
        "too, or give the field another name",
    )
    return network.compute


def in_float32(network: nn.Module) -> nn.Module:
    """The same network, with its products in float32; it takes the same parameters."""
    return network if compute_of(network) is None else network.clone(compute="float32")


def makes_own_output(network: nn.Module) -> bool:
    """Whether a network's `__call__` asks for `output_shape`."""
    return "output_shape" in inspect.signature(type(network).__call__).parameters


def _check(network: nn.Module, layers: str, **smallest: int) -> None:
    """Refuses arguments that linen would accept, and fail with at the first batch."""
    name, widths = type(network).__name__, getattr(network, layers)
    whole = isinstance(widths, tuple | list) and all(
        isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in widths
    )
    ok = whole and all(int(n) >= 1 for n in widths)
    require(ok, f"{name}.{layers} is {widths!r}; write whole numbers of at least 1, such as (200,)")
    object.__setattr__(network, layers, tuple(widths))  # a list has no hash
    for size, low in smallest.items():
        require_number(network, size, low=low, integer=True)
    _require_choice(network, "activation", get_args(Activation))
    _require_choice(network, "compute", get_args(Compute))


def _require_choice(network: nn.Module, field: str, known: tuple[str, ...]) -> None:
    value = getattr(network, field)
    require(value in known, f"{type(network).__name__}.{field} is {value!r}; write one of {', '.join(known)}")


def _require_image(name: str, shape: Shape) -> None:
    require(
        len(shape) == 3,
        f"{name} needs images [height, width, channels], but an event here has the shape {shape}; use MLP",
    )
