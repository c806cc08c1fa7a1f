"""Densities that integrate to one, draws that follow them, and the KL table."""

import dataclasses
import functools
import importlib
import inspect
import itertools
import pkgutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.spatial
import scipy.special
import scipy.stats

import jaxvae as jv
from jaxvae import numerics
from jaxvae.distributions import (
    CLOSED_FORM_KL,
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Delta,
    DiscretizedLogistic,
    Laplace,
    LogisticMixture,
    LowRankNormal,
    Mixture,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Observed,
    Rescaled,
    StudentT,
    UniformOnSphere,
    VonMisesFisher,
    ZeroInflated,
    kl_divergence,
    log_prob_by_latent,
    reparameterize,
    sample_and_log_prob,
    squared_mmd,
)
from jaxvae.distributions.sphere import _angle
from jaxvae.typing import Distribution

GRID = jnp.linspace(-30, 30, 20001)


@jax.jit
def log_prob_of(distribution, x):
    return distribution.log_prob(x)


@jax.jit
def mean_of(distribution):
    return distribution.mean


@functools.partial(jax.jit, static_argnums=2)
def draw(distribution, key, shape):
    return distribution.sample(key, shape)


class ReparameterizeTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_it_is_mean_plus_std_times_the_keys_noise(self):
        mean, std = jnp.arange(6.0).reshape(2, 3), jnp.array([[0.5, 1.0, 2.0]])
        epsilon = jax.random.normal(jax.random.key(7), (2, 3))
        z = self.variant(reparameterize)(jax.random.key(7), mean, std)
        np.testing.assert_allclose(z, mean + std * epsilon, rtol=1e-6)

    def test_gradients_pass_through_mean_and_std(self):
        mean, std = jnp.ones(3), jnp.full(3, 2.0)
        with pytest.raises(ValueError, match=r"std \(2, 3\) does not broadcast to mean \(3,\)"):
            reparameterize(jax.random.key(7), mean, jnp.ones((2, 3)))
        grads = jax.grad(lambda m, s: reparameterize(jax.random.key(7), m, s).sum(), (0, 1))(mean, std)
        np.testing.assert_allclose(grads[0], jnp.ones(3))
        np.testing.assert_allclose(grads[1], jax.random.normal(jax.random.key(7), (3,)))


def pytrees():
    """{class: the structure of an instance} of the library's dataclasses that are pytrees; all static fields are 0."""
    found = {}
    for info in pkgutil.walk_packages(jv.__path__, "jaxvae."):
        for cls in vars(importlib.import_module(info.name)).values():
            if isinstance(cls, type) and dataclasses.is_dataclass(cls) and not inspect.isabstract(cls):
                instance = object.__new__(cls)
                for field in dataclasses.fields(cls):
                    object.__setattr__(instance, field.name, 0)
                if jax.tree.structure(instance) != jax.tree.structure(0):
                    found[cls] = jax.tree.structure(instance)
    return found


def test_a_pytrees_class_is_part_of_its_structure():
    """Otherwise `jit` may use one class's program for another, but so rarely that its cache can't be the test."""
    structures = pytrees()
    assert {Normal, Laplace, Beta} <= structures.keys()
    for one, other in itertools.combinations(structures, 2):
        assert structures[one] != structures[other], (one, other)
    leaves, _ = jax.tree.flatten_with_path(Beta(1.0, 2.0))
    assert [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves] == [(".a", 1.0), (".b", 2.0)]


def test_every_distribution_has_numpyros_methods():
    classes = [c for c in pytrees() if c in vars(jv.distributions).values() and hasattr(c, "log_prob")]
    assert len(classes) > 15
    for cls in classes:
        assert issubclass(cls, Distribution), cls


def test_bernoulli_sums_to_one():
    b = Bernoulli(jnp.array([-2.0, 0.3, 5.0]))
    everything = jnp.array([[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)])
    np.testing.assert_allclose(jnp.exp(log_prob_of(b, everything)).sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(b.variance, b.mean * (1 - b.mean), rtol=1e-5)


def test_a_bernoullis_draws_have_its_mean(key):
    b = Bernoulli(jnp.array([-1.0, 2.0]))
    draws = np.asarray(draw(b, key, (20_000,)))
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), b.mean, atol=4 * 0.5 / np.sqrt(20_000))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
def test_a_draws_density_is_that_of_its_noise(shape, key):
    """Even where z - mean has no digits left. The gradient is that through `sample` and `log_prob`."""
    q = Normal(jnp.full(shape, 1e4), jnp.linspace(-20.0, 1.0, shape[-1]), len(shape) - 1 or 1)
    z, log_q = jax.jit(lambda q: sample_and_log_prob(q, key, (5,)))(q)
    np.testing.assert_array_equal(z, draw(q, key, (5,)))
    epsilon = np.asarray(jax.random.normal(key, (5, *shape)), np.float64)
    density = scipy.stats.norm.logpdf(epsilon) - 0.5 * np.asarray(q.log_var, np.float64)
    event = tuple(range(-q.event_ndims, 0))
    np.testing.assert_allclose(log_q, density.sum(axis=event), rtol=1e-5)
    near = dataclasses.replace(q, mean=jnp.zeros(shape), log_var=0.1 * q.log_var)

    def gradient_of(both):
        def total(q):
            z, log_q = both(q)
            return jnp.sum(jnp.sin(z)) + jnp.sum(jnp.square(log_q))

        return jax.jit(jax.grad(total))(near)

    ours = gradient_of(lambda q: sample_and_log_prob(q, key, (5,)))
    expected = gradient_of(lambda q: (z := q.sample(key, (5,)), q.log_prob(z)))
    for name in ("mean", "log_var"):
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    "make", [lambda s: Normal(jnp.zeros(s), jnp.zeros(s), 2), lambda s: Bernoulli(jnp.zeros(s), 2)]
)
def test_shapes(make, key):
    d = make((5, 4, 3))
    z = d.sample(key, (7, 2))
    chex.assert_shape(z, (7, 2, 5, 4, 3))
    chex.assert_shape(d.log_prob(z), (7, 2, 5))
    same = jax.tree.map(lambda a: a, d)
    assert same.event_ndims == 2


def test_delta_is_its_point(key):
    d = Delta(jnp.arange(6.0).reshape(2, 3))
    z = d.sample(key, (4,))
    np.testing.assert_array_equal(z, np.broadcast_to(d.value, (4, 2, 3)))
    np.testing.assert_array_equal(d.log_prob(z), np.zeros((4, 2)))
    np.testing.assert_array_equal(d.std, np.zeros((2, 3)))


WIDE = jnp.sinh(jnp.linspace(-12.0, 12.0, 40_001))  # for heavy tails
UNIT = jnp.linspace(0.0, 1.0, 40_001)
UNIVARIATE = [
    (lambda e: Normal(jnp.full(e, 1.0), jnp.full(e, 0.7)), GRID, scipy.stats.norm(1.0, np.exp(0.35))),
    (lambda e: Laplace(jnp.full(e, -1.0), jnp.full(e, 0.5)), GRID, scipy.stats.laplace(-1.0, np.exp(0.5))),
    (lambda e: StudentT(jnp.full(e, 2.0), jnp.full(e, -0.3), 2.5), WIDE, scipy.stats.t(2.5, 2.0, np.exp(-0.3))),
    (lambda e: Beta(jnp.full(e, 2.5), jnp.full(e, 1.7)), UNIT, scipy.stats.beta(2.5, 1.7)),
    (lambda e: Beta(jnp.full(e, 900.0), jnp.full(e, 120.0)), UNIT, scipy.stats.beta(900.0, 120.0)),
    *(
        (lambda e, logit=logit: ContinuousBernoulli(jnp.full(e, logit)), UNIT, None)
        for logit in (-20.0, -0.5, -1e-4, 0.0, 0.1, 3.0, 60.0)
    ),
]


@pytest.mark.parametrize("case", UNIVARIATE)
def test_densities(case, key):
    """The integral, scipy's values, the mean, and the draws by the Kolmogorov-Smirnov test."""
    make, grid, reference = case
    density = make(1)
    log_prob = np.asarray(log_prob_of(density, grid[:, None]), np.float64)
    x = np.asarray(grid, np.float64)
    np.testing.assert_allclose(scipy.integrate.simpson(np.exp(log_prob), x=x), 1.0, atol=2e-4)
    if reference is not None:
        inner = slice(1, -1)
        expected = reference.logpdf(x)[inner]
        np.testing.assert_allclose(log_prob[inner], expected, rtol=2e-5, atol=1e-4)
    if not isinstance(density, StudentT):  # the grid is too short for its mean
        mean = scipy.integrate.simpson(np.exp(log_prob) * x, x=x)
        np.testing.assert_allclose(mean_of(density)[0], mean, rtol=1e-4, atol=1e-4)
    draws = np.asarray(draw(density, key, (20_000,)))[:, 0]
    below = scipy.integrate.cumulative_simpson(np.exp(log_prob), x=x, initial=0.0)
    assert scipy.stats.kstest(draws, lambda at: np.interp(at, x, below)).pvalue > 1e-3


@pytest.mark.parametrize("degrees_of_freedom", [1e5, 0.999e6, 1e6, 1e12, 1e16, 1e30])
def test_a_students_t_of_many_degrees_is_a_normal(degrees_of_freedom):
    density = StudentT(jnp.zeros(1), jnp.zeros(1), degrees_of_freedom)
    log_prob = density.log_prob(jnp.array([[0.0], [0.5], [-3.0]]))
    expected = scipy.stats.norm.logpdf([0.0, 0.5, -3.0])
    np.testing.assert_allclose(log_prob, expected, atol=1e-6 + 25 / degrees_of_freedom)


def test_continuous_bernoullis_that_are_nearly_sure(key):
    """Among so many draws, some uniform numbers are at an end of their range. Also the density at its own ends."""
    x = draw(ContinuousBernoulli(jnp.array([20.0, -20.0])), key, (2**23,))
    assert jnp.all((x >= 0.0) & (x <= 1.0))
    sure = ContinuousBernoulli(jnp.array([[1e6], [-1e6]]), 1)
    np.testing.assert_allclose(log_prob_of(sure, jnp.array([[1.0], [0.0]])), np.log(1e6), rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(11.5, 12.0), (40.0, 1e4), (1e5, 1e5), (3e5, 20.0), (2e5, 7e4)])
def test_betas_that_are_nearly_sure(a, b):
    reference = scipy.stats.beta(a, b)
    x = np.float32(reference.ppf([1e-6, 0.02, 0.5, 0.9, 1 - 1e-6]))
    log_prob = log_prob_of(Beta(jnp.full((5, 1), a), jnp.full((5, 1), b)), jnp.asarray(x)[:, None])
    np.testing.assert_allclose(log_prob, reference.logpdf(x.astype(np.float64)), rtol=1e-5, atol=2e-3)


def test_a_betas_small_values_are_data():
    x = np.array([1e-8, 1.45e-20, 1e-37])
    log_prob = Beta(jnp.float32(2.959), jnp.float32(2.891), 0).log_prob(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(log_prob, scipy.stats.beta(2.959, 2.891).logpdf(x), rtol=1e-5)
    slopes = jax.grad(lambda x: Beta(jnp.float32(2.0), jnp.float32(2.0), 1).log_prob(x))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(x * slopes, 1.0, rtol=1e-5)
    ends = Beta(jnp.float32(2.959), jnp.float32(0.5), 0).log_prob(jnp.array([0.0, 1.0]))
    assert np.isfinite(ends).all()


@pytest.mark.parametrize("dispersion", [0.3, 9.0, 11.0, 300.0, 1e5, 1e6])
@pytest.mark.parametrize("mean", [5.0, 300.0, 1e5, 1e6])
def test_large_counts(mean, dispersion):
    """In 32 bits, the difference of two log-gamma functions at a million has no digits left."""
    log_mean, log_r = (np.log(np.float32(a)) for a in (mean, dispersion))
    mu, r = np.exp(np.float64(log_mean)), np.exp(np.float64(log_r))
    spread = np.array([-3.0, -1.0, 0.0, 0.5, 4.0]) * np.sqrt(mu + mu**2 / r)
    x = np.concatenate([[0.0, 1.0, 9.0], np.maximum(np.round(mu + spread), 0.0)])
    counts = NegativeBinomial(jnp.full((8, 1), log_mean), jnp.full((8, 1), log_r))
    expected = scipy.stats.nbinom(r, r / (r + mu)).logpmf(x)
    log_prob = log_prob_of(counts, jnp.asarray(x, jnp.float32)[:, None])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-3)


def test_wild_counts_are_whole_numbers(key):
    assert draw(NegativeBinomial(jnp.full(9, 15.0), jnp.full(9, -8.0)), key, (99,)).max() < 2**31 - 1


LOGITS = jax.random.normal(jax.random.key(5), (7,))
COUNTS = jnp.arange(4000.0)
DISCRETE = [
    (Categorical(LOGITS[None]), jnp.arange(7.0), None),
    (NegativeBinomial(jnp.full(1, 1.2), jnp.full(1, -0.4)), COUNTS, (np.exp(1.2), np.exp(-0.4))),
    (NegativeBinomial(jnp.full(1, 3.0), jnp.full(1, 12.0)), COUNTS, (np.exp(3.0), np.exp(12.0))),
    (NegativeBinomial(jnp.full(1, 6.0), jnp.full(1, 2.7)), COUNTS, (np.exp(6.0), np.exp(2.7))),
    (ZeroInflated(jnp.full(1, -0.3), NegativeBinomial(jnp.full(1, 1.2), jnp.full(1, 0.4))), COUNTS, None),
    *(
        (DiscretizedLogistic(jnp.full(1, at), jnp.full(1, log_scale), 255), jnp.arange(256.0), None)
        for at, log_scale in [(100.3, 2.0), (-40.0, 3.0), (255.0, -4.0), (128.0, 9.0), (7.5, -8.0)]
    ),
]


@pytest.mark.parametrize("case", DISCRETE)
def test_masses(case, key):
    """The sum, scipy's values, the mean, and the draws by Pearson's χ² test."""
    mass, values, negative_binomial = case
    log_prob = np.asarray(log_prob_of(mass, values[:, None]), np.float64)
    x, p = np.asarray(values, np.float64), np.exp(log_prob)
    np.testing.assert_allclose(p.sum(), 1.0, atol=2e-5)
    np.testing.assert_allclose(mean_of(mass)[0], (p * x).sum(), rtol=2e-5)
    if negative_binomial is not None:
        mean, r = negative_binomial
        np.testing.assert_allclose(log_prob, scipy.stats.nbinom(r, r / (r + mean)).logpmf(x), rtol=3e-5, atol=2e-4)
    draws = np.asarray(draw(mass, key, (20_000,)))[:, 0]
    observed, expected = np.bincount(draws.astype(int), minlength=len(x)).astype(float), 20_000 * p
    bins = np.minimum((np.cumsum(expected) / 10.0).astype(int), int(expected.sum() / 10.0) - 1)  # of 10 or more
    observed, expected = np.bincount(bins, observed), np.bincount(bins, expected)
    kept = expected > 0
    if kept.sum() > 1:
        scaled = expected[kept] / expected[kept].sum() * observed.sum()
        assert scipy.stats.chisquare(observed[kept], scaled).pvalue > 1e-3


def test_a_mixture_of_logistics_sums_to_one_over_colours(key):
    """Two channels of 0 … 3: all 16 pixels, and the marginal of one of them."""
    shapes = ((1, 1, 1, 3), (1, 1, 2, 3), (1, 1, 2, 3))
    keys = jax.random.split(key, 3)
    logits, location, log_scale = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
    mixture = LogisticMixture(logits, DiscretizedLogistic(2.0 + location, log_scale, 3, 0), 3)
    pixels = jnp.array([[i, j] for i in range(4) for j in range(4)], jnp.float32).reshape(16, 1, 1, 2)
    mass = np.exp(np.asarray(log_prob_of(mixture, pixels), np.float64))
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(mean_of(mixture)[0, 0], (mass[:, None] * pixels[:, 0, 0]).sum(0), rtol=1e-5)
    first = jnp.array([[True, False]]).reshape(1, 1, 1, 2) & jnp.ones((16, 1, 1, 2), bool)
    marginal = jax.jit(LogisticMixture.marginal_log_prob)(mixture, pixels, first)
    marginal = np.exp(np.asarray(marginal, np.float64)).reshape(4, 4)
    np.testing.assert_allclose(marginal[:, 0], mass.reshape(4, 4).sum(1), rtol=1e-5)
    draws = np.asarray(draw(mixture, key, (20_000,)))[:, 0, 0] @ np.array([4, 1])
    assert scipy.stats.chisquare(np.bincount(draws.astype(int), minlength=16), 20_000 * mass / mass.sum()).pvalue > 1e-3


def multivariate(kind):
    random = iter(jax.random.split(jax.random.key(11), 10))
    mean, log_var = jax.random.normal(next(random), (3,)), 0.5 * jax.random.normal(next(random), (3,))
    if kind == "full":
        tril = jnp.tril(jax.random.normal(next(random), (3, 3)), -1) + jnp.diag(jnp.exp(log_var))
        return MultivariateNormal(mean, tril), np.asarray(tril, np.float64) @ np.asarray(tril, np.float64).T
    g = jax.random.normal(next(random), (3, 2))
    std, g64 = np.exp(0.5 * np.asarray(log_var, np.float64)), np.asarray(g, np.float64)
    return LowRankNormal(mean, log_var, g), std[:, None] * (np.eye(3) + g64 @ g64.T) * std


@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_correlated_normals(kind, key):
    """scipy's density, and draws whose whitened entries are N(0, 1)."""
    q, covariance = multivariate(kind)
    z = np.asarray(draw(q, key, (20_000,)), np.float64)
    expected = scipy.stats.multivariate_normal(np.asarray(q.mean, np.float64), covariance).logpdf(z)
    np.testing.assert_allclose(log_prob_of(q, jnp.asarray(z, jnp.float32)), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(q.variance, np.diag(covariance), rtol=1e-5)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (z - np.asarray(q.mean)).T)
    assert all(scipy.stats.kstest(row, "norm").pvalue > 1e-3 for row in white)
    batched = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), q)
    draws, log_q = sample_and_log_prob(batched, key, (5, 4))
    np.testing.assert_array_equal(draws, batched.sample(key, (5, 4)))
    np.testing.assert_allclose(log_q, log_prob_of(batched, draws), rtol=1e-4, atol=1e-4)
    chex.assert_shape(log_q, (5, 4, 2))
    each = log_prob_of(batched, jnp.asarray(z[:7, None], jnp.float32))
    np.testing.assert_allclose(each[:, 0], expected[:7], rtol=1e-4)


@jax.jit
def directions(q, key):
    z = q.sample(key, (4_000,))
    return z, q.log_prob(z), q.resultant


@pytest.mark.parametrize(("dim", "concentration"), [(2, 0.7), (3, 400.0), (50, 3000.0), (256, 15.0), (256, 10_000.0)])
def test_the_rarest_angles(dim, concentration):
    """Angles from the smallest and largest uniform numbers, and their derivatives in κ, against 64 bits."""
    u = np.concatenate([np.geomspace(1e-7, 0.5, 100), 1.0 - np.arange(1.0, 200.0) * 2.0**-24]).astype(np.float32)
    kappa = jnp.full(u.shape, concentration)
    theta, tangent = jax.jit(lambda k: jax.jvp(lambda k: _angle(jnp.asarray(u), k, dim), (k,), (jnp.ones_like(k),)))(
        kappa
    )
    widest = min(np.pi, 0.5 * np.pi * (np.sqrt(dim - 1) + 9) / np.sqrt(concentration))
    at = np.linspace(1e-12, widest, 200_001)
    log_density = -2.0 * concentration * np.sin(0.5 * at) ** 2 + (dim - 2) * np.log(np.sin(at))
    density = np.exp(log_density - log_density.max())

    def both_sides(f):
        """The integrals of f below and beyond each angle."""
        from_below, from_above = (scipy.integrate.cumulative_trapezoid(a, at, initial=0.0) for a in (f, f[::-1]))
        return from_below, from_above[::-1]

    below, beyond = both_sides(density)
    mean = scipy.integrate.trapezoid(density * np.cos(at), at) / below[-1]
    u64 = u.astype(np.float64)
    exact = np.where(
        u > 0.5, np.interp(1.0 - u64, beyond[::-1] / below[-1], at[::-1]), np.interp(u64, below / below[-1], at)
    )
    moved_below, moved_beyond = both_sides(density * (np.cos(at) - mean))
    slope = np.where(u > 0.5, np.interp(exact, at, moved_beyond), -np.interp(exact, at, moved_below))
    slope = slope / np.interp(exact, at, density)
    np.testing.assert_allclose(theta, exact, atol=1e-5 * np.ptp(exact))
    np.testing.assert_allclose(tangent, slope, atol=2e-4 * np.abs(slope).max())


@pytest.mark.parametrize("dim", [2, 3, 5, 40])
@pytest.mark.parametrize("concentration", [1e-3, 0.7, 15.0, 400.0, 9000.0])
def test_von_mises_fisher(dim, concentration, key):
    """scipy's density, the angles of draws against their density, and the mean."""
    mu = np.ones(dim) / np.sqrt(dim)
    q = VonMisesFisher(jnp.asarray(mu, jnp.float32), jnp.float32(concentration))
    z, log_prob, resultant = map(np.asarray, directions(q, key))
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1.0, rtol=1e-5)
    z64 = z.astype(np.float64)
    expected = scipy.stats.vonmises_fisher(mu, concentration).logpdf(z64 / np.linalg.norm(z64, axis=1, keepdims=True))
    np.testing.assert_allclose(log_prob, expected, rtol=2e-4, atol=2e-3)
    theta = np.linspace(1e-9, np.pi - 1e-9, 200_001)
    logs = concentration * (np.cos(theta) - 1.0) + (dim - 2) * np.log(np.sin(theta))
    weights = np.exp(logs - logs.max())
    below = scipy.integrate.cumulative_simpson(weights, x=theta, initial=0.0)
    angles = 2.0 * np.arcsin(np.minimum(0.5 * np.linalg.norm(z64 - mu, axis=1), 1.0))
    assert scipy.stats.kstest(angles, lambda at: np.interp(at, theta, below / below[-1])).pvalue > 1e-3
    mean = (weights * np.cos(theta)).sum() / weights.sum()
    np.testing.assert_allclose(resultant, mean, rtol=1e-4, atol=1e-5)
    across = z[:, 0] - z[:, 1]  # no direction but mu is preferred
    assert abs(across.mean()) < 4 * across.std() / np.sqrt(len(across))


def test_the_mean_of_directions_is_that_of_their_draws(key):
    mu = np.array([0.6, 0.0, -0.8])
    q = VonMisesFisher(jnp.asarray(mu, jnp.float32), jnp.float32(3.0))
    exact = (1 / np.tanh(3.0) - 1 / 3.0) * mu  # on the sphere in three dimensions
    np.testing.assert_allclose(q.mean, exact, rtol=1e-5)
    z = np.asarray(draw(q, key, (20_000,)), np.float64)
    np.testing.assert_allclose(z.mean(axis=0), exact, atol=4 / np.sqrt(20_000))


def test_the_gradient_of_a_direction_drawn(key):
    """The gradient of E[μᵀz] = A(κ), by draws and by quadrature."""
    mu = jnp.eye(1, 6)[0]

    def along(kappa):
        return jnp.mean(VonMisesFisher(mu, kappa).sample(key, (8_000,))[:, 0])

    exact = jax.jit(jax.grad(lambda kappa: VonMisesFisher(mu, kappa).resultant))(jnp.float32(3.0))
    np.testing.assert_allclose(jax.jit(jax.grad(along))(jnp.float32(3.0)), exact, rtol=0.03)


@pytest.mark.parametrize("dim", [2, 40, 256])
def test_the_kl_of_directions_is_never_negative(dim):
    kappa = jnp.concatenate([jnp.linspace(0.0, 0.1, 301), jnp.geomspace(0.1, 1e4, 301)])
    q = VonMisesFisher(jnp.broadcast_to(jnp.eye(1, dim)[0], (602, dim)), kappa)
    kl = np.asarray(jax.jit(lambda q: kl_divergence(q, UniformOnSphere(dim)))(q))
    assert kl.min() >= 0
    assert kl[0] < 1e-4
    far = np.asarray(kappa, np.float64)[400:]
    order = 0.5 * dim - 1
    log_bessel = np.log(scipy.special.ive(order, far)) + far
    ratio = scipy.special.ive(order + 1, far) / scipy.special.ive(order, far)
    log_constant = order * np.log(far) - 0.5 * dim * np.log(2 * np.pi) - log_bessel
    log_area = np.log(2.0) + 0.5 * dim * np.log(np.pi) - scipy.special.gammaln(0.5 * dim)
    np.testing.assert_allclose(kl[400:], far * ratio + log_constant + log_area, rtol=1e-3, atol=1e-3)


def test_all_directions(key):
    p = UniformOnSphere(4)
    z = jax.jit(lambda key: p.sample(key, (20_000,)))(key)
    np.testing.assert_allclose(jnp.exp(-p.log_prob(z)[0]), 2 * np.pi**2, rtol=1e-5)
    assert scipy.stats.kstest(np.asarray(z)[:, 0] ** 2, scipy.stats.beta(0.5, 1.5).cdf).pvalue > 1e-3
    nearly = VonMisesFisher(jnp.eye(1, 4)[0], jnp.float32(1e-4))
    np.testing.assert_allclose(log_prob_of(nearly, z[:5]), p.log_prob(z[:5]), atol=1e-3)


def test_a_mixture_is_the_sum_of_its_components(key):
    parts = Normal(jnp.array([[-2.0], [1.0], [4.0]]), jnp.array([[0.3], [-1.0], [0.0]]))
    mixture = Mixture(jnp.array([0.5, -1.0, 2.0]), parts)
    weights = jax.nn.softmax(mixture.logits)
    densities = [
        jnp.exp(log_prob_of(Normal(m, v), GRID[:, None])) for m, v in zip(parts.mean, parts.log_var, strict=True)
    ]
    expected = sum(w * density for w, density in zip(weights, densities, strict=True))
    np.testing.assert_allclose(jnp.exp(log_prob_of(mixture, GRID[:, None])), expected, rtol=1e-4, atol=1e-30)
    below = scipy.integrate.cumulative_simpson(np.asarray(expected, np.float64), x=np.asarray(GRID), initial=0.0)
    draws = np.asarray(draw(mixture, key, (100, 100))).reshape(-1)
    assert scipy.stats.kstest(draws, lambda at: np.interp(at, GRID, below)).pvalue > 1e-3


@pytest.mark.parametrize(("spread", "log_var"), [(1.0, -1.0), (3.0, -4.0), (3.0, -9.0), (1.0, -14.0), (0.01, -25.0)])
def test_a_mixture_of_many_normals(spread, log_var, key):
    """Distances are multiplied out unless digits would be lost; the gradients are those of the elementwise form."""
    keys, shape = jax.random.split(key, 4), (40, 20)
    parts = Normal(spread * jax.random.normal(keys[0], shape), log_var + 0.5 * jax.random.normal(keys[1], shape))
    drawn = draw(parts, keys[2], (6,)).reshape(-1, 20)
    mean, variance, z = (np.asarray(a, np.float64) for a in (parts.mean, jnp.exp(parts.log_var), drawn))
    log_q = scipy.stats.norm(mean, np.sqrt(variance)).logpdf(z[:, None]).sum(axis=-1)
    log_prob = log_prob_of(Mixture(jnp.zeros(40), parts), drawn)
    np.testing.assert_allclose(log_prob, scipy.special.logsumexp(log_q, axis=1) - np.log(40), rtol=1e-5, atol=2e-3)

    def elementwise(parts, z):
        return jax.nn.logsumexp(parts.log_prob(z[:, None]), axis=1).sum()

    def multiplied_out(parts, z):
        return Mixture(jnp.zeros(40), parts).log_prob(z).sum()

    grads = (jax.jit(jax.grad(f, (0, 1)))(parts, drawn) for f in (multiplied_out, elementwise))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize(
    ("of", "num"), [(lambda p, z: p.log_prob(z), 400), (lambda p, z: squared_mmd(z, p, widths=(1.0,)), 2)]
)
def test_the_gradient_holds_few_differences_at_a_time(of, num):
    """Of `num` or 400 points to 400 means."""

    def loss(mean, z):
        return of(Mixture(jnp.zeros(400), Normal(mean, jnp.zeros((400, 50)))), z).sum()

    shapes = [jax.ShapeDtypeStruct((n, 50), jnp.float32) for n in (400, num)]
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.4 * 400 * 400 * 50 * 4


BASES = {
    "normal": Normal(jnp.array([0.3]), jnp.array([0.4])),
    "mixture": Mixture(jnp.array([0.0, 1.0]), Normal(jnp.array([[-1.0], [1.5]]), jnp.array([[0.2], [-0.7]]))),
}


@pytest.mark.parametrize("p", BASES.values(), ids=BASES)
def test_the_squared_mmd_is_the_integral(p, key):
    """Its mean over many groups of draws, against ∬ (q - p)(a) k(a, b) (q - p)(b) da db."""
    q, widths = Normal(jnp.array([0.5]), jnp.log(jnp.array([0.3]))), (0.5, 1.0)
    grid = np.linspace(-8.0, 8.0, 1601)
    difference = np.exp(log_prob_of(q, grid[:, None])) - np.exp(log_prob_of(p, grid[:, None]))
    kernel = np.mean([np.exp(-0.5 * ((grid[:, None] - grid) / h) ** 2) for h in widths], axis=0)
    expected = difference @ kernel @ difference * (grid[1] - grid[0]) ** 2
    of_each = np.asarray(jax.jit(lambda z: squared_mmd(z, p, widths=widths))(draw(q, key, (10_000, 20))))
    groups = of_each.mean(axis=1)
    assert abs(groups.mean() - expected) < 4 * groups.std() / 100
    assert groups.std() / 100 < 0.01 * expected


def test_the_squared_mmd_of_draws_from_p_itself_is_zero_in_the_mean(key):
    means = jnp.array([[0.0, 2.0, -1.0], [1.0, -1.0, 0.5]])
    p = Mixture(jnp.array([0.5, -0.5]), Normal(means, jnp.array([[0.1, -0.6, 0.3], [0.0, 0.5, -0.2]])))
    groups = np.asarray(jax.jit(lambda z: squared_mmd(z, p, widths=(1.0,)).mean(-1))(draw(p, key, (4000, 20))))
    assert abs(groups.mean()) < 4 * groups.std() / np.sqrt(4000)
    assert groups.std() / np.sqrt(4000) < 5e-4
    assert squared_mmd(jnp.zeros((3, 5)), Laplace(jnp.zeros(5), jnp.zeros(5))) is None
    with pytest.raises(ValueError, match="MMD compares draws, but z has 1"):
        squared_mmd(jnp.zeros((1, 1)), BASES["normal"], widths=(1.0,))
    for widths in ((), (1.0, 0.0)):
        with pytest.raises(ValueError, match=r"write one or more positive numbers"):
            squared_mmd(jnp.zeros((2, 1)), BASES["normal"], widths=widths)
    for q in (p, UniformOnSphere(3)):
        with pytest.raises(ValueError, match=r"but p is over vectors of 3; write z \[..., N, 3\]"):
            squared_mmd(jnp.zeros((5, 1)), q)


@pytest.mark.parametrize("dim", [2, 3, 50])
def test_the_squared_mmd_to_the_uniform_distribution_on_a_sphere(dim, key):
    """Its expected kernel is a Bessel function, the same around every point."""
    p = UniformOnSphere(dim)
    z = draw(VonMisesFisher(jnp.eye(dim)[0], jnp.float32(3.0)), key, (30,))
    pairs, expected = scipy.spatial.distance.cdist(z, z, "sqeuclidean"), 0.0
    for h in (0.5, 1.0, 2.0):
        order, kappa = 0.5 * dim - 1.0, h**-2
        each = scipy.special.ive(order, kappa) * scipy.special.gamma(0.5 * dim) * (2.0 / kappa) ** order
        expected = expected + ((np.exp(-0.5 * kappa * pairs).sum(1) - 1.0) / 29 - each) / 3
    np.testing.assert_allclose(jax.jit(lambda z: squared_mmd(z, p))(z), expected, atol=2e-6)
    groups = np.asarray(jax.jit(lambda z: squared_mmd(z, p).mean(-1))(draw(p, key, (2000, 20))))
    assert abs(groups.mean()) < 4 * groups.std() / np.sqrt(2000)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_squared_mmd_of_many_entries_keeps_its_digits(dtype, key):
    """Against double precision, for a mixture whose components share their variances."""
    dim, h = 512, 20.0
    z = jax.random.normal(key, (30, dim)).astype(dtype)
    p = Mixture(jnp.zeros(2), Normal(jnp.zeros((2, dim)), jnp.full((dim,), 0.2)))
    x, v = np.asarray(z, np.float64), np.exp(np.float64(np.float32(0.2)))

    def expected_kernel(squares, variance):
        return (1 + variance / h**2) ** (-dim / 2) * np.exp(-0.5 * squares / (h**2 + variance))

    pairs = (np.exp(-0.5 * ((x[:, None] - x) ** 2).sum(-1) / h**2).sum(1) - 1) / 29
    expected = pairs - 2 * expected_kernel((x**2).sum(-1), v) + expected_kernel(0.0, 2 * v)
    np.testing.assert_allclose(jax.jit(lambda z: squared_mmd(z, p, widths=(h,)))(z), expected, atol=1e-6)


def test_each_latent_of_each_draw_under_each_posterior(key):
    q = Normal(jnp.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]), jnp.array([[0.3], [-1.0], [1.0]]))
    z = draw(q, key, (4,))
    want = scipy.stats.norm(q.mean, q.std).logpdf(np.asarray(z)[:, :, None])  # [4, 3, 3, 2]
    np.testing.assert_allclose(log_prob_by_latent(q, z), np.moveaxis(want, -1, 1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_marginals_of_correlated_normals(kind, key):
    q = multivariate(kind)[0]
    z = np.asarray(draw(q, key, (4000,)))
    for entry in range(z.shape[-1]):
        marginal = scipy.stats.norm(q.marginals.mean[entry], q.marginals.std[entry])
        assert scipy.stats.kstest(z[:, entry], marginal.cdf).pvalue > 1e-3


def closed_forms():
    random = iter(jax.random.split(jax.random.key(2), 20))
    normal = Normal(jax.random.normal(next(random), (3,)), 0.4 * jax.random.normal(next(random), (3,)))
    sphere = VonMisesFisher(jnp.eye(1, 5)[0], jnp.float32(4.0))
    q = {
        (Normal, Normal): Normal(jnp.array([0.5, 0.0, -1.0]), jnp.array([0.4, -1.0, 0.0])),
        (MultivariateNormal, Normal): multivariate("full")[0],
        (LowRankNormal, Normal): multivariate("low rank")[0],
        (VonMisesFisher, UniformOnSphere): sphere,
    }
    return {k: (v, UniformOnSphere(5) if k[1] is UniformOnSphere else normal) for k, v in q.items()}


@pytest.mark.parametrize("types", [t for t in CLOSED_FORM_KL if t != (Delta, object)])
def test_closed_forms_of_the_kl_are_the_mean_of_the_log_ratio(types, key):
    q, p = closed_forms()[types]
    z = draw(q, key, (50_000,))
    ratio = np.asarray(jax.jit(lambda q, z: q.log_prob(z) - p.log_prob(z))(q, z), np.float64)
    np.testing.assert_allclose(kl_divergence(q, p), ratio.mean(), atol=4 * ratio.std() / np.sqrt(len(ratio)))
    assert kl_divergence(q, p) > 0


@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_the_kl_of_correlated_normals_is_that_of_their_matrices(kind):
    """The closed form for full covariances, in float64."""
    mean, covariance = np.array([0.3, -1.0, 2.0]), np.diag([0.2, 3.0, 5.0])
    if kind == "full":
        tril = np.tril([[0.5, 0.0, 0.0], [1.0, 2.0, 0.0], [-0.7, 0.4, 3.0]])
        q, covariance = MultivariateNormal(jnp.float32(mean), jnp.float32(tril)), tril @ tril.T
    else:
        std, g = np.sqrt(np.diag(covariance)), np.array([[0.5, 1.0], [-1.0, 0.3], [2.0, 0.1]])
        covariance = std[:, None] * (np.eye(3) + g @ g.T) * std
        q = LowRankNormal(jnp.float32(mean), jnp.float32(2 * np.log(std)), jnp.float32(g))
    p_mean, p_var = np.array([0.0, 0.5, 1.0]), np.array([1.0, 4.0, 0.3])
    expected = np.sum((np.diag(covariance) + (mean - p_mean) ** 2) / p_var + np.log(p_var)) - 3
    expected = 0.5 * (expected - np.linalg.slogdet(covariance)[1])
    p = Normal(jnp.float32(p_mean), jnp.float32(np.log(p_var)))
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-5)


def test_kl_is_never_negative():
    """Where q is p up to rounding."""
    z = jnp.zeros((100, 6))
    below = jnp.tril(jax.random.normal(jax.random.key(1), (100, 6, 6)), -1)
    tril = jnp.broadcast_to(jnp.eye(6), (100, 6, 6)) + 1e-4 * below
    p = Normal(jnp.zeros(6), jnp.zeros(6))
    for q in (MultivariateNormal(z, tril), LowRankNormal(z, z, 1e-4 * jnp.ones((100, 6, 2)))):
        assert jnp.all(jax.jit(kl_divergence)(q, p) >= 0)


def test_the_density_of_a_draw_is_that_of_its_noise(key):
    """The difference of a narrow normal's draws from its mean has few digits, and too large a square."""
    g = jax.random.normal(jax.random.key(1), (3, 50, 4))
    far, near = (LowRankNormal(jnp.full((3, 50), mean), jnp.full((3, 50), -28.0), g) for mean in (30.0, 0.0))
    z, log_q = near.sample_and_log_prob(key, (5,))
    np.testing.assert_allclose(log_q, near.log_prob(z), rtol=1e-5)
    np.testing.assert_array_equal(far.sample_and_log_prob(key, (5,))[1], log_q)
    np.testing.assert_array_equal(far.sample(key, (5,)), far.sample_and_log_prob(key, (5,))[0])


def test_kl_of_two_normals_is_the_integral(key):
    q, p = Normal(jnp.array([0.5]), jnp.array([0.4])), Normal(jnp.array([-1.0]), jnp.array([1.2]))
    log_q, log_p = log_prob_of(q, GRID[:, None]), log_prob_of(p, GRID[:, None])
    expected = scipy.integrate.simpson(jnp.exp(log_q) * (log_q - log_p), x=GRID)
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-5)
    assert kl_divergence(q, q) == 0


def test_kl_without_a_closed_form_is_none():
    assert kl_divergence(Normal(GRID, GRID), Bernoulli(GRID)) is None
    assert jv.kl_divergence(Delta(GRID), Normal(GRID, GRID)) == 0
    for call in (kl_divergence, jv.kl_per_dimension):
        with pytest.raises(ValueError, match=r"p is a StandardNormal, not a distribution; write one, such as"):
            call(Normal(GRID, GRID), jv.StandardNormal())


@pytest.mark.parametrize("log_var", [-1e9, -1e8, -40.0, -3.0, 0.0, 3.0, 40.0, 1e8, 1e30])
def test_log_variances_are_bounded_and_keep_their_gradient(log_var):
    value, gradient = jax.value_and_grad(numerics.bound_log_var)(jnp.float32(log_var))
    assert value == np.clip(log_var, -30, 30)
    assert gradient == 1.0


def test_gradients_where_a_formula_has_a_kink(key):
    """The Bernoulli's is smooth at a logit of 0, where inactive units start; the Laplace's is 0 at its mean."""
    logits, x = jnp.array([0.0, -0.0, 1e-30, 0.3, -200.0, 200.0]), jnp.array([[0.0], [0.3], [1.0]])
    logits, x = jnp.broadcast_to(logits[None], (3, 6)), jnp.broadcast_to(x, (3, 6))

    def of_observed(logits):
        return Bernoulli(logits).marginal_log_prob(x, jnp.ones(x.shape, bool)).sum()

    for gradient in (jax.grad(of_observed), jax.grad(lambda logits: Bernoulli(logits).log_prob(x).sum())):
        chance = scipy.special.expit(np.asarray(logits, float))
        np.testing.assert_allclose(gradient(logits), x - chance, atol=1e-7)
        (_, curved) = jax.jvp(gradient, (logits,), (jnp.ones_like(logits),))
        np.testing.assert_allclose(curved, -chance * (1 - chance), atol=1e-7)
    slope = jax.grad(lambda mean: Laplace(mean, jnp.zeros(3)).log_prob(jnp.array([1.0, 2.0, 3.0])))
    np.testing.assert_array_equal(slope(jnp.array([1.0, 1.5, 4.0])), [0.0, 1.0, -1.0])


def test_cells_without_a_count():
    """Most counts are 0, so errors of their mass add up: it is (r / (r + μ))^r to the last digits."""
    log_mean, log_r = jnp.array([-5.0, -2.0, 1.0, 5.0, -5.0]), jnp.array([2.2, 0.0, -3.0, 20.0, -20.0])
    exact = -np.exp(np.float64(log_r)) * np.log1p(np.exp(np.float64(log_mean) - np.float64(log_r)))
    found = NegativeBinomial(log_mean, log_r).log_prob_by_entry(jnp.zeros(5))
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1, 1), (3, 1), (3, 2)])
def test_a_mixture_of_normals_of_one_variance(shape):
    """With the older kind of PRNG keys too."""
    parts = Normal(jnp.arange(6.0).reshape(3, 2), jnp.full(shape, 0.7))
    mixture, key = Mixture(jnp.zeros(3), parts), jax.random.PRNGKey(0)
    z = mixture.sample(key, (5, 4))
    assert z.shape == (5, 4, 2)
    densities = scipy.stats.norm(np.asarray(parts.mean), np.exp(0.35)).pdf(np.asarray(z)[..., None, :])
    np.testing.assert_allclose(mixture.log_prob(z), np.log(densities.prod(-1).mean(-1)), rtol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(12.0, 30.0), (900.0, 120.0)])
def test_a_narrow_beta_far_from_its_mean(a, b):
    x = np.array([1e-4, 0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999], np.float32)
    log_prob = Beta(jnp.float32(a), jnp.float32(b), 0).log_prob(jnp.asarray(x))
    np.testing.assert_allclose(log_prob, scipy.stats.beta(a, b).logpdf(x.astype(float)), rtol=2e-6, atol=2e-5)


def test_second_derivatives_where_two_cases_meet():
    """Where log-variances are equal, as at the start of training, and where a = b: not half of the true ones."""
    at_0 = jnp.zeros(1)
    np.testing.assert_allclose(jax.hessian(lambda v: jv.losses.gaussian_kl(at_0, v))(at_0), [[0.5]], rtol=1e-6)
    curvature = jax.hessian(lambda ab: Beta(ab[:1], ab[1:]).log_prob(jnp.array([0.3])))(jnp.array([2.0, 2.0]))
    of_2, of_4 = scipy.special.polygamma(1, 2.0), scipy.special.polygamma(1, 4.0)
    np.testing.assert_allclose(curvature, [[of_4 - of_2, of_4], [of_4, of_4 - of_2]], rtol=1e-4)


def test_a_density_far_narrower_than_float32s_squares():
    narrow = Normal(jnp.zeros(2), jnp.full(2, -100.0))
    at_mean = scipy.stats.norm(0.0, np.exp(-50.0)).logpdf(0.0)
    np.testing.assert_allclose(narrow.log_prob(jnp.zeros(2)), 2 * at_mean, rtol=1e-6)
    grads = jax.grad(lambda n: n.log_prob(jnp.zeros(2)))(narrow)
    np.testing.assert_allclose(grads.log_var, [-0.5, -0.5])


def test_parameters_of_16_bits_have_draws_of_32(key):
    """Noise of 16 bits has ties and short tails, and a sum of hundreds in 16 bits has two digits."""
    half, num, few = jnp.bfloat16, 200_000, 10_000
    classes = Categorical(jnp.zeros((few, 1, 256), half), 1).sample(key)
    of_mixture = Mixture(jnp.zeros(256, half), Delta(jnp.arange(256.0)[:, None])).sample(key, (few,))
    for draws in (classes, of_mixture):
        assert abs(float(jnp.mean(draws)) - 127.5) < 4 * 73.9 / few**0.5
    z = np.asarray(reparameterize(key, jnp.zeros(num, half), jnp.ones(num, half)))
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-3
    tril = (0.3 * jnp.eye(500)).astype(half)
    n, value = MultivariateNormal(jnp.zeros(500, half), tril), jnp.zeros(500)
    exact = MultivariateNormal(jnp.zeros(500), tril.astype(jnp.float32))
    np.testing.assert_allclose(n.log_prob(value), exact.log_prob(value), rtol=1e-6)
    for q in (n, LowRankNormal(n.mean, jnp.zeros(500, half), tril[:, :3]), Normal(n.mean, jnp.full(500, -4.0, half))):
        z, log_q = sample_and_log_prob(q, key, (2,))
        assert z.dtype == log_q.dtype == jnp.float32
        np.testing.assert_allclose(log_q, q.log_prob(z), rtol=1e-4)


def test_a_discretized_logistic_of_any_scale():
    """At the ends of the scales that it is for: the half of a point mass, and the middle of one that is nearly flat."""
    location, log_scale = jnp.array([5.5, 3.2]), jnp.array([-85.0, 85.0])
    by_entry = DiscretizedLogistic(location, log_scale).log_prob_by_entry(jnp.array([5.0, 5.0]))
    np.testing.assert_allclose(by_entry, [-np.log(2.0), -85.0 - np.log(4.0)], rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1), (4, 3)])
def test_the_scale_of_an_entry_counts_for_each_entry(shape):
    """Also where one number stands for several."""
    shift, scale = jnp.full(shape, 0.5), jnp.linspace(0.5, 2.0, int(np.prod(shape))).reshape(shape)
    d = Rescaled(Normal(jnp.zeros((4, 3)), jnp.zeros((4, 3))), shift, scale)
    value = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(value, 0.5, np.broadcast_to(scale, (4, 3))).sum(-1)
    np.testing.assert_allclose(d.log_prob(value), expected, rtol=1e-5)
    np.testing.assert_allclose(d.marginal_log_prob(value, jnp.ones(value.shape, bool)), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["normal", "mixture"])
def test_what_is_missing_is_drawn_anew_for_each_value(kind, key):
    scale = jnp.full((2, 3, 1, 2), 3.0)
    of_pixels = LogisticMixture(jnp.zeros((2, 3, 1, 2)), DiscretizedLogistic(scale * 0 + 99.0, scale, 255, 0), 2)
    base = Normal(jnp.zeros((2, 3, 1)), jnp.zeros((2, 3, 1)), 2) if kind == "normal" else of_pixels
    value = jnp.full((50, 2, 3, 1), jnp.nan)
    drawn = np.asarray(Observed(base).conditional_sample(key, value))
    assert drawn.shape == value.shape
    assert len(np.unique(drawn[:, 0, 0, 0])) > 20
    mean = Observed(base).conditional_mean(value)
    np.testing.assert_allclose(mean, np.broadcast_to(base.mean, value.shape), rtol=1e-5)


def test_what_is_missing_has_no_gradient():
    d = Observed(Rescaled(Normal(jnp.zeros(3), jnp.zeros(3)), jnp.zeros(3), jnp.ones(3)))
    grads = jax.grad(lambda d: d.log_prob(jnp.array([1.0, jnp.nan, 2.0])))(d)
    np.testing.assert_allclose(grads.base.scale, [0.0, 0.0, 3.0])
    np.testing.assert_allclose(grads.base.shift, [1.0, 0.0, 2.0])
