"""The floating-point operations of a program's matrix products and convolutions, counted in its jaxpr.

XLA's own count omits the operations of the libraries that it calls, and counts the body of a loop once.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core


def products(f: Callable[..., Any], *args: Any) -> Counter[str]:
    """The number of operations in the products of `f(*args)`, by the operands' dtype; a multiply-add counts two.

    The body of a `scan` counts as often as it runs, a `cond` counts as its most expensive branch, and the body of a
    `while` counts once, since its number of iterations is unknown. The zeros with which a convolution pads or dilates
    do not count. A product with a vector, or of two vectors, does not count either: its time is that of reading or
    writing memory, and the library writes its sums as such products.

    Args:
      f: a function that can be traced; nothing is compiled or computed.
      *args: its arguments, or their shapes.
    """
    return _of_jaxpr(jax.make_jaxpr(f)(*args).jaxpr)


def _of_jaxpr(jaxpr: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        total += _of_equation(equation)
    return total


def _of_equation(equation: Any) -> Counter[str]:
    name = equation.primitive.name
    if name in _COUNTS:
        return +Counter({str(equation.invars[0].aval.dtype): _COUNTS[name](equation)})
    inner = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs_in(equation.params)]
    if name == "cond":
        return max(inner, key=Counter.total)
    times = equation.params["length"] if name == "scan" else 1
    return Counter({dtype: times * count for dtype, count in sum(inner, Counter()).items()})


def _jaxprs_in(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _dot_general(equation: Any) -> int:
    contracted, batch = equation.params["dimension_numbers"]
    shapes = [v.aval.shape for v in equation.invars]
    rows, columns = (
        math.prod(n for axis, n in enumerate(shape) if axis not in (*inner, *outer))
        for shape, inner, outer in zip(shapes, contracted, batch, strict=True)
    )
    depth, times = (math.prod(shapes[0][axis] for axis in axes[0]) for axes in (contracted, batch))
    return 0 if min(rows, columns, depth) == 1 else 2 * times * rows * columns * depth


def _convolution(equation: Any) -> int:
    lhs, rhs = (v.aval.shape for v in equation.invars)
    out, params = equation.outvars[0].aval.shape, equation.params
    lhs_axes, rhs_axes, out_axes = params["dimension_numbers"]
    per_position = out[out_axes[0]] * out[out_axes[1]] * rhs[rhs_axes[1]]
    pairs = math.prod(
        _pairs(lhs[i], rhs[k], out[o], params["window_strides"][axis], params["padding"][axis][0], dilations)
        for axis, (i, k, o) in enumerate(zip(lhs_axes[2:], rhs_axes[2:], out_axes[2:], strict=True))
        for dilations in [(params["lhs_dilation"][axis], params["rhs_dilation"][axis])]
    )
    return 2 * per_position * pairs


def _pairs(size: int, window: int, out: int, stride: int, padding: int, dilations: tuple[int, int]) -> int:
    """Along one axis, the number of pairs of an output and a window entry that meet an input entry."""
    of_input, of_window = dilations
    at = np.arange(out)[:, None] * stride + np.arange(window)[None] * of_window - padding
    return int(np.sum((at >= 0) & (at <= (size - 1) * of_input) & (at % of_input == 0)))


_COUNTS = {"dot_general": _dot_general, "conv_general_dilated": _convolution}
