"""What the distributions share: the reparameterized draw, and sums over independent entries."""

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
      [*sample_shape, *batch, D].

    Raises:
      ValueError: `std` does not broadcast to the shape of `mean`.
    """
    shape = jnp.shape(mean)
    require(
        jnp.broadcast_shapes(shape, jnp.shape(std)) == shape,
        f"std {jnp.shape(std)} does not broadcast to mean {shape}, each entry of which gets one draw; broadcast mean",
    )
    epsilon = draws.normal(key, sample_shape + shape, jnp.result_type(mean))
    return image_of(epsilon, mean, std)


def image_of(epsilon: Array, mean: Array, std: Array) -> Array:
    """mean + std · ε for ε [*sample_shape, *batch, D]: what `reparameterize` returns for it."""
    mean, std = (jnp.expand_dims(a, tuple(range(epsilon.ndim - jnp.ndim(a)))) for a in (mean, std))
    return mean + std * epsilon


def static(default: Any) -> Any:
    """A field that is part of a pytree's structure, and no array in it."""
    return dataclasses.field(default=default, metadata={"static": True})


def pytree(cls: type[_Class]) -> type[_Class]:
    """Registers a dataclass as a pytree: the fields that are not `static` are its children, its class is structure.

    `jax.tree_util.register_dataclass` leaves the class out (jax 0.10 to 0.12): two dataclasses of as many fields have
    structures that are equal and differ in their hash only, and where a few bits of the hashes agree, which is the case
    for about one pair in sixty, `jax.jit` runs the program that it compiled for the one on the other.
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
        """The entries, each by itself; of dependent entries a distribution of another class, where that is known."""
        return self

    def log_prob(self, value: Array) -> Array:
        """log density or mass at `value` [..., *batch, *event], in nats: [..., *batch]."""
        return numerics.sum_last(self.log_prob_by_entry(value), self.event_ndims)

    def marginal_log_prob(self, value: Array, observed: Array) -> Array:
        """That of the entries that are `observed` (true or false, of the shape of `value`): [..., *batch]."""
        by_entry = self.log_prob_by_entry(jnp.where(observed, value, 0.0))  # what is not may be NaN
        return numerics.sum_last(jnp.where(observed, by_entry, 0.0), self.event_ndims)


def log_prob_by_latent(q: Independent, z: Array) -> Array:
    """log density of each entry of each z, by itself, under each of a batch of distributions of independent entries.

    Args:
      q: of batch shape [B] over [D], with parameters [B, D], or of shapes that broadcast to that together.
      z: [..., N, D].

    Returns:
      [..., D, N, B], in nats. The pairs are last: on a CPU, sums over them take long where they lie apart.
    """
    shape = jnp.broadcast_shapes(*(parameter.shape for parameter in jax.tree.leaves(q)))
    whole = jax.tree.map(lambda parameter: jnp.broadcast_to(parameter, shape), q)
    return jax.vmap(lambda q, z: q.log_prob_by_entry(z[..., None]), in_axes=-1, out_axes=-3)(whole, z)


def sample_and_log_prob(q: Distribution, key: Key, sample_shape: Shape = ()) -> tuple[Array, Array]:
    """Draws and their log-densities, with gradients through both.

    A distribution that has a shorter way than its `log_prob`, as a flow has, has a method of this name.
    """
    own = getattr(q, "sample_and_log_prob", None)
    if own is not None:
        z, log_q = own(key, sample_shape)
        return z, log_q
    z = q.sample(key, sample_shape)
    return z, q.log_prob(z)
