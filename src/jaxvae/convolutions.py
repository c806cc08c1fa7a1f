"""Strided convolutions of images and adjacent dense layers, in the form that is fastest on the backend.

XLA's CPU backend has no fast path for the gradients of a strided convolution, and any convolution is slower inside a
loop. So on a CPU convolutions are matrix products; elsewhere they are XLA's own. Both compute the same functions, with
padding "SAME", and differ only by rounding.
"""

import dataclasses
import math
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxvae.numerics import product, rounded
from jaxvae.typing import Array, Compute, Shape


class Convolutions(Protocol):
    """Convolutions in a layout between `enter` and `leave`, whose axes 1 and 2 are height and width.

    A kernel is [k, k, C, C'], a bias [C']. `to_features` and `from_features` are the dense layers between such an array
    and features [N, A]: their kernels are [H·W·C, A] and [A, H·W·C].
    """

    def enter(self, images: Array) -> Array: ...  # from [N, H, W, C]

    def leave(self, x: Array) -> Array: ...  # to [N, H, W, C]

    def to_features(self, x: Array, kernel: Array, bias: Array) -> Array: ...

    def from_features(self, h: Array, kernel: Array, bias: Array, image: Shape) -> Array: ...  # image: (H, W, C)

    def num_channels(self, x: Array) -> int: ...

    def conv(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array: ...

    def conv_transpose(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array: ...

    # The same with float32 results, for a decoder's last layer.
    def output(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array: ...


def for_backend(compute: Compute = "float32") -> Convolutions:
    """The faster implementation for the default backend, with operands rounded to `compute`."""
    return ByProducts(compute) if jax.default_backend() == "cpu" else ByXLA(compute)


@dataclasses.dataclass(frozen=True)
class ByXLA:
    """XLA's own convolutions of [N, H, W, C].

    With bfloat16 their results and gradients are rounded too, but for the results of `output`.

    The next layer would round a hidden layer's results anyway, and XLA computes sums in float32 of 16-bit operands on
    a TPU alone: on a GPU it widens the operands.
    """

    compute: Compute = "float32"

    def enter(self, images: Array) -> Array:
        return images

    def leave(self, x: Array) -> Array:
        return x

    def to_features(self, x: Array, kernel: Array, bias: Array) -> Array:
        return product(x.reshape(x.shape[0], -1), kernel, self.compute) + bias[None]

    def from_features(self, h: Array, kernel: Array, bias: Array, image: Shape) -> Array:
        return (product(h, kernel, self.compute) + bias[None]).reshape(-1, *image)

    def num_channels(self, x: Array) -> int:
        return x.shape[3]

    def conv(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
        x, kernel = x.astype(self.compute), kernel.astype(self.compute)
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.astype(bias.dtype) + bias[None, None, None]

    def conv_transpose(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
        x, kernel = x.astype(self.compute), kernel.astype(self.compute)
        return _conv_transpose(x, kernel, stride).astype(bias.dtype) + bias[None, None, None]

    def output(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
        if self.compute == "float32":
            return self.conv_transpose(x, kernel, bias, stride=stride)
        y = _bfloat16_conv_transpose(x.astype(jnp.float32), kernel.astype(jnp.float32), stride)
        return y + bias[None, None, None]


def _conv_transpose(x: Array, kernel: Array, stride: int, sums: Any = None) -> Array:
    return jax.lax.conv_transpose(x, kernel, (stride, stride), "SAME", preferred_element_type=sums)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _bfloat16_conv_transpose(x: Array, kernel: Array, stride: int) -> Array:
    return _bfloat16_conv_transpose_fwd(x, kernel, stride)[0]


def _bfloat16_conv_transpose_fwd(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    operands = rounded(x), rounded(kernel)
    return _conv_transpose(*operands, stride, jnp.float32), operands


def _bfloat16_conv_transpose_bwd(stride: int, operands: tuple[Array, Array], g: Array) -> tuple[Array, ...]:
    _, pull = jax.vjp(lambda x, kernel: _conv_transpose(x, kernel, stride), *operands)
    return tuple(a.astype(jnp.float32) for a in pull(rounded(g)))


_bfloat16_conv_transpose.defvjp(_bfloat16_conv_transpose_fwd, _bfloat16_conv_transpose_bwd)


@dataclasses.dataclass(frozen=True)
class ByProducts:
    """Matrix products over [C, H, W, N]: with the batch last, copies move contiguous rows of it.

    A k × k kernel with stride s is equivalent to a T × T kernel without stride, T = ⌈k / s⌉, over blocks of s × s
    pixels. So the only copies besides the product are T · T shifts, of a convolution's blocks or of a transposed one's
    smaller side, and the gradient adds up no more than these.
    """

    compute: Compute = "float32"

    def enter(self, images: Array) -> Array:
        return images.transpose(3, 1, 2, 0)

    def leave(self, x: Array) -> Array:
        return x.transpose(3, 1, 2, 0)

    def to_features(self, x: Array, kernel: Array, bias: Array) -> Array:
        rows = x.transpose(1, 2, 0, 3).reshape(-1, x.shape[3])
        return product(kernel.T, rows, self.compute).T + bias[None]

    def from_features(self, h: Array, kernel: Array, bias: Array, image: Shape) -> Array:
        rows = product(kernel.T, h.T, self.compute) + bias[:, None]
        return rows.reshape(*image, -1).transpose(2, 0, 1, 3)

    def num_channels(self, x: Array) -> int:
        return x.shape[0]

    def conv(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
        channels, *image, num = x.shape
        taps, width = _num_taps(kernel, stride), kernel.shape[3]
        height, breadth = (math.ceil(n / stride) for n in image)
        blocks = jax.lax.pad(
            x, jnp.zeros((), x.dtype), [(0, 0, 0), *(_padding(n, len(kernel), stride) for n in image), (0, 0, 0)]
        )
        blocks = blocks.reshape(channels, height + taps - 1, stride, breadth + taps - 1, stride, num)
        patches = _shifted(jax.lax.optimization_barrier(blocks.transpose(2, 4, 0, 1, 3, 5)), taps)
        y = product(_by_taps(kernel, stride).reshape(-1, width).T, patches, self.compute)
        return y.reshape(width, height, breadth, num) + bias[:, None, None, None]

    def conv_transpose(self, x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
        channels, height, breadth, num = x.shape
        taps, width = _num_taps(kernel, stride), kernel.shape[3]
        to_blocks = self._gathered if channels < stride**2 * width else self._spread
        blocks = to_blocks(x, _by_taps(kernel[::-1, ::-1].swapaxes(2, 3), stride))
        rows, columns = height + taps - 1, breadth + taps - 1
        full = blocks.reshape(stride, stride, width, rows, columns, num).transpose(2, 3, 0, 4, 1, 5)
        full = full.reshape(width, stride * rows, stride * columns, num)
        first = max(0, len(kernel) - stride) // 2  # where "SAME" begins in `jax.lax.conv_transpose`
        full = full[:, first : first + stride * height, first : first + stride * breadth]
        return full + bias[:, None, None, None]

    output = conv_transpose

    def _gathered(self, x: Array, kernel: Array) -> Array:
        """Each block of s · s · C' from the T · T entries of x that reach it; the kernel is [T, T, s, s, C', C]."""
        taps = len(kernel)
        beyond = (taps - 1, taps - 1)
        padded = jnp.pad(x, [(0, 0), beyond, beyond, (0, 0)])
        # The first entry that reaches a block does so with its last tap.
        kernel = kernel[::-1, ::-1].transpose(2, 3, 4, 0, 1, 5).reshape(math.prod(kernel.shape[2:5]), -1)
        return product(kernel, _shifted(padded, taps), self.compute)

    def _spread(self, x: Array, kernel: Array) -> Array:
        """The blocks of `_gathered`, as the sum of what each entry of x adds to T · T of them."""
        taps, stride, width, channels = kernel.shape[0], *kernel.shape[3:]
        y = product(kernel.reshape(-1, channels), x.reshape(channels, -1), self.compute)
        blocks = jnp.zeros((), x.dtype)
        for n, part in enumerate(jnp.split(y, taps**2)):  # the gradient of a split is one copy, of indexing many sums
            part = part.reshape(stride, stride, width, *x.shape[1:])
            around = [(i, taps - 1 - i) for i in divmod(n, taps)]
            blocks = blocks + jnp.pad(part, [(0, 0)] * 3 + around + [(0, 0)])
        return blocks


def _shifted(x: Array, taps: int) -> Array:
    """The T · T shifts of [..., H + T - 1, W + T - 1, N], stacked: [T · T · ..., H · W · N]."""
    height, breadth = (n - taps + 1 for n in x.shape[-3:-1])
    copies = jnp.stack([x[..., i : i + height, j : j + breadth, :] for i in range(taps) for j in range(taps)])
    # Without barriers XLA would make each copy separately, and then copy all of them again.
    return jax.lax.optimization_barrier(copies.reshape(-1, height * breadth * x.shape[-1]))


def _num_taps(kernel: Array, stride: int) -> int:
    return math.ceil(len(kernel) / stride)


def _by_taps(kernel: Array, stride: int) -> Array:
    """[k, k, A, B] -> [T, T, s, s, A, B], with zeros where the blocks reach beyond the kernel."""
    taps = _num_taps(kernel, stride)
    beyond = (0, stride * taps - len(kernel))
    padded = jnp.pad(kernel, [beyond, beyond, (0, 0), (0, 0)])
    return padded.reshape(taps, stride, taps, stride, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)


def _padding(num: int, size: int, stride: int) -> tuple[int, int, int]:
    """Padding around an axis of `num` pixels, so that "SAME"'s windows begin with a block and end within one."""
    out, taps = math.ceil(num / stride), math.ceil(size / stride)
    before = max((out - 1) * stride + size - num, 0) // 2
    return before, (out + taps - 1) * stride - num - before, 0
