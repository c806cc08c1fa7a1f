"""Normal distributions with a diagonal, a full, or a diagonal plus low-rank covariance."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxvae import draws, numerics
from jaxvae.distributions.base import Independent, image_of, pytree, reparameterize, static
from jaxvae.typing import Array, Key, Shape

_LOG_2PI = 1.8378770664093453


@pytree
@dataclasses.dataclass(frozen=True)
class Normal(Independent):
    """Independent normals: N(mean, diag(exp(log_var)))."""

    mean: Array  # [*batch, *event]
    log_var: Array  # [*batch, *event], or a shape that broadcasts to it
    event_ndims: int = static(1)

    @property
    def variance(self) -> Array:
        return jnp.exp(*numerics.aligned(self.log_var))

    @property
    def std(self) -> Array:
        (log_var,) = numerics.aligned(self.log_var)
        return jnp.exp(0.5 * log_var)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, *event]."""
        return reparameterize(key, self.mean, self.std, sample_shape=sample_shape)

    def sample_and_log_prob(self, key: Key, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Draws and their log-densities, computed from ε so that no difference loses precision."""
        shape = jnp.shape(self.mean)
        epsilon = draws.normal(key, sample_shape + shape, jnp.result_type(jnp.float32, self.mean))
        of_epsilon, log_var = numerics.aligned(epsilon, jnp.broadcast_to(self.log_var, shape))
        quadratic = numerics.sum_last(jnp.square(of_epsilon), self.event_ndims)
        constant = numerics.sum_last(_LOG_2PI + log_var, self.event_ndims)
        return image_of(epsilon, self.mean, self.std), -0.5 * (constant + quadratic)

    def log_prob_by_entry(self, value: Array) -> Array:
        """log density of each entry of `value` [..., *batch, *event], in nats: the same shape."""
        return numerics.normal_log_density(*numerics.aligned(self.mean, self.log_var, value))

    def log_prob_of_each(self, value: Array) -> Array:
        """log density of `value` [..., D] under each of a batch [K] of normals, in nats: [..., K]."""
        mean, log_var, x = numerics.aligned(self.mean, self.log_var, value.reshape(-1, value.shape[-1]))
        log_var = jnp.broadcast_to(log_var, mean.shape)
        quadratic = _squared_distances(x, mean, jnp.exp(-log_var))
        constant = x.shape[-1] * _LOG_2PI + numerics.sum_last(log_var, 1)
        return -0.5 * (constant[None] + quadratic).reshape(*value.shape[:-1], len(mean))


_ROWS = 16  # few enough that all their differences fit in a cache


def _squared_distances(x: Array, mean: Array, precision: Array) -> Array:
    """Σ_d precision_kd (x_nd - mean_kd)² for x [N, D] and `mean` and `precision` [K, D]: [N, K].

    Expanding the square gives two matrix products, which take far less time than N K D differences. But digits cancel
    where a point is much nearer to a mean than to the centre of all means. If the error of any pair would matter, the
    differences are computed.
    """
    middle = jax.lax.stop_gradient(jnp.mean(mean, axis=0, keepdims=True))
    x, mean = x - middle, mean - middle
    both = jnp.matmul(x, (precision * mean).T, precision="highest")
    apart = jnp.matmul(jnp.square(x), precision.T, precision="highest")
    apart = apart + jnp.sum(precision * jnp.square(mean), axis=-1)[None]
    squares = numerics.not_negative(apart - 2.0 * both)
    lost = jnp.finfo(jnp.float32).eps * apart - 1e-4 * squares

    def long_way(x: Array, mean: Array, precision: Array) -> Array:
        @jax.checkpoint  # of each chunk: the gradient of the whole would keep the differences of all chunks
        def one(x: Array) -> Array:
            return numerics.sum_last(precision * jnp.square(x[None] - mean), 1)

        return jax.lax.map(one, x, batch_size=_ROWS)

    return jax.lax.cond(
        jnp.max(jax.lax.stop_gradient(lost), initial=0.0) < 1e-3,
        lambda squares, *_: squares,
        lambda _, *arrays: long_way(*arrays),
        squares,
        x,
        mean,
        precision,
    )


@pytree
@dataclasses.dataclass(frozen=True)
class MultivariateNormal:
    """N(mean, L Lᵀ) with L lower triangular."""

    mean: Array  # [*batch, D]
    scale_tril: Array  # [*batch, D, D], positive on the diagonal

    @property
    def variance(self) -> Array:
        """The variance of each entry, [*batch, D]."""
        (tril,) = numerics.aligned(self.scale_tril)
        return jnp.sum(jnp.square(tril), axis=-1)

    @property
    def std(self) -> Array:
        return jnp.sqrt(self.variance)

    @property
    def marginals(self) -> Normal:
        """The marginal distributions of the entries."""
        return Normal(self.mean, jnp.log(self.variance))

    @property
    def log_det(self) -> Array:
        """log det of the covariance, [*batch]."""
        (diagonal,) = numerics.aligned(jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1))
        return 2.0 * numerics.sum_last(jnp.log(diagonal), 1)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, D]."""
        return self._image(self._noise(key, sample_shape))

    def sample_and_log_prob(self, key: Key, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Draws and their log-densities, without solving a linear system."""
        epsilon = self._noise(key, sample_shape)
        return self._image(epsilon), self._log_density(numerics.sum_last(jnp.square(epsilon), 1))

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., *batch, D], in nats: [..., *batch]."""
        mean, value = numerics.aligned(self.mean, value)
        difference = value - mean
        batch = self.scale_tril.shape[:-2]
        # One triangular solve for all draws of an example, as columns of a matrix.
        columns = jnp.moveaxis(_with_one_axis_before(difference, len(batch) + 1), 0, -1)
        tril = self.scale_tril.astype(columns.dtype)
        solved = jnp.moveaxis(jax.lax.linalg.triangular_solve(tril, columns, left_side=True, lower=True), -1, 0)
        return self._log_density(numerics.sum_last(jnp.square(solved), 1).reshape(difference.shape[:-1]))

    def _noise(self, key: Key, sample_shape: Shape) -> Array:
        return draws.normal(key, sample_shape + self.mean.shape, jnp.result_type(jnp.float32, self.mean))

    def _image(self, epsilon: Array) -> Array:
        (mean,) = numerics.aligned(self.mean)
        return mean[(None,) * (epsilon.ndim - self.mean.ndim)] + _times(self.scale_tril, epsilon)

    def _log_density(self, quadratic: Array) -> Array:
        log_det = self.log_det[(None,) * (quadratic.ndim - self.mean.ndim + 1)]
        return -0.5 * (self.mean.shape[-1] * _LOG_2PI + log_det + quadratic)


@pytree
@dataclasses.dataclass(frozen=True)
class LowRankNormal:
    """N(mean, S (I + G Gᵀ) S) with S = diag(exp(log_var / 2)) and G of R columns: a diagonal and R directions."""

    mean: Array  # [*batch, D]
    log_var: Array  # [*batch, D], without the directions' contribution
    directions: Array  # [*batch, D, R], G

    @property
    def variance(self) -> Array:
        """The variance of each entry, [*batch, D]."""
        log_var, directions = numerics.aligned(self.log_var[..., None], self.directions)
        return jnp.exp(log_var[..., 0]) * (1.0 + jnp.sum(jnp.square(directions), axis=-1))

    @property
    def std(self) -> Array:
        return jnp.sqrt(self.variance)

    @property
    def marginals(self) -> Normal:
        """The marginal distributions of the entries."""
        return Normal(self.mean, jnp.log(self.variance))

    @property
    def log_det(self) -> Array:
        """log det of the covariance, [*batch], from an R × R matrix by the matrix determinant lemma.

        Its error is float32's precision times the condition number of I + GᵀG, which is large only where directions are
        long and nearly parallel.
        """
        (log_var,) = numerics.aligned(self.log_var)
        log_diagonal = jnp.log(jnp.diagonal(self._cholesky, axis1=-2, axis2=-1))
        return numerics.sum_last(log_var, 1) + 2.0 * jnp.sum(log_diagonal, axis=-1)

    @property
    def _cholesky(self) -> Array:
        """The Cholesky factor of I + GᵀG, [*batch, R, R]."""
        (g,) = numerics.aligned(self.directions)
        squares = jnp.matmul(jnp.swapaxes(g, -1, -2), g, precision="highest")
        return jnp.linalg.cholesky(jnp.eye(g.shape[-1])[(None,) * (g.ndim - 2)] + squares)

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Reparameterized draws, [*sample_shape, *batch, D]."""
        return self._image(self._noise(key, sample_shape))

    def sample_and_log_prob(self, key: Key, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Draws and their log-densities, without the difference z - mean, which may have lost its digits."""
        noise = self._noise(key, sample_shape)
        return self._image(noise), self._log_density(noise)

    def log_prob(self, value: Array) -> Array:
        """log density at `value` [..., *batch, D], in nats: [..., *batch]."""
        mean, log_var, value = numerics.aligned(self.mean, self.log_var, value)
        return self._log_density((value - mean) * jnp.exp(-0.5 * log_var))

    def _noise(self, key: Key, sample_shape: Shape) -> Array:
        """Draws from N(0, I + G Gᵀ)."""
        entries, directions = jax.random.split(key)
        g, dtype = self.directions, jnp.result_type(jnp.float32, self.mean)
        epsilon = draws.normal(entries, sample_shape + self.mean.shape, dtype)
        eta = draws.normal(directions, sample_shape + (*g.shape[:-2], g.shape[-1]), dtype)
        return epsilon + _times(g, eta)

    def _image(self, noise: Array) -> Array:
        mean, log_var, noise = numerics.aligned(self.mean, self.log_var, noise)
        return mean + jnp.exp(0.5 * log_var) * noise

    def _log_density(self, white: Array) -> Array:
        """log density where S⁻¹(z - mean) is `white` [..., *batch, D]."""
        batch, dim = self.directions.shape[:-2], self.directions.shape[-2]
        e, g = _with_one_axis_before(white, len(batch) + 1), self.directions
        # eᵀ(I + GGᵀ)⁻¹e = |e - Gw|² + |w|² with the ridge solution w: a sum, where Woodbury's formula is a difference.
        projected = jnp.moveaxis(_times(jnp.swapaxes(g, -1, -2), e), 0, -1)
        w = jnp.moveaxis(jax.scipy.linalg.cho_solve((self._cholesky, True), projected), -1, 0)
        rest = e - _times(g, w)
        quadratic = numerics.sum_last(jnp.square(rest), 1) + numerics.sum_last(jnp.square(w), 1)
        quadratic = quadratic.reshape(white.shape[:-1])
        log_det = self.log_det[(None,) * (quadratic.ndim - len(batch))]
        return -0.5 * (dim * _LOG_2PI + log_det + quadratic)


def _with_one_axis_before(x: Array, ndims: int) -> Array:
    """x with all axes before its last `ndims` as one."""
    before = x.ndim - ndims
    return x.reshape(math.prod(x.shape[:before]), *x.shape[before:])


def _times(matrices: Array, vectors: Array) -> Array:
    """Matrices [*batch, I, J] times vectors [..., *batch, J]: [..., *batch, I], one matrix product per example."""
    columns = _with_one_axis_before(vectors, matrices.ndim - 1)
    of_all = jnp.einsum("...ij,k...j->k...i", matrices.astype(columns.dtype), columns, precision="highest")
    return of_all.reshape(*vectors.shape[:-1], matrices.shape[-2])
