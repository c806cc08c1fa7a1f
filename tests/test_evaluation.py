"""The evaluator's numbers do not depend on how the work was cut, and its summary is what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jaxvae as jv
from jaxvae import evaluation

MODEL = jv.VAE(event_shape=(6,), latent_dim=3, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,)))
X = (np.random.default_rng(0).random((37, 6)) * 255).astype(np.uint8)


def binarize(key, x):
    return jv.DynamicBinarization()(key, x, 255.0)


def params():
    p = MODEL.init(jax.random.key(1))
    return jax.tree.map(lambda a: 3 * a, p)  # far from the prior, so that weights differ


@pytest.mark.parametrize("num", [1, 5, 100, 130])
def test_chunks_change_nothing(monkeypatch, key, num):
    results = []
    for rows, draws in ((4096, 64), (64, 8), (31, 3)):
        monkeypatch.setattr(evaluation, "_ROWS", rows)
        monkeypatch.setattr(evaluation, "_DRAWS", draws)
        ticks = []
        evaluate = jv.make_evaluator(MODEL, preprocess=binarize)
        results.append(evaluate(params(), key, X, num_importance_samples=num, tick=ticks.append))
        assert sum(ticks) == len(X)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_it_is_the_bound(key):
    """Against all draws at once, in NumPy."""
    terms = jv.make_evaluator(MODEL)(params(), key, X[:5] > 100, num_importance_samples=50)
    k = jax.random.fold_in(key, 1)
    x = (X[:5] > 100).astype(np.float32)
    q = MODEL.encode(params(), x)
    keys = [[jax.random.fold_in(jax.random.fold_in(k, i), n) for i in range(5)] for n in range(50)]
    noise = np.array([[jax.random.normal(b, (3,)) for b in a] for a in keys])
    e = MODEL.weigh(params(), q, np.asarray(q.mean)[None] + np.asarray(q.std)[None] * noise, x)
    weights = np.asarray(e.log_weights, float)
    np.testing.assert_allclose(terms.log_evidence, scipy.special.logsumexp(weights, axis=0) - np.log(50), rtol=1e-5)
    np.testing.assert_allclose(terms.elbo, np.asarray(e.log_likelihood).mean(0) - np.asarray(e.kl), rtol=1e-4)
    np.testing.assert_allclose(terms.posterior_mean, q.mean, rtol=1e-5)
    m, v = np.asarray(q.mean, float), np.asarray(q.variance, float)
    np.testing.assert_allclose(terms.kl_per_dimension, 0.5 * (m**2 + v - 1 - np.log(v)), rtol=1e-4)
    np.testing.assert_allclose(terms.kl_per_dimension.sum(1), terms.rate, rtol=1e-5)


def test_a_variance_that_all_posteriors_share(key):
    """As many examples as latents: an axis that is drawn along must be the examples' and no other."""

    @dataclasses.dataclass(frozen=True)
    class SharedVariance(jv.DiagonalGaussian):
        def distribution(self, params, outputs):
            return jv.distributions.Normal(outputs[:, :3], jnp.array([-1.0, 0.0, 1.0]))

    model = dataclasses.replace(MODEL, posterior=SharedVariance())
    terms = jv.make_evaluator(model, preprocess=binarize)(params(), key, X[:3], num_importance_samples=300)
    spread = dataclasses.replace(MODEL, posterior=Spread())
    expected = jv.make_evaluator(spread, preprocess=binarize)(params(), key, X[:3], num_importance_samples=300)
    np.testing.assert_allclose(terms.log_evidence, expected.log_evidence, rtol=1e-5)
    np.testing.assert_allclose(terms.elbo, expected.elbo, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Spread(jv.DiagonalGaussian):
    """The same, with the variance written out for each example."""

    def distribution(self, params, outputs):
        log_var = jnp.broadcast_to(jnp.array([[-1.0, 0.0, 1.0]]), outputs[:, :3].shape)
        return jv.distributions.Normal(outputs[:, :3], log_var)


def test_more_draws_are_a_better_bound(key):
    evaluate = jv.make_evaluator(MODEL, preprocess=binarize)
    bounds = [evaluate(params(), key, X, num_importance_samples=k).log_evidence.mean() for k in (1, 10, 1000)]
    assert bounds[0] < bounds[1] < bounds[2]


def terms():
    mean = np.zeros((4, 3))
    mean[:, 1], mean[:, 2] = [-1, 1, -1, 1], [0.09, -0.09, 0.09, -0.09]  # variances 0, 1 and 0.0081
    return evaluation.PerExample(
        np.array([-1.0, -2.0, -3.0, -6.0]), np.full(4, 5.0), np.array([1.0, 1.0, 2.0, 2.0]), mean, mean**2
    )


def test_summary():
    s = evaluation.summarize(terms(), has_density=True, log_bins=0.0, event_size=6)
    assert s["elbo"] == -6.5
    assert s["log_evidence"] == -3.0
    assert s["log_evidence_stderr"] == pytest.approx(np.sqrt(14 / 3 / 4))
    assert (s["distortion"], s["rate"], s["active_units"], s["num_examples"]) == (5.0, 1.5, 1, 4)
    assert (s["distortion_stderr"], s["rate_stderr"]) == (0.0, pytest.approx(np.sqrt(1 / 3 / 4)))
    assert s["kl_per_dimension"] == pytest.approx([0.0, 1.0, 0.0081])
    assert s["bits_per_dim"] == pytest.approx(3.0 / 6 / np.log(2))
    dequantized = evaluation.summarize(terms(), has_density=True, log_bins=np.log(256), event_size=6)
    assert dequantized["bits_per_dim"] == pytest.approx(s["bits_per_dim"] + 8)


def test_what_does_not_exist_is_none():
    s = evaluation.summarize(terms(), has_density=False, log_bins=0.0, event_size=6)
    assert [s[n] for n in ("elbo", "elbo_stderr", "log_evidence", "rate", "bits_per_dim")] == [None] * 5
    assert s["distortion"] == 5.0
    assert evaluation.summarize(terms(), has_density=True, log_bins=None, event_size=6)["bits_per_dim"] is None


def test_mistakes_are_named(key):
    evaluate = jv.make_evaluator(MODEL)
    with pytest.raises(ValueError, match="no examples"):
        evaluate(params(), key, X[:0])
    with pytest.raises(ValueError, match="num_importance_samples is 0"):
        evaluate(params(), key, X, num_importance_samples=0)
