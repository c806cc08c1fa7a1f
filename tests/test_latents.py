"""Paths, traversals, attributes and neighbours, against their definitions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from jaxvae import latents

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


class Paths(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_linear(self):
        start, end = normal(4, 3), normal(4, 3)
        path = self.variant(lambda a, b: latents.linear_path(a, b, 5))(start, end)
        assert path.shape == (5, 4, 3)
        expected = np.linspace(np.asarray(start), np.asarray(end), 5)
        np.testing.assert_allclose(path, expected, rtol=1e-6, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_spherical(self):
        """Equal angles, in the plane of the two ends; the norm of unit vectors is kept."""
        start, end = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (normal(6, 7), normal(6, 7)))
        path = np.asarray(self.variant(lambda a, b: latents.spherical_path(a, b, 9))(start, end))
        np.testing.assert_allclose(path[[0, -1]], [start, end], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 1.0, atol=1e-5)
        angles = np.arccos(np.sum(path[1:] * path[:-1], axis=-1))
        whole = np.arccos(np.sum(np.asarray(start) * np.asarray(end), axis=-1))
        np.testing.assert_allclose(angles, np.broadcast_to(whole / 8, angles.shape), rtol=1e-3)
        # ends of different norms: an ellipse, with the same weights of the ends
        ellipse = latents.spherical_path(3 * start, end, 9)
        share = np.sin(np.linspace(1, 0, 9)[:, None, None] * whole[:, None]) / np.sin(whole[:, None])
        np.testing.assert_allclose(ellipse, path + 2 * share * np.asarray(start), atol=1e-5)
        # ends that are nearly opposite: the cosine of the angle has no digits left that say how nearly
        a, b = jnp.array([1.0, 0.0]), jnp.array([-np.cos(2e-3), np.sin(2e-3)])
        np.testing.assert_allclose(np.linalg.norm(latents.spherical_path(a, b, 9), axis=-1), 1.0, atol=1e-3)
        for i in range(6):
            assert np.linalg.matrix_rank(path[:, i], tol=1e-4) == 2
        wide = jnp.array([[300.0, 0.0], [0.0, 300.0]], jnp.float16)  # their squares are beyond its largest number
        halfway = latents.spherical_path(*wide, 3)[1]
        np.testing.assert_allclose(halfway, 300.0 * np.sqrt(0.5), rtol=1e-6)
        for size in (1e20, 1e-24):  # their squares are beyond those of float32
            path = latents.spherical_path(jnp.array([size, 0.0]), jnp.array([0.0, size]), 3)
            np.testing.assert_allclose(path / size, [[1.0, 0.0], [0.5**0.5, 0.5**0.5], [0.0, 1.0]], atol=1e-6)

    def test_where_there_is_no_arc_it_is_straight(self):
        a = normal(3)
        path, straight = (jax.jit(f, static_argnums=2) for f in (latents.spherical_path, latents.linear_path))
        slope = jax.jit(jax.jacobian(latents.spherical_path, argnums=(0, 1)), static_argnums=2)
        for other in (a, 2 * a, -a, jnp.zeros(3)):
            np.testing.assert_allclose(path(a, other, 5), straight(a, other, 5), atol=1e-6)
            gradient = slope(a, other, 5)
            assert np.isfinite(gradient).all()

    def test_refused(self):
        with pytest.raises(ValueError, match="must have one shape"):
            latents.linear_path(jnp.zeros(3), jnp.zeros(4), 3)
        with pytest.raises(ValueError, match="num is 1; a path has at least 2 points"):
            latents.spherical_path(jnp.zeros(3), jnp.zeros(3), 1)


def test_traversals():
    z = normal(4)
    out = latents.traversals(z, jnp.array([-1.0, 5.0]), jnp.array([2, 0]))
    expected = np.broadcast_to(z, (2, 2, 4)).copy()
    expected[0, :, 2] = expected[1, :, 0] = [-1.0, 5.0]
    np.testing.assert_array_equal(out, expected)
    own = latents.traversals(z, jnp.array([[-1.0], [5.0]]), jnp.array([2, 0]))
    np.testing.assert_array_equal(own[:, 0], [expected[0, 0], expected[1, 1]])
    with pytest.raises(ValueError, match="dims has the shape"):
        latents.traversals(z, jnp.zeros(2), jnp.array(1))
    with pytest.raises(ValueError, match=r"dims has \[-1, 4\], but z has the dimensions 0 to 3"):
        latents.traversals(z, jnp.zeros(2), jnp.array([-1, 3, 4]))


def test_attributes():
    z, has = normal(50, 3), np.arange(50) % 3 == 0
    vector = latents.attribute_vector(z, has)
    np.testing.assert_allclose(vector, np.asarray(z)[has].mean(0) - np.asarray(z)[~has].mean(0), atol=1e-6)
    # codes without the attribute, once it is added, have the mean of the codes with it
    moved = latents.add_attribute(z[~has], vector, jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(moved[0], z[~has])
    np.testing.assert_allclose(moved[1].mean(0), z[has].mean(0), atol=1e-5)
    assert np.isnan(latents.attribute_vector(z, np.ones(50, bool))).all()
    with pytest.raises(ValueError, match=r"write z \[N, D\] and has \[N\]"):
        latents.attribute_vector(z, has[:-1])
    with pytest.raises(ValueError, match="has is not only true and false; write labels == label"):
        latents.attribute_vector(z, np.arange(50) % 3)
    with pytest.raises(ValueError, match="strengths"):
        latents.add_attribute(z, vector[:2], jnp.zeros(2))


@pytest.mark.long
def test_nearest_is_that_of_a_tree():
    queries, examples = normal(300, 2, 3), normal(500, 2, 3)
    found = latents.nearest(queries, examples, num=4)
    distance, index = scipy.spatial.KDTree(np.asarray(examples).reshape(500, -1)).query(
        np.asarray(queries).reshape(300, -1), k=4
    )
    np.testing.assert_array_equal(found.indices, index)
    np.testing.assert_allclose(found.distances, distance, rtol=1e-5)
    stored = latents.nearest(queries, np.asarray(examples), num=4)  # as a data set holds them
    np.testing.assert_array_equal(stored.indices, index)
    # an example is nearest to itself, at a distance of exactly 0, also far from the origin
    far = examples + 1000.0
    np.testing.assert_array_equal(latents.nearest(far[:9], far).distances, np.zeros((9, 1)))
    # and where its neighbours are much nearer than the centre of all
    codes = normal(20_000, 1)
    copies = latents.nearest(codes[:200], codes)
    np.testing.assert_array_equal(copies.distances, np.zeros((200, 1)))
    with pytest.raises(ValueError, match="there are 500 examples"):
        latents.nearest(queries, examples, num=501)


def test_the_manifold_grid():
    grid = np.asarray(latents.manifold_grid(20))
    assert grid.shape == (20, 20, 2)
    quantiles = (np.arange(20) + 0.5) / 20
    np.testing.assert_allclose(scipy.stats.norm.cdf(grid[3, :, 0]), quantiles, atol=1e-5)
    np.testing.assert_allclose(scipy.stats.norm.cdf(grid[:, 3, 1]), quantiles[::-1], atol=1e-5)
    np.testing.assert_allclose(grid[:, 0, 0], grid[0, 0, 0])
