"""The linear-Gaussian model x = W z + b + σ ε, where posterior and evidence are known in closed form.

Both networks are `MLP(hidden=())`, so that the model's own output layers are the linear maps; nothing is mocked.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxvae as jv

D, E, B = 3, 5, 6
RNG = np.random.default_rng(1)
W, BIAS = RNG.normal(size=(D, E)), RNG.normal(size=E)
VARIANCE = 0.3
X = RNG.normal(size=(B, D)) @ W + BIAS + np.sqrt(VARIANCE) * RNG.normal(size=(B, E))

MODEL = jv.VAE(
    event_shape=(E,),
    latent_dim=D,
    encoder=jv.MLP(hidden=()),
    decoder=jv.MLP(hidden=()),
    likelihood=jv.Gaussian(variance=jv.Fixed(value=VARIANCE)),
)


def evidence(w):
    return scipy.stats.multivariate_normal(BIAS, w.T @ w + VARIANCE * np.eye(E)).logpdf(X)


def params(w, encoder_w, encoder_b, log_var, dtype=jnp.float32):
    encoder = {"kernel": np.concatenate([encoder_w, np.zeros((E, D))], 1), "bias": np.concatenate([encoder_b, log_var])}
    tree = {"encoder": {"output": encoder}, "decoder": {"output": {"kernel": w, "bias": BIAS}}}
    tree = jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)
    return tree | {"posterior": {}, "prior": {}, "likelihood": {}}


@functools.partial(jax.jit, static_argnums=2)
def draw(params, key, num_samples):
    return MODEL.evidence(params, key, jnp.asarray(X, jnp.float32), num_samples=num_samples)


def orthogonal():
    """A W with orthogonal rows: its true posterior is diagonal, and so within the model's family."""
    w = np.linalg.qr(np.random.default_rng(2).normal(size=(E, D)))[0].T * np.array([[2.0], [1.0], [0.5]])
    covariance = np.linalg.inv(np.eye(D) + w @ w.T / VARIANCE)
    assert np.allclose(covariance, np.diag(np.diag(covariance)))
    to_mean = w.T @ covariance / VARIANCE
    return w, params(w, to_mean, -BIAS @ to_mean, np.log(np.diag(covariance)))


def test_the_true_posterior_makes_the_elbo_exact(key):
    w, p = orthogonal()
    e = draw(p, key, 3)
    # each single weight equals the evidence, not only their mean
    np.testing.assert_allclose(e.log_weights, np.broadcast_to(evidence(w), (3, B)), rtol=1e-4)
    elbo = jv.ELBO(closed_form_kl=False)(e)
    np.testing.assert_allclose(elbo, evidence(w), rtol=1e-4)
    np.testing.assert_allclose(jv.losses.iwae(e.log_weights), evidence(w), rtol=1e-4)


def any_q():
    rng = np.random.default_rng(3)
    encoder_w, encoder_b, log_var = 0.2 * rng.normal(size=(E, D)), rng.normal(size=D), rng.normal(size=D) - 1
    return params(W, encoder_w, encoder_b, log_var), X @ encoder_w + encoder_b, np.diag(np.exp(log_var))


def exact_gap(mean, covariance):
    """KL(q || p(z|x)) of two Gaussians."""
    precision = np.eye(D) + W @ W.T / VARIANCE
    true_mean = (X - BIAS) @ W.T / VARIANCE @ np.linalg.inv(precision)
    maha = np.einsum("bi,ij,bj->b", mean - true_mean, precision, mean - true_mean)
    log_det = -np.linalg.slogdet(precision)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(precision @ covariance) + maha - D + log_det)


@pytest.mark.parametrize("closed_form_kl", [True, False])
def test_any_other_q_falls_short_by_its_kl_to_the_posterior(key, closed_form_kl):
    p, mean, covariance = any_q()
    draws = 40_000
    e = draw(p, key, draws)
    elbo = np.asarray(jv.ELBO(closed_form_kl=closed_form_kl)(e), float)
    terms = e.log_likelihood if closed_form_kl else e.log_weights
    error = np.asarray(terms, float).std(axis=0) / np.sqrt(draws)
    gap = evidence(W) - elbo
    assert np.all(gap > 0)
    assert np.all(np.abs(gap - exact_gap(mean, covariance)) < 5 * error + 1e-3)


def around_the_posterior(factor):
    """A q with the true posterior's mean, and `factor` times its largest variance in any direction."""
    covariance = np.linalg.inv(np.eye(D) + W @ W.T / VARIANCE)
    to_mean = W.T @ covariance / VARIANCE
    return params(W, to_mean, -BIAS @ to_mean, np.full(D, np.log(factor * np.linalg.eigvalsh(covariance)[-1])))


def test_bounds_of_many_draws_enclose_the_evidence(key):
    """Below it and rising with K, in the mean over repetitions; CUBO above it; at 5,000 draws within 0.01 nats."""
    draws = 100_000
    log_weights = draw(around_the_posterior(1.2), key, draws).log_weights
    means, errors = [], []
    for k in (1, 2, 5, 50, 500):
        groups = log_weights.reshape(draws // k, k, B)
        bounds = np.asarray(jax.jit(jax.vmap(jv.losses.iwae))(groups), float) - evidence(W)
        miwae = jax.jit(lambda log_weights, k=k: jv.losses.miwae(log_weights, num_groups=draws // k))(log_weights)
        np.testing.assert_allclose(miwae, bounds.mean(0) + evidence(W), rtol=1e-5)
        means.append(bounds.mean(axis=0))
        errors.append(bounds.std(axis=0) / np.sqrt(len(bounds)))
        assert np.all(means[-1] < 4 * errors[-1] + 1e-4), k
    for (low, a), (high, b) in itertools.pairwise(zip(means, errors, strict=True)):
        assert np.all(high > low - 4 * np.hypot(a, b) - 1e-4)
    many = np.asarray(jax.jit(jax.vmap(jv.losses.iwae))(log_weights.reshape(20, 5000, B)), float).mean(axis=0)
    np.testing.assert_allclose(many, evidence(W), atol=0.01)
    assert np.all(np.asarray(jv.losses.cubo(log_weights), float) > evidence(W))
    renyi = [jv.losses.renyi(log_weights, alpha=a) for a in (0.0, 0.3, 0.9)]
    assert np.all(np.diff(renyi, axis=0) < 0)
    np.testing.assert_allclose(renyi[0], jv.losses.iwae(log_weights), rtol=1e-6)


@pytest.mark.parametrize(
    "objective",
    [jv.IWAE(), jv.MIWAE(num_samples=6, num_groups=2), jv.CIWAE(num_samples=6), jv.Renyi(num_samples=6), jv.CUBO()],
)
def test_with_the_true_posterior_every_bound_is_exact(key, objective):
    w, p = orthogonal()
    e = draw(p, key, objective.num_samples)
    np.testing.assert_allclose(objective.at(3)(e), evidence(w), rtol=1e-4)


def test_the_lectures_two_forms_agree(key):
    """-E[log q] + E[log p(x, z)] = E[log p(x|z)] - KL(q || p), within the error of the draws."""
    p, _, _ = any_q()
    e = draw(p, key, 40_000)
    joint = np.asarray(e.log_prior + e.log_likelihood - e.log_posterior, float)
    difference = joint.mean(axis=0) - np.asarray(jv.ELBO()(e), float)
    # the two share their likelihood draws: what is left is the error of the Monte Carlo KL
    error = np.asarray(e.log_posterior - e.log_prior, float).std(axis=0) / np.sqrt(40_000)
    assert np.all(np.abs(difference) < 5 * error + 1e-4)
    assert np.all(error < 0.05)


def test_gradients_of_the_reparameterized_elbo_are_exact(key):
    """∇ of the ELBO over many draws against the gradient of log p(x) - KL(q || p(z|x)), which is exact."""
    p, _, _ = any_q()
    x = jnp.asarray(X, jnp.float32)

    def estimate(p, key):
        return jv.ELBO()(MODEL.evidence(p, key, x, num_samples=500)).mean()

    def exact(p):
        """E_q of a quadratic, so in closed form."""
        q = MODEL.encode(p, x)
        kernel, bias = p["decoder"]["output"]["kernel"], p["decoder"]["output"]["bias"]
        residual = jnp.square(x - q.mean @ kernel - bias[None]).sum(-1) + jnp.exp(q.log_var) @ jnp.square(kernel).sum(
            -1
        )
        log_likelihood = -0.5 * (residual / VARIANCE + E * jnp.log(2 * jnp.pi * VARIANCE))
        return (log_likelihood - jv.losses.gaussian_kl(q.mean, q.log_var)).mean()

    draws = jax.lax.map(lambda k: jax.grad(estimate)(p, k), jax.random.split(key, 100))
    expected = jax.jit(jax.grad(exact))(p)
    for name in ("encoder", "decoder"):
        for leaf in ("kernel", "bias"):
            got, want = (
                np.asarray(draws[name]["output"][leaf], float),
                np.asarray(expected[name]["output"][leaf], float),
            )
            error = got.std(axis=0, ddof=1) / 10
            assert np.all(np.abs(got.mean(axis=0) - want) < 5 * error + 1e-4), (name, leaf)
            assert np.linalg.norm(error) < 0.02 * np.linalg.norm(want), (name, leaf)


def test_the_evaluator_finds_the_evidence(key):
    """From a diagonal q around the true posterior mean, wide enough for the weights to be bounded."""
    p = around_the_posterior(1.2)
    evaluate = jv.make_evaluator(MODEL)
    terms = evaluate(p, key, X.astype(np.float32), num_importance_samples=20_000)
    np.testing.assert_allclose(terms.log_evidence, evidence(W), atol=0.05)
    assert np.all(terms.elbo < evidence(W) - 0.3)
    again = evaluate(p, key, X[:4].astype(np.float32), num_importance_samples=20_000)
    np.testing.assert_allclose(again.log_evidence, terms.log_evidence[:4], rtol=1e-5)


def test_the_evaluator_is_exact_with_the_true_posterior(key):
    w, p = orthogonal()
    for draws in (1, 7, 200):
        terms = jv.make_evaluator(MODEL)(p, key, X.astype(np.float32), num_importance_samples=draws)
        np.testing.assert_allclose(terms.log_evidence, evidence(w), rtol=1e-4)
