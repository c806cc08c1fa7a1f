"""Measures of a latent space where they are known exactly, and the comparison of models by them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

import jaxvae as jv
from jaxvae import organization
from jaxvae.experiment import comparison
from jaxvae.experiment.comparison import measuring
from jaxvae.experiment.intervals import Interval

RNG = np.random.default_rng(0)


fidelity = jax.jit(organization.fidelity, static_argnames="num_neighbours")  # without jit it compiles many programs


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_spread_is_the_root_mean_square_of_all_distances():
    x = normal(40, 2, 3)
    squares = scipy.spatial.distance.pdist(np.asarray(x).reshape(40, -1)) ** 2
    np.testing.assert_allclose(organization.spread(x), np.sqrt(squares.mean()), rtol=1e-5)


def test_spread_of_16_bits():
    """The squares of grey levels are beyond the largest float16."""
    x = np.random.default_rng(0).integers(0, 256, (100, 784))
    np.testing.assert_allclose(organization.spread(jnp.float16(x)), np.sqrt(2 * x.var(axis=0, ddof=1).sum()), rtol=1e-5)


def test_memorization():
    z = normal(2000, 3)
    assert float(jnp.max(organization.memorization(z, z))) == 0.0
    assert np.isnan(organization.memorization(jnp.ones((3, 2)), jnp.zeros((3, 2)))).all()
    # the root mean square for unrelated pairs is 1
    apart = organization.memorization(z, z[np.random.default_rng(1).permutation(2000)])
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(apart**2)), 1.0, atol=0.03)
    np.testing.assert_allclose(
        organization.memorization(7 * z, 7 * z + 1), organization.memorization(z, z + 1 / 7), rtol=1e-4
    )


def test_speed_is_one_where_the_image_changes_evenly():
    matrix = normal(3, 12)
    speeds = organization.speeds(lambda z: (5 * z @ matrix).reshape(-1, 2, 6), normal(4, 3), normal(4, 3), num=6)
    np.testing.assert_allclose(speeds, np.ones((6, 4)), rtol=1e-4)


def test_speed_on_a_circle_and_on_a_step():
    """Half a circle is π/2 times as long as the shortest path; a narrow step is as long, and its peak is known."""
    zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
    circle = organization.speeds(lambda z: jnp.concatenate([jnp.cos(jnp.pi * z), jnp.sin(jnp.pi * z)], -1), zero, one)
    np.testing.assert_allclose(circle, np.full((32, 1), np.pi / 2), rtol=1e-5)
    step = organization.speeds(lambda z: jax.nn.sigmoid(20 * (z - 0.5)), zero, one, num=401)
    np.testing.assert_allclose(jnp.max(step), 5.0 / np.tanh(5.0), rtol=1e-4)
    np.testing.assert_allclose(jnp.mean(step), 1.0, rtol=1e-3)


def test_the_speed_is_that_of_its_place():
    """From 1 to 3, z² changes by 4 (1 + 2 t) at t, and by 8 in all."""
    speeds = organization.speeds(jnp.square, jnp.ones((1, 1)), jnp.full((1, 1), 3.0), num=4)
    np.testing.assert_allclose(speeds[:, 0], 0.5 + (np.arange(4) + 0.5) / 4, rtol=1e-6)


def test_a_way_back_to_the_same_image_has_no_speed():
    speeds = organization.speeds(jnp.square, jnp.array([[-1.0], [0.0]]), jnp.ones((2, 1)), num=3)
    np.testing.assert_array_equal(jnp.isnan(speeds), [[True, False]] * 3)


def test_fidelity_is_that_of_all_distances():
    made, real = normal(70, 2, 2) + 0.5, normal(50, 2, 2)
    flat = [np.asarray(x, float).reshape(len(x), -1) for x in (made, real)]
    radius = np.sort(scipy.spatial.distance.cdist(flat[1], flat[1]), axis=1)[:, 3]
    inside = scipy.spatial.distance.cdist(flat[1], flat[0]) <= radius[:, None]
    found = organization.fidelity(made, real, num_neighbours=3)
    np.testing.assert_allclose(found.density, inside.sum() / (3 * 70), rtol=1e-5)
    np.testing.assert_allclose(found.coverage, inside.any(axis=1).mean(), rtol=1e-5)
    assert organization.fidelity(made, np.asarray(real), num_neighbours=3) == found
    shifted = fidelity(made + 1000, real + 1000, num_neighbours=3)
    np.testing.assert_allclose(shifted, found, atol=0.01)
    far = fidelity(made + 100, real)
    assert (float(far.density), float(far.coverage)) == (0.0, 0.0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("pixels", [64, 784])
def test_of_binary_images_many_are_as_far_as_the_radius(pixels, scale):
    """Their squared distances are whole numbers and so exact: rounding does not decide what a ball holds."""
    rng = np.random.default_rng(0)
    real, made = (rng.random((2, 250, pixels)) < rng.random(pixels)).astype(int)
    radius = np.sort(np.square(real[:, None] - real[None]).sum(-1), axis=1)[:, 5]
    squares = np.square(real[:, None] - made[None]).sum(-1)
    inside = squares <= radius[:, None]
    assert np.sum(squares == radius[:, None]) > 100
    found = fidelity(*(jnp.asarray(scale * x, jnp.float32) for x in (made, real)))
    np.testing.assert_allclose(found.density, inside.sum() / (5 * 250), rtol=1e-6)
    np.testing.assert_allclose(found.coverage, inside.any(axis=1).mean(), rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 5])
def test_examples_that_are_near_each_other_and_far_from_the_middle(dim):
    """Two clusters, a thousand times as far apart as they are wide: distances within one are in the last digits."""
    rng = np.random.default_rng(dim)
    real, made = (np.float32(rng.choice([-1.0, 1.0], (400, 1)) + 1e-3 * rng.normal(size=(400, dim))) for _ in "ab")
    radius = np.sort(scipy.spatial.distance.cdist(real, real), axis=1)[:, 5]
    inside = scipy.spatial.distance.cdist(real, made) <= radius[:, None] * (1 + 1e-6)
    found = fidelity(jnp.asarray(made), jnp.asarray(real))
    np.testing.assert_allclose(found, (inside.sum() / (5 * 400), inside.any(axis=1).mean()), rtol=1e-6)
    assert 0.8 < found.density < 1.2


@pytest.mark.parametrize(
    ("choices", "start_from", "message"),
    [
        (
            {"likelihood": jv.Incomplete(likelihood=jv.Bernoulli())},
            None,
            "missing entries has no distance to another; write a config",
        ),
        ({}, "model", "start_from is one model, and a comparison trains two; leave it out"),
        (
            {"posterior": jv.VonMisesFisher(), "prior": jv.UniformSphere()},
            None,
            r"the codes of VonMisesFisher lie on the unit sphere, .* write posterior=DiagonalGaussian\(\)",
        ),
    ],
)
def test_what_can_not_be_compared_is_refused(choices, start_from, message):
    networks = {"encoder": jv.MLP(), "decoder": jv.MLP()}
    model = jv.VAE(latent_dim=2, event_shape=(8, 8, 1), **choices, **networks)
    with pytest.raises(ValueError, match=message):
        comparison.check(
            jv.Experiment(model=model, start_from=start_from), types.SimpleNamespace(sizes={"train": 1000})
        )


def test_pairs_without_a_path_are_left_out_of_the_fastest(key):
    """There are as many pairs as a comparison may have: with few, XLA's maximum of NaN is NaN on a CPU."""
    networks = {"encoder": jv.MLP(hidden=(8,)), "decoder": jv.MLP(hidden=(8,))}
    model = jv.VAE(latent_dim=2, event_shape=(3, 3, 1), **networks)
    measure, params = measuring.make_measure(model), model.init(key)
    x = jax.random.bernoulli(key, shape=(600, 3, 3, 1)).astype(jnp.float32)

    def fastest(x):
        return float(measure(params, key, measuring.Examples(x, x, x, x, x))["fastest"][comparison.VAE_])

    distinct = x.at[300:].set(1.0 - x[:300])
    with_three = distinct.at[300:303].set(distinct[:3])
    np.testing.assert_allclose(fastest(with_three), fastest(distinct), rtol=0.05)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="must have one shape"):
        organization.memorization(normal(4, 2), normal(5, 2))
    with pytest.raises(ValueError, match="differ in shape"):
        organization.fidelity(normal(9, 2), normal(9, 3))
    with pytest.raises(ValueError, match="5 real examples are too few for 5 neighbours"):
        organization.fidelity(normal(9, 2), normal(5, 2))
    with pytest.raises(ValueError, match="there are no generated examples"):
        organization.fidelity(normal(0, 2), normal(9, 2))
    with pytest.raises(ValueError, match="num is 0; write at least 1"):
        organization.speeds(lambda z: z, normal(1, 2), normal(1, 2), num=0)
    with pytest.raises(ValueError, match="num_neighbours is 0; write a whole number of at least 1"):
        organization.fidelity(normal(9, 2), normal(5, 2), num_neighbours=0)


def test_an_image_is_moved_by_one_pixel():
    x = RNG.integers(1, 9, (5, 4, 3, 1)).astype(np.uint8)
    moved = comparison.move_by_a_pixel(x)
    for i, shift in enumerate(((0, 1), (1, 0), (0, -1), (-1, 0), (0, 1))):
        expected = np.roll(x[i], shift, axis=(0, 1))
        edge = (slice(None), -(shift[1] < 0)) if shift[1] else (-(shift[0] < 0), slice(None))
        expected[edge] = x[i][edge]
        np.testing.assert_array_equal(moved[i], expected)


def test_the_interval_is_students():
    values = [1.0, 2.0, 4.0, 4.5]
    interval = Interval.of(values)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    np.testing.assert_allclose((interval.mean - interval.half, interval.mean + interval.half), (low, high))


@pytest.mark.parametrize(
    ("vae", "rival", "said"),
    [(1.0, 2.0, "yes"), (2.0, 1.0, "no: the other way round"), (1.0, 1.1, "no: the intervals overlap")],
)
def test_the_verdict(vae, rival, said):
    def row(a, b):
        return {comparison.VAE_: Interval(a, 0.1), comparison.AE: Interval(b, 0.1)}

    assert comparison.verdict("codes_apart", row(vae, rival)) == said  # the claim is that the VAE's is lower
    assert comparison.verdict("codes_apart", row(float("nan"), rival)) == "not measurable"
    higher = {comparison.VAE_: Interval(-vae, 0.1), comparison.GAUSSIAN: Interval(-rival, 0.1)}
    assert comparison.verdict("coverage", higher) == said


def test_a_fitted_gaussian_has_the_moments_of_the_codes(key):
    model = jv.VAE(
        event_shape=(4,), latent_dim=2, encoder=jv.MLP(hidden=()), decoder=jv.MLP(hidden=()), posterior=jv.Delta()
    )
    codes = normal(3000, 2) @ jnp.array([[2.0, 0.5], [0.0, 0.3]]) + jnp.array([[5.0, -1.0]])
    drawn = comparison.draws_of_z(model, model.init(key), key, codes, num=200_000)
    fitted = np.asarray(drawn[comparison.GAUSSIAN], float)
    np.testing.assert_allclose(fitted.mean(0), codes.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(fitted.T), np.cov(np.asarray(codes, float).T), atol=0.05)
    np.testing.assert_allclose(np.cov(np.asarray(drawn[comparison.AE]).T), np.eye(2), atol=0.02)
    small = comparison.draws_of_z(model, model.init(key), key, 1e-3 * codes, num=200_000)[comparison.GAUSSIAN]
    np.testing.assert_allclose(1e3 * small, drawn[comparison.GAUSSIAN], rtol=1e-3, atol=1e-3)
    # a code that all examples share has no variance, and is still drawn
    assert np.isfinite(
        comparison.draws_of_z(model, model.init(key), key, jnp.ones((50, 2)), num=5)[comparison.GAUSSIAN]
    ).all()
