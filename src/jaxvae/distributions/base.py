"""Shared parts of the distributions: the reparameterized draw, pytrees, and sums over independent entries."""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxvae import draws, numerics
from jaxvae.checks import require
from jaxvae.typing import Array, Distribution, Key, Shape

_Class = TypeVar("_Class")


def reparameterize(key: Key, mean: Array, std: Array, *, sample_shape: Shape = ()) -> Array:
    """z = mean + std · ε with ε ~ N(0, I) drawn from `key`: the lecture's reparameterization.

    The draw depends on no parameter, so the gradient of an expectation over z passes through `mean` and `std`;
    Kingma and Welling (2014), section 2.4.

    Args:
      key: the only source of randomness.
      mean: [*batch, D].
      std: [*batch, D], or a shape that broadcasts to it.
      sample_shape: leading axes of independent draws.

    Returns:
      [*sample_shape, *batch, D], in float32 or more: noise of 16 bits is not N(0, 1), nor is what it is added to.

    Raises:
      ValueError: `std` does not broadcast to the shape of `mean`.
    """
    shape = jnp.shape(mean)
    require(
        jnp.broadcast_shapes(shape, jnp.shape(std)) == shape,
        f"std {jnp.shape(std)} does not broadcast to mean {shape}, each entry of which gets one draw; broadcast mean",
    )
    epsilon = draws.normal(key, sample_shape + shape, jnp.result_type(jnp.float32, mean))
    return image_of(epsilon, mean, std)


def image_of(epsilon: Array, mean: Array, std: Array) -> Array:
    """mean + std · ε for ε [*sample_shape, *batch, D], the draw that `reparameterize` makes of it."""
    mean, std, epsilon = numerics.aligned(mean, std, epsilon)
    return mean + std * epsilon


def static(default: Any) -> Any:
    """A dataclass field that is part of the pytree's structure, not one of its arrays."""
    return dataclasses.field(default=default, metadata={"static": True})


def pytree(cls: type[_Class]) -> type[_Class]:
    """Registers a dataclass as a pytree. Its children are the fields that are not `static`; its class is structure.

    `jax.tree_util.register_dataclass` leaves the class out (jax 0.10 to 0.12). The structures of two dataclasses with
    the same number of fields are then equal and differ only in their hash. Where a few bits of the hashes agree,
    `jax.jit` runs the program compiled for one class on the other.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    children = [f.name for f in fields if not f.metadata.get("static")]
    rest = [f.name for f in fields if f.metadata.get("static")]

    def flatten(tree: _Class) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(tree, n) for n in children), tuple(getattr(tree, n) for n in rest)

    def flatten_with_keys(tree: _Class) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        values, structure = flatten(tree)
        return tuple(zip(map(jax.tree_util.GetAttrKey, children), values, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], values: Iterable[Any]) -> _Class:
        return cls(**dict(zip(children, values, strict=True)), **dict(zip(rest, structure, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Independent(abc.ABC):
    """Independent entries: the log-density of the event is the sum of theirs."""

    event_ndims: int

    @abc.abstractmethod
    def log_prob_by_entry(self, value: Array) -> Array:
        """log density or mass of each entry at `value` [..., *batch, *event], in nats: the same shape."""

    @property
    def marginals(self) -> "Independent":
        """The marginal distributions of the entries; of another class where entries are dependent, if known."""
        return self

    def log_prob(self, value: Array) -> Array:
        """log density or mass at `value` [..., *batch, *event], in nats: [..., *batch]."""
        return numerics.sum_last(self.log_prob_by_entry(value), self.event_ndims)

    def marginal_log_prob(self, value: Array, observed: Array) -> Array:
        """log density or mass of the entries where `observed`, booleans of `value`'s shape, is true: [..., *batch]."""
        by_entry = self.log_prob_by_entry(jnp.where(observed, value, 0.0))  # unobserved entries may be NaN
        return numerics.sum_last(jnp.where(observed, by_entry, 0.0), self.event_ndims)


def log_prob_by_latent(q: Independent, z: Array) -> Array:
    """log density of each entry of each z under each of a batch of distributions with independent entries.

    Args:
      q: a batch [B] of distributions over [D]; its parameters broadcast together to [B, D].
      z: [..., N, D].

    Returns:
      [..., D, N, B], in nats. The pairs are last, since sums over strided pairs are slow on a CPU.
    """
    shape = jnp.broadcast_shapes(*(parameter.shape for parameter in jax.tree.leaves(q)))
    whole = jax.tree.map(lambda parameter: jnp.broadcast_to(parameter, shape), q)
    return jax.vmap(lambda q, z: q.log_prob_by_entry(z[..., None]), in_axes=-1, out_axes=-3)(whole, z)


def sample_and_log_prob(q: Distribution, key: Key, sample_shape: Shape = ()) -> tuple[Array, Array]:
    """Draws and their log-densities, with gradients through both.

    A distribution with a cheaper way than its `log_prob`, such as a flow, defines a method of this name.
    """
    own = getattr(q, "sample_and_log_prob", None)
    if own is not None:
        z, log_q = own(key, sample_shape)
        return z, log_q
    z = q.sample(key, sample_shape)
    return z, q.log_prob(z)
