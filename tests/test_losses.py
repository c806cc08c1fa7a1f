"""Every loss against scipy or quadrature, constants included, and its gradient; under jit and without."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from absl.testing import parameterized

from jaxvae import losses

RNG = np.random.default_rng(0)
MEAN, LOG_VAR = RNG.normal(size=(2, 4, 3)).astype(np.float32)
LOGITS = (3 * RNG.normal(size=(4, 5, 6, 1))).astype(np.float32)
IMAGES = RNG.integers(0, 2, (4, 5, 6, 1)).astype(np.float32)


class LossesTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_gaussian_kl_is_the_integral(self):
        def kl(mean, log_var):
            q = scipy.stats.norm(mean, np.exp(0.5 * log_var))
            integrand = lambda z: q.pdf(z) * (q.logpdf(z) - scipy.stats.norm.logpdf(z))  # noqa: E731
            return scipy.integrate.quad(integrand, mean - 12 * q.std(), mean + 12 * q.std(), epsabs=1e-10)[0]

        expected = np.vectorize(kl)(MEAN.astype(float), LOG_VAR.astype(float)).sum(axis=-1)
        actual = self.variant(losses.gaussian_kl)(MEAN, LOG_VAR)
        chex.assert_shape(actual, (4,))
        np.testing.assert_allclose(actual, expected, rtol=2e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_gaussian_kl_gradient(self):
        grads = self.variant(jax.grad(lambda m, v: losses.gaussian_kl(m, v).sum(), (0, 1)))(MEAN, LOG_VAR)
        np.testing.assert_allclose(grads[0], MEAN, rtol=1e-6)
        np.testing.assert_allclose(grads[1], 0.5 * np.expm1(LOG_VAR), rtol=1e-5, atol=1e-7)

    @chex.variants(with_jit=True, without_jit=True)
    def test_bernoulli_is_scipys(self):
        expected = scipy.stats.bernoulli.logpmf(IMAGES, scipy.special.expit(LOGITS.astype(float))).sum((1, 2, 3))
        actual = self.variant(losses.bernoulli_log_likelihood)(LOGITS, IMAGES)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_bernoulli_gradient(self):
        grad = self.variant(jax.grad(lambda a: losses.bernoulli_log_likelihood(a, IMAGES).sum()))(LOGITS)
        np.testing.assert_allclose(grad, IMAGES - scipy.special.expit(LOGITS), atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("pixel", "channel", "scalar")
    def test_gaussian_is_scipys(self, which):
        log_var = {"pixel": LOGITS / 3, "channel": LOGITS[:1, :1, :1] / 3, "scalar": np.float32(0.7)}[which]
        x = (2 * LOGITS[::-1]).astype(np.float32)
        expected = scipy.stats.norm.logpdf(x, LOGITS, np.exp(0.5 * np.asarray(log_var, float))).sum((1, 2, 3))
        actual = self.variant(losses.gaussian_log_likelihood)(LOGITS, log_var, x)
        np.testing.assert_allclose(actual, expected, rtol=2e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_samples_lead(self):
        logits = np.stack([LOGITS, -LOGITS, 2 * LOGITS])
        actual = self.variant(losses.bernoulli_log_likelihood)(logits, IMAGES)
        expected = np.stack([losses.bernoulli_log_likelihood(a, IMAGES) for a in logits])
        np.testing.assert_allclose(actual, expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_iwae_is_the_log_of_the_mean_weight(self):
        log_weights = RNG.normal(size=(7, 3)) * 4 - 900  # exp underflows
        expected = scipy.special.logsumexp(log_weights, axis=0) - np.log(7)
        np.testing.assert_allclose(self.variant(losses.iwae)(log_weights.astype(np.float32)), expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_elbo(self):
        elbo = self.variant(lambda a, b: losses.elbo(a, b, beta=0.25))
        np.testing.assert_allclose(elbo(jnp.array([-3.0]), jnp.array([2.0])), [-3.5])


@pytest.mark.parametrize("log_var", [-50.0, 50.0, 1e-4, -1e-6, 0.0])
def test_gaussian_terms_stay_finite(log_var):
    v = jnp.full((2, 3), log_var)
    m = jnp.full((2, 3), 0.3)
    kl, kl_grads = jax.value_and_grad(lambda m, v: losses.gaussian_kl(m, v).sum(), (0, 1))(m, v)
    ll, ll_grads = jax.value_and_grad(lambda m, v: losses.gaussian_log_likelihood(m, v, 0 * m).sum(), (0, 1))(m, v)
    assert np.isfinite([kl, ll, *np.ravel(kl_grads), *np.ravel(ll_grads)]).all()
    assert kl >= 0


@pytest.mark.parametrize("size", [1, 13, 14, 29, 784])
def test_bernoulli_without_a_derivative_is_the_same(size):
    """The fast path of many entries against NumPy in double precision, and against the differentiated one."""
    rng = np.random.default_rng(size)
    logits = rng.normal(0, 8, (50, size)).astype(np.float32)
    x = (rng.random((50, size)) < 0.5).astype(np.float32)
    exact = -np.logaddexp(0.0, np.where(x > 0, -1.0, 1.0) * logits.astype(float)).sum(axis=1)
    fast = losses.bernoulli_log_likelihood(logits, x)
    np.testing.assert_allclose(fast, exact, rtol=1e-6, atol=1e-7 * size)
    slow, _ = jax.vjp(lambda a: losses.bernoulli_log_likelihood(a, x), logits)
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-7 * size)


@pytest.mark.parametrize("logit", [1e4, -1e4, 104.0, -104.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_bernoulli_is_exact_for_any_logit(logit, x):
    value, grad = jax.value_and_grad(lambda a: losses.bernoulli_log_likelihood(a, jnp.full((1, 1), x)).sum())(
        jnp.full((1, 1), logit)
    )
    assert value == (0.0 if (logit > 0) == (x == 1) else -abs(logit))
    assert grad == x - (logit > 0)


def test_kl_is_never_negative():
    log_var = jnp.concatenate([jnp.linspace(-1, 1, 20001), jnp.geomspace(1e-12, 1, 1000)])[:, None]
    assert losses.gaussian_kl(jnp.zeros_like(log_var), log_var).min() >= 0


def test_bfloat16_is_summed_in_float32():
    logits = jnp.zeros((1, 100_000), jnp.bfloat16)
    actual = losses.bernoulli_log_likelihood(logits, jnp.zeros_like(logits))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, [-100_000 * np.log(2)], rtol=1e-5)


def test_a_loss_does_not_depend_on_the_batch():
    whole = losses.bernoulli_log_likelihood(LOGITS, IMAGES)
    alone = np.concatenate(
        [losses.bernoulli_log_likelihood(a[None], x[None]) for a, x in zip(LOGITS, IMAGES, strict=True)]
    )
    np.testing.assert_allclose(whole, alone, rtol=1e-6)


LOG_WEIGHTS = np.random.default_rng(5).normal(scale=3, size=(6, 4))


@pytest.mark.parametrize(
    ("bound", "reference"),
    [
        (losses.iwae, lambda w: np.log(w.mean(0))),
        *(
            (
                lambda a, m=m: losses.miwae(a, num_groups=m),
                lambda w, m=m: np.mean([np.log(w[i * (6 // m) : (i + 1) * (6 // m)].mean(0)) for i in range(m)], 0),
            )
            for m in (1, 2, 3, 6)
        ),
        (lambda a: losses.ciwae(a, elbo_weight=0.3), lambda w: 0.3 * np.log(w).mean(0) + 0.7 * np.log(w.mean(0))),
        (lambda a: losses.renyi(a, alpha=0.4), lambda w: np.log((w**0.6).mean(0)) / 0.6),
        (lambda a: losses.renyi(a, alpha=-1.5), lambda w: np.log((w**2.5).mean(0)) / 2.5),
        (losses.cubo, lambda w: np.log((w**2).mean(0)) / 2),
        (lambda a: losses.cubo(a, order=3.0), lambda w: np.log((w**3).mean(0)) / 3),
    ],
)
def test_bounds_of_many_draws_are_the_references(bound, reference):
    """M groups of K, with M ≠ K; and where the weights themselves underflow."""
    bound = jax.jit(bound)
    actual = bound(jnp.asarray(LOG_WEIGHTS, jnp.float32))
    np.testing.assert_allclose(actual, reference(np.exp(LOG_WEIGHTS)), rtol=1e-5)
    far = bound(jnp.asarray(LOG_WEIGHTS, jnp.float32) - 1000.0)
    np.testing.assert_allclose(far, reference(np.exp(LOG_WEIGHTS)) - 1000.0, rtol=1e-5)
    # with weights that are all equal, every bound is their logarithm
    np.testing.assert_allclose(bound(jnp.full((6, 2), -3.0)), np.full(2, -3.0), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.9, 0.999, 1 - 1e-6, 1 - 1e-12, 1 + 1e-6])
def test_renyi_near_one_is_near_the_elbo_and_no_noise(alpha):
    log_weights = LOG_WEIGHTS - 100.0
    centred = log_weights - log_weights.mean(axis=0)
    power = 1 - alpha
    exact = log_weights.mean(axis=0) + np.log1p(np.expm1(power * centred).mean(axis=0)) / power
    actual, gradient = jax.value_and_grad(lambda w: losses.renyi(w, alpha=alpha).sum())(
        jnp.asarray(log_weights, jnp.float32)
    )
    np.testing.assert_allclose(actual, exact.sum(), atol=1e-4)
    slope = np.exp(power * centred) / np.exp(power * centred).sum(axis=0)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.gaussian_kl(MEAN, LOG_VAR[:2]), r"mean \(4, 3\) and log_var \(2, 3\)"),
        (lambda: losses.bernoulli_log_likelihood(LOGITS[..., 0], IMAGES), r"must end in the shape of x \(4, 5, 6, 1\)"),
        (lambda: losses.bernoulli_log_likelihood(np.float32(1), np.float32(1)), "leading axis of examples"),
        (lambda: losses.gaussian_log_likelihood(MEAN, np.zeros((4, 4, 3)), MEAN), "does not broadcast"),
        (lambda: losses.elbo(jnp.zeros(3), jnp.zeros(2)), "same shape"),
        (lambda: losses.iwae(jnp.float32(0)), r"\[K, B\]"),
        (lambda: losses.miwae(jnp.zeros((6, 2)), num_groups=4), "6 draws can't be divided into 4 groups"),
        (lambda: losses.ciwae(jnp.zeros((6, 2)), elbo_weight=1.5), "elbo_weight is 1.5"),
        (lambda: losses.ciwae(jnp.zeros(()), elbo_weight=0.5), "leading axis of samples"),
        (lambda: losses.iwae(jnp.zeros((0, 2))), r"log_weights has the shape \(0, 2\); write .* K of at least 1"),
        (lambda: losses.renyi(jnp.zeros((6, 2)), alpha=1.0), r"write ELBO\(\)"),
        (lambda: losses.renyi(jnp.zeros((6, 2)), alpha=float("nan")), "alpha is nan; write a number"),
        (lambda: losses.cubo(jnp.zeros((6, 2)), order=0.5), "order is 0.5"),
    ],
)
def test_wrong_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_bound_is_summed_in_bfloat16():
    log_weights = jnp.linspace(-104.0, -96.0, 64, dtype=jnp.bfloat16)[:, None]
    exact = scipy.special.logsumexp(np.asarray(log_weights, float), axis=0) - np.log(64)
    np.testing.assert_allclose(losses.iwae(log_weights), exact, rtol=1e-6)
    bounds = (losses.miwae(log_weights, num_groups=2), losses.ciwae(log_weights, elbo_weight=0.5))
    bounds += (losses.renyi(log_weights, alpha=0.5), losses.elbo(log_weights, log_weights))
    assert {bound.dtype for bound in bounds} == {jnp.dtype("float32")}


def test_a_weight_of_zero_is_a_draw_lost_and_not_the_bound():
    log_weights = jnp.array([[-jnp.inf], [0.0], [1.0]])
    np.testing.assert_array_equal(losses.ciwae(log_weights, elbo_weight=0.0), losses.iwae(log_weights))
    np.testing.assert_allclose(losses.iwae(log_weights), np.log((1 + np.e) / 3), rtol=1e-6)
    none = log_weights - jnp.inf
    bounds = (losses.ciwae(none, elbo_weight=1.0), losses.iwae(none), losses.renyi(none, alpha=0.5))
    np.testing.assert_array_equal(bounds, np.full((3, 1), -np.inf))  # and not NaN


def test_a_kl_beyond_the_largest_number_is_infinite():
    log_var = jnp.array([[100.0], [-jnp.inf]])
    np.testing.assert_array_equal(losses.gaussian_kl(jnp.zeros((2, 1)), log_var), np.inf)  # and not NaN


def test_no_examples_have_no_bounds():
    for likelihood in (
        losses.bernoulli_log_likelihood(jnp.zeros((3, 0, 30)), jnp.zeros((0, 30))),
        losses.gaussian_log_likelihood(jnp.zeros((3, 0, 3000)), jnp.zeros(()), jnp.zeros((0, 3000))),
        losses.gaussian_log_likelihood(jnp.zeros((3, 0, 30)), jnp.zeros(()), jnp.zeros((0, 30))),
    ):
        assert likelihood.shape == (3, 0)


def densities(num, dim, seed=0):
    """log q(z_bd|x_j) [dim, num, num] of draws z_b from some normal q(z|x_b), and log p(z_b)."""
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=(num, dim)), np.exp(0.3 * rng.normal(size=(num, dim)))
    z = mean + std * rng.normal(size=mean.shape)
    by_latent = scipy.stats.norm(mean.T[:, None], std.T[:, None]).logpdf(z.T[:, :, None])
    return by_latent.astype(np.float32), scipy.stats.norm.logpdf(z).sum(-1).astype(np.float32)


def test_kl_parts_of_all_examples_are_exact():
    by_latent, log_prior = densities(num=6, dim=3)
    log_q = by_latent.sum(0, dtype=float)
    parts = losses.kl_parts(by_latent, log_prior, num_examples=6)
    marginal = scipy.special.logsumexp(log_q, axis=1) - np.log(6)
    product = (scipy.special.logsumexp(by_latent.astype(float), axis=2) - np.log(6)).sum(0)
    np.testing.assert_allclose(parts.mutual_information, np.diag(log_q) - marginal, atol=1e-5)
    np.testing.assert_allclose(parts.total_correlation, marginal - product, atol=1e-5)
    np.testing.assert_allclose(parts.dimension_wise_kl, product - log_prior, atol=1e-5)


def test_kl_parts_of_a_batch_estimate_the_mixture_without_bias():
    """Over all batches of three with the first example in them, the mean of the estimated q(z_0) is q(z_0)."""
    by_latent, log_prior = densities(num=7, dim=2)
    estimates = []
    for others in itertools.combinations(range(1, 7), 2):
        chosen = [0, *others]
        each, prior = by_latent[:, chosen][..., chosen], log_prior[chosen]
        parts = losses.kl_parts(each, prior, num_examples=7)
        np.testing.assert_allclose(sum(parts), np.diag(each.sum(0)) - prior, atol=1e-5)
        estimates.append(np.exp(each[:, 0, 0].sum() - parts.mutual_information[0]))
    np.testing.assert_allclose(np.mean(estimates), np.exp(by_latent[:, 0].sum(0)).mean(), rtol=1e-5)


def test_kl_parts_refuse_what_is_no_batch():
    by_latent, log_prior = densities(num=3, dim=2)
    with pytest.raises(ValueError, match="3 of 2 examples"):
        losses.kl_parts(by_latent, log_prior, num_examples=2)
    with pytest.raises(ValueError, match="1 of 9 examples"):
        losses.kl_parts(by_latent[:, :1, :1], log_prior[:1], num_examples=9)
    for each, prior in ((by_latent[:, :2], log_prior), (by_latent[0], log_prior), (by_latent, log_prior[0])):
        with pytest.raises(ValueError, match=r"write \[\.\.\., D, B, B\]"):
            losses.kl_parts(each, prior, num_examples=9)
    with pytest.raises(ValueError, match=r"and log_q \(3, 2\); write"):
        losses.kl_parts(by_latent, log_prior, num_examples=9, log_q=by_latent[0, :, :2])
