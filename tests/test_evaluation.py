"""The evaluator's numbers do not depend on how the work is split, and the summary agrees with them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import jaxvae as jv
from jaxvae import evaluation
from jaxvae.distributions import DiscretizedLogistic, LogisticMixture, Observed, Rescaled
from jaxvae.evaluation import evaluator

MODEL = jv.VAE(event_shape=(6,), latent_dim=3, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,)))
X = (np.random.default_rng(0).random((37, 6)) * 255).astype(np.uint8)


def binarize(key, x):
    return jv.DynamicBinarization()(key, x, 255.0)


def params():
    p = jax.jit(MODEL.init)(jax.random.key(1))
    return jax.tree.map(lambda a: 3 * a, p)  # far from the prior, so that weights differ


@pytest.mark.parametrize("num", [5, 130, *(pytest.param(num, marks=pytest.mark.long) for num in (1, 100))])
def test_chunks_change_nothing(key, num):
    results = []
    for rows in (4096, 200, 1):
        parts = []
        evaluate = jv.make_evaluator(MODEL, preprocess=binarize, rows_at_once=rows)
        results.append(evaluate(params(), key, X, num_importance_samples=num, report=parts.append))
        np.testing.assert_array_equal(np.concatenate([p.rate for p in parts]), results[-1].rate)
    for other in results[1:]:
        for name, a, b in zip(evaluation.PerExample._fields, results[0], other, strict=True):
            # a ratio of weights, whose logarithms of some hundreds have errors of 2e-5
            rtol = 1e-4 if name == "effective_sample_size" else 2e-5
            np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-5)
    half = evaluate(params(), key, X, num_importance_samples=num, start=20)  # as after a stop
    for a, b in zip(results[-1], half, strict=True):
        np.testing.assert_allclose(a[20:], b, rtol=2e-5, atol=2e-5)


def test_chunks_change_nothing_with_other_generators():
    """JAX draws the bits of a batch of such keys together."""
    key, results = jax.random.key(0, impl="rbg"), []
    for rows in (4096, 64):
        evaluate = jv.make_evaluator(MODEL, preprocess=binarize, rows_at_once=rows)
        results.append(evaluate(params(), key, X[:7], num_importance_samples=70).log_evidence)
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_dispatches_change_nothing(key, monkeypatch):
    """One for each chunk of draws, as for convolutions on a CPU; one for all; and several, the last of them partial."""
    results = []
    for fused, chunks in ((True, 128), (False, 128), (True, 2)):
        monkeypatch.setattr(evaluator, "fusing_pays", lambda model, fused=fused: fused)
        monkeypatch.setattr(evaluator, "_CHUNKS", chunks)
        evaluate = jv.make_evaluator(MODEL, preprocess=binarize)
        results.append(evaluate(params(), key, X, num_importance_samples=64 * 4 + 10))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_it_is_the_bound(key):
    """Against all draws at once, in NumPy."""
    terms = jv.make_evaluator(MODEL)(params(), key, X[:5] > 100, num_importance_samples=50)
    k = jax.random.fold_in(key, 1)
    x = (X[:5] > 100).astype(np.float32)
    q = jax.jit(MODEL.encode)(params(), x)
    keys = [jax.random.fold_in(jax.random.fold_in(k, i), 0) for i in range(5)]
    noise = np.stack([jax.random.normal(key, (50, 3)) for key in keys], axis=1)
    z = np.asarray(q.mean)[None] + np.asarray(q.std)[None] * noise
    e = jax.jit(MODEL.weigh)(params(), q, z, x)
    weights = np.asarray(e.log_weights, float)
    np.testing.assert_allclose(terms.log_evidence, scipy.special.logsumexp(weights, axis=0) - np.log(50), rtol=1e-5)
    normalized = scipy.special.softmax(weights, axis=0)
    np.testing.assert_allclose(terms.effective_sample_size, 1 / np.square(normalized).sum(0), rtol=1e-4)
    np.testing.assert_allclose(terms.elbo, np.asarray(e.log_likelihood).mean(0) - np.asarray(e.kl), rtol=1e-4)
    np.testing.assert_allclose(terms.embedding, q.mean, rtol=1e-5)
    m, v = np.asarray(q.mean, float), np.asarray(q.variance, float)
    np.testing.assert_allclose(terms.kl_per_dimension, 0.5 * (m**2 + v - 1 - np.log(v)), rtol=1e-4)
    np.testing.assert_allclose(terms.kl_per_dimension.sum(1), terms.rate, rtol=1e-5)


def test_a_rate_without_a_closed_form_is_that_of_the_draws(key):
    """Of which the last chunk takes a few only; and with one draw the bound is the ELBO."""
    model = dataclasses.replace(MODEL, prior=jv.GaussianMixture(num_components=4))
    p = jax.tree.map(lambda a: 3 * a, jax.jit(model.init)(jax.random.key(1)))
    evaluate, x = jv.make_evaluator(model, preprocess=binarize), X[:5]
    one = evaluate(p, key, x)
    np.testing.assert_allclose(one.elbo, one.log_evidence, rtol=1e-6)
    terms = evaluate(p, key, x, num_importance_samples=70)
    index = np.arange(5)
    x = evaluation.preprocess_each(binarize, key, jnp.asarray(x), index)
    q, keys = jax.jit(model.encode)(p, x), evaluator.example_keys(jax.random.fold_in(key, 1), index)
    noise = [jax.random.normal(jax.random.fold_in(k, start), (64, 3)) for k in keys for start in (0, 64)]
    noise = np.stack(noise).reshape(5, 128, 3).transpose(1, 0, 2)[:70]
    e = jax.jit(model.weigh)(p, q, np.asarray(q.mean)[None] + np.asarray(q.std)[None] * noise, x)
    np.testing.assert_allclose(terms.rate, np.mean(e.log_posterior - e.log_prior, axis=0, dtype=float), rtol=1e-5)
    np.testing.assert_allclose(terms.distortion, -np.mean(e.log_likelihood, axis=0, dtype=float), rtol=1e-5)


def test_a_variance_that_all_posteriors_share(key):
    """With as many examples as latents, so that the two axes could be confused."""

    @dataclasses.dataclass(frozen=True)
    class SharedVariance(jv.DiagonalGaussian):
        def distribution(self, params, outputs, latent_dim):
            return jv.distributions.Normal(outputs[:, :3], jnp.array([-1.0, 0.0, 1.0]))

    model = dataclasses.replace(MODEL, posterior=SharedVariance())
    terms = jv.make_evaluator(model, preprocess=binarize)(params(), key, X[:3], num_importance_samples=300)
    spread = dataclasses.replace(MODEL, posterior=Spread())
    expected = jv.make_evaluator(spread, preprocess=binarize)(params(), key, X[:3], num_importance_samples=300)
    np.testing.assert_allclose(terms.log_evidence, expected.log_evidence, rtol=1e-5)
    np.testing.assert_allclose(terms.elbo, expected.elbo, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Spread(jv.DiagonalGaussian):
    """The same posterior, with the variance repeated for each example."""

    def distribution(self, params, outputs, latent_dim):
        log_var = jnp.broadcast_to(jnp.array([[-1.0, 0.0, 1.0]]), outputs[:, :3].shape)
        return jv.distributions.Normal(outputs[:, :3], log_var)


@pytest.mark.parametrize("log_weight", [0.0, -1e3, -1e6, 1e6])
def test_equal_weights_are_all_of_the_sample(log_weight):
    """Whatever the size of log p(x): two chunks of 64 draws, the last ten of which do not count."""
    level = jnp.full((64, 2), log_weight)
    evidence = jv.Evidence(level, jnp.zeros((64, 2)), jnp.zeros((64, 2)), None, None, None)
    sums = evaluator.Sums.zero(2).add(evidence, jnp.arange(64)[:, None] < 64)
    sums = sums.add(evidence._replace(log_likelihood=level + 2.0), jnp.arange(64)[:, None] < 54)
    weights = np.concatenate([np.ones(64), np.full(54, np.exp(2.0))])
    weight, square = sums.weight.value, sums.square.value
    np.testing.assert_allclose(np.square(weight) / square, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.largest + np.log(weight), log_weight + np.log(weights.sum()), rtol=1e-6)


def test_draws_of_no_weight_are_draws():
    """A first chunk in which p(x|z) is 0 for every draw: log p(x) is that of the others, the distortion infinite."""
    finite, counts = jnp.zeros((64, 2)), jnp.ones((64, 1), bool)
    evidence = jv.Evidence(finite, finite, finite, None, None, None)
    sums = evaluator.Sums.zero(2).add(evidence._replace(log_likelihood=finite - jnp.inf), counts)
    np.testing.assert_array_equal(sums.weight.value, 0.0)
    sums = sums.add(evidence, counts).add(evidence, counts)
    np.testing.assert_allclose(sums.largest + np.log(sums.weight.value), np.log(128.0), rtol=1e-6)
    np.testing.assert_array_equal(sums.log_likelihood.value, -np.inf)


def test_what_rounding_lost_is_in_the_units_of_the_sum():
    total, add = evaluator.Total.zero(1), jax.jit(evaluator.Total.add)
    for _ in range(100):
        total = add(total, jnp.full((1, 1), 0.1))
    assert total.excess != 0
    whole, eighth = (np.float64(t.value) - np.float64(t.excess) for t in (total, total.times(jnp.float32(0.125))))
    np.testing.assert_allclose(whole, 100 * np.float64(np.float32(0.1)), rtol=1e-12)
    np.testing.assert_array_equal(eighth, whole / 8)


def test_large_events_are_decoded_one_by_one():
    assert evaluator.chunk_of(MODEL, (10_000, 28, 28, 1), 5000) == (64, 64)
    assert evaluator.chunk_of(MODEL, (10, 128, 128, 1), 2) == (10, 2)
    assert evaluator.chunk_of(MODEL, (10, 1024, 1024, 3), 64) == (1, 64)


def test_of_a_million_draws_no_digits_are_lost(key):
    """With a decoder that ignores z all draws are equal, and so must be their mean, however many there are."""
    model = jv.VAE(event_shape=(3,), latent_dim=1, encoder=jv.MLP(hidden=()), decoder=jv.MLP(hidden=()))
    params = jax.tree.map(jnp.zeros_like, model.init(key))
    params["decoder"]["output"]["bias"] = jnp.array([200.123, -150.456, 79.0])
    x = np.array([[0.0, 1.0, 1.0]], np.float32)
    terms = jv.make_evaluator(model)(params, key, x, num_importance_samples=10**6)
    np.testing.assert_allclose(terms.distortion, 350.579, rtol=5e-7)  # ten roundings of float32
    np.testing.assert_allclose(terms.log_evidence, -350.579, rtol=5e-7)
    assert terms.effective_sample_size == 10**6


def test_more_draws_are_a_better_bound(key):
    evaluate = jv.make_evaluator(MODEL, preprocess=binarize)
    bounds = [evaluate(params(), key, X, num_importance_samples=k).log_evidence.mean() for k in (1, 10, 1000)]
    assert bounds[0] < bounds[1] < bounds[2]


def terms():
    mean = np.zeros((4, 3))
    mean[:, 1], mean[:, 2] = [-1, 1, -1, 1], [0.09, -0.09, 0.09, -0.09]  # variances 0, 1 and 0.0081
    return evaluation.PerExample(
        np.array([-1.0, -2.0, -3.0, -6.0]),
        np.full(4, 5.0),
        np.array([1.0, 1.0, 2.0, 2.0]),
        mean,
        mean**2,
        np.array([1.0, 2.0, 3.0, 4.0]),
    )


def test_summary():
    s = evaluation.summarize(terms(), has_density=True, log_bins=0.0, event_size=6)
    assert s["elbo"] == -6.5
    assert s["effective_sample_size"] == 2.5
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
    one = evaluation.PerExample(*(None if a is None else a[:1] for a in terms()))
    alone = evaluation.summarize(one, has_density=True, log_bins=0.0, event_size=6)
    assert (alone["elbo_stderr"], alone["active_units"]) == (None, None)
    assert evaluation.summarize(terms(), has_density=True, log_bins=None, event_size=6)["bits_per_dim"] is None


def test_mistakes_are_named(key):
    evaluate = jv.make_evaluator(MODEL)
    with pytest.raises(ValueError, match="no examples"):
        evaluate(params(), key, X[:0])
    with pytest.raises(ValueError, match="rows_at_once is 0; write at least 1"):
        jv.make_evaluator(MODEL, rows_at_once=0)
    with pytest.raises(ValueError, match="start is 37; write a number from 0 to 36"):
        evaluate(params(), key, X, start=37)
    for num in (0, 5e2, True):
        with pytest.raises(ValueError, match=f"num_importance_samples is {num}; write a whole number"):
            evaluate(params(), key, X, num_importance_samples=num)
    with pytest.raises(ValueError, match=r"takes values in {0, 1}, but x has values in the integers \[\d+, 25\d\]"):
        evaluate(params(), key, X)
    with pytest.raises(ValueError, match=r"but x has values in \[0, 0\.\d+\]; write preprocess="):
        evaluate(params(), key, X / 256)
    with pytest.raises(ValueError, match=r"x has the shape \(6,\); write examples \[N, \*event\]"):
        evaluate(params(), key, X[0].ravel())


@pytest.mark.parametrize(
    ("value", "message"), [(np.inf, "infinite; remove"), (np.nan, r"write likelihood=Incomplete\(")]
)
def test_a_number_that_is_none_is_no_evidence(value, message, key):
    model = dataclasses.replace(MODEL, likelihood=jv.Gaussian())
    x = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    x[2, 3] = value
    with pytest.raises(ValueError, match=message):
        jv.make_evaluator(model)(model.init(key), key, x)


def test_an_example_of_which_nothing_was_observed_is_no_evidence_and_no_error(key):
    model = dataclasses.replace(MODEL, likelihood=jv.Incomplete(likelihood=jv.Gaussian()))
    x = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    x[3] = np.nan
    terms = jv.make_evaluator(model, rows_at_once=1)(model.init(key), key, x[:5])
    assert terms.distortion[3] == 0.0
    assert np.isfinite(terms.log_evidence).all()


def gaussians(mean, log_var):
    """A model whose `encode` returns N(mean[x], exp(log_var)) for x = 0, 1, …: a table of posteriors."""

    @dataclasses.dataclass(frozen=True)
    class Table(jv.DiagonalGaussian):
        def distribution(self, params, outputs, latent_dim):
            index = outputs[:, 0].astype(int)
            return jv.distributions.Normal(jnp.asarray(mean, jnp.float32)[index], jnp.full((1, 1), log_var))

    model = jv.VAE(
        event_shape=(2,), latent_dim=1, encoder=jv.MLP(hidden=()), decoder=jv.MLP(hidden=()), posterior=Table()
    )
    p = model.init(jax.random.key(0))
    output = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    x = np.stack([np.arange(len(mean)), np.zeros(len(mean))], axis=1).astype(np.float32)
    return model, p | {"encoder": {"output": output}}, x


@pytest.mark.parametrize(
    ("spread", "log_var"), [(0.0, 0.3), (1.0, -1.0), (100.0, -4.0)], ids=["one posterior", "overlap", "apart"]
)
def test_elbo_surgery(key, spread, log_var):
    """Three posteriors in one dimension: both parts by quadrature."""
    means = spread * np.array([-1.0, 0.2, 1.0])
    copies = np.tile(means, 3000)  # many draws of each; q(z) is the same
    model, p, x = gaussians(copies[:, None], log_var)
    surgery = evaluation.elbo_surgery(model, p, key, x)
    grid = np.concatenate([m + np.exp(log_var / 2) * np.linspace(-9, 9, 40_001) for m in means])
    grid = np.unique(grid)
    each = scipy.stats.norm(means[:, None], np.exp(log_var / 2)).logpdf(grid)
    mixture = scipy.special.logsumexp(each, axis=0) - np.log(3)

    def integral(values):
        return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(grid)))

    information = np.mean([integral(np.exp(e) * (e - mixture)) for e in each])
    marginal = integral(np.exp(mixture) * (mixture - scipy.stats.norm.logpdf(grid)))
    for got, want in ((surgery.mutual_information, information), (surgery.marginal_kl, marginal)):
        error = got.std() / np.sqrt(len(got))
        assert abs(got.mean() - want) < 5 * error + 1e-3 + 1e-5 * abs(want)
    assert -0.001 < surgery.mutual_information.mean() < np.log(3) + 1e-3
    np.testing.assert_allclose(surgery.total_correlation, 0.0, atol=1e-4)  # there is one latent


def test_no_example_tells_more_than_which_one_it_is(key):
    """I(x; z) ≤ log N holds even where the covariance is too ill-conditioned to solve for a draw's noise."""
    mlp = jv.MLP(hidden=())
    model = jv.VAE(event_shape=(4,), latent_dim=20, encoder=mlp, decoder=mlp, posterior=jv.FullGaussian())
    p = model.init(key)
    output = p["encoder"]["output"]
    p["encoder"]["output"] = output | {"bias": 4.0 * jax.random.normal(jax.random.key(1), output["bias"].shape)}
    x = np.asarray(jax.random.bernoulli(key, shape=(30, 4)), np.float32)
    q = model.encode(p, x)
    z, log_q = jax.jit(jv.distributions.sample_and_log_prob)(q, key)
    assert np.min(jax.jit(lambda q, z: q.log_prob(z))(q, z) - log_q) < -1e3
    surgery = evaluation.elbo_surgery(model, p, key, x)
    assert surgery.mutual_information.max() < np.log(30) + np.abs(log_q).max() * np.finfo(np.float32).eps


def test_the_total_correlation_is_the_integral(key):
    """With the same posterior for all x, z has no information about x, but its entries are dependent."""
    rho = 0.8

    @dataclasses.dataclass(frozen=True)
    class Correlated(jv.FullGaussian):
        def distribution(self, params, outputs, latent_dim):
            tril = jnp.array([[1.0, 0.0], [rho, np.sqrt(1 - rho**2)]])
            return jv.distributions.MultivariateNormal(
                jnp.zeros((len(outputs), 2)), jnp.tile(tril, (len(outputs), 1, 1))
            )

    model = dataclasses.replace(MODEL, posterior=Correlated(), latent_dim=2)
    surgery = evaluation.elbo_surgery(model, jax.jit(model.init)(key), key, np.zeros((2000, *X.shape[1:]), np.float32))
    np.testing.assert_allclose(surgery.mutual_information, 0.0, atol=1e-3)
    error = surgery.total_correlation.std() / np.sqrt(2000)
    assert abs(surgery.total_correlation.mean() + 0.5 * np.log(1 - rho**2)) < 4 * error
    assert error < 0.03


@pytest.mark.parametrize(("spread", "log_var"), [(1.0, -1.0), (3.0, -4.0)], ids=["overlap", "apart"])
def test_the_mmd_of_the_marginal(key, spread, log_var):
    """Three posteriors in one dimension, ordered by their means: the closed form for a mixture and the prior."""
    means, variance = spread * np.array([-1.0, 0.2, 1.0]), np.exp(log_var)
    model, p, x = gaussians(np.repeat(means, 4000)[:, None], log_var)
    found = evaluation.marginal_mmd(model, p, key, x, max_draws=11_000)

    def mean_kernel(distance, variance):
        each = [h / np.sqrt(h**2 + variance) * np.exp(-0.5 * distance**2 / (h**2 + variance)) for h in (0.5, 1, 2)]
        return np.mean(each)

    within = mean_kernel(means[:, None] - means, 2 * variance)
    expected = within - 2 * mean_kernel(means, variance + 1) + mean_kernel(0.0, 2.0)
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert len(found) == 10
    assert abs(found.mean() - expected) < 4 * error
    assert error < 0.15 * expected


def test_the_mmd_of_sorted_examples(key):
    """Neighbours in x are alike; a group with one of each kind would be too even to be ten independent draws."""
    means = np.sort(np.random.default_rng(0).normal(size=200))
    model, p, x = gaussians(means[:, None], -12.0)  # q(z) is the prior
    found = evaluation.marginal_mmd(model, p, key, x)
    assert abs(found.mean()) < 4 * found.std(ddof=1) / np.sqrt(len(found))


def test_where_there_is_no_mmd(key):
    """Too few examples and a flow have none. An autoencoder, a mixture and the sphere have one."""
    autoencoder = dataclasses.replace(MODEL, posterior=jv.Delta())
    of_delta = evaluation.marginal_mmd(autoencoder, jax.jit(autoencoder.init)(key), key, X, preprocess=binarize)
    assert of_delta.mean() > 0.05  # the codes of an untrained encoder are near 0
    vamp = dataclasses.replace(MODEL, prior=jv.VampPrior(num_components=4))
    assert np.isfinite(evaluation.marginal_mmd(vamp, jax.jit(vamp.init)(key), key, X, preprocess=binarize)).all()
    assert evaluation.marginal_mmd(MODEL, params(), key, X[:19], preprocess=binarize) is None
    sphere = dataclasses.replace(MODEL, posterior=jv.VonMisesFisher(), prior=jv.UniformSphere())
    assert np.isfinite(evaluation.marginal_mmd(sphere, jax.jit(sphere.init)(key), key, X, preprocess=binarize)).all()
    flow = dataclasses.replace(MODEL, prior=jv.FlowPrior())
    assert evaluation.marginal_mmd(flow, jax.jit(flow.init)(key), key, X, preprocess=binarize) is None


def test_surgery_is_independent_of_the_chunks(key, monkeypatch):
    whole = evaluation.elbo_surgery(MODEL, params(), key, X, preprocess=binarize)
    monkeypatch.setattr(evaluation.surgery, "_ENTRIES", 37 * 3 * 5)
    chunks = evaluation.elbo_surgery(MODEL, params(), key, X, preprocess=binarize)
    np.testing.assert_allclose(whole, chunks, rtol=1e-4, atol=1e-4)
    assert len(evaluation.elbo_surgery(MODEL, params(), key, X, preprocess=binarize, max_draws=5)[0]) == 5
    with pytest.raises(ValueError, match="no density"):
        evaluation.elbo_surgery(dataclasses.replace(MODEL, posterior=jv.Delta()), params(), key, X)


def test_an_open_end_is_reached_only_by_rounding(key):
    """One entry at 0 may have been rounded; many are exactly there, where a density of `Beta` bounds nothing."""
    model = dataclasses.replace(MODEL, likelihood=jv.Beta())
    p, x = jax.jit(model.init)(key), np.full((37, *X.shape[1:]), 0.5, np.float32)
    x[-1, 0] = 0.0  # the example with which the last batch is padded
    assert np.isfinite(jv.make_evaluator(model, rows_at_once=9)(p, key, x).elbo).all()
    x[:, 0] = 1.0
    with pytest.raises(ValueError, match=r"Beta likelihood takes values in \(0, 1\), but x has values in \[0\.5, 1\]"):
        jv.make_evaluator(model)(p, key, x)


@pytest.mark.parametrize("impute", [jv.impute, jv.multiple_imputations])
def test_grey_levels_are_not_imputed_as_zeros_and_ones(impute, key):
    model = dataclasses.replace(MODEL, likelihood=jv.Incomplete(likelihood=jv.Bernoulli()))
    p, x = jax.jit(model.init)(key), jnp.zeros((2, *X.shape[1:])).at[0, 0].set(jnp.nan)
    assert not np.isnan(jax.jit(lambda key: impute(model, p, key, x))(key)).any()  # a constant of the program
    assert jax.eval_shape(lambda key: impute(model, p, key, x[:0]), key).size == 0
    with pytest.raises(
        ValueError, match=r"x has values in the integers \[0, 255\] or NaN; preprocess x as in training"
    ):
        impute(model, p, key, x.at[1, 0].set(255.0))


def test_a_mask_is_of_booleans():
    """A probability of 0.5, say, is no answer to whether an entry was observed."""
    with pytest.raises(ValueError, match=r"observed has the type float32; write booleans, such as observed > 0\.5"):
        jv.mask(jnp.ones(3), jnp.array([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match=r"x \(3,\) and observed \(2,\) must have the same shape"):
        jv.mask(jnp.ones(3), np.ones(2, bool))


def test_imputation_is_the_conditional_mean(key):
    """Against an integral over the one latent, on a grid."""
    model = jv.VAE(
        latent_dim=1,
        event_shape=(5,),
        encoder=jv.MLP(hidden=(8,)),
        decoder=jv.MLP(hidden=(8,), activation="tanh"),
        likelihood=jv.Incomplete(likelihood=jv.Gaussian(variance=jv.Fixed(value=0.3))),
    )
    params = jax.tree.map(lambda a: 2.0 * a, jax.jit(model.init)(key))
    x = jv.mask(jax.random.normal(key, (4, 5)), jnp.arange(5)[None] < jnp.array([[1], [2], [3], [5]]))
    by_means = jax.jit(partial(evaluation.imputation.by_means, model, num_samples=20_000))(params, key, x)
    imputed = by_means.x
    num = 2000
    draws = jax.jit(partial(jv.multiple_imputations, model, num=num, num_samples=5000))(params, key, x)
    z = jnp.linspace(-8.0, 8.0, 4001)[:, None, None]

    @jax.jit
    def integral(params, x):
        p = model.decode(params, jnp.broadcast_to(z, (4001, 4, 1)))
        joint = p.log_prob(x[None]) + model.prior_distribution(params).log_prob(z)
        weights = jax.nn.softmax(joint, axis=0)
        mean = jnp.sum(weights[..., None] * p.mean, axis=0)
        both = jnp.einsum("zb,zbi,zbj->bij", weights, p.mean, p.mean)
        return mean, both - jnp.einsum("bi,bj->bij", mean, mean) + 0.3 * jnp.eye(5)[None]

    @jax.jit
    def effective_share(params, x):
        """(∫ w q)² / ∫ w² q, with w = p(x, z) / q(z|x)."""
        joint = model.decode(params, jnp.broadcast_to(z, (4001, 4, 1))).log_prob(x[None])
        joint += model.prior_distribution(params).log_prob(z)
        of_square = 2 * joint - model.encode(params, x).log_prob(jnp.broadcast_to(z, (4001, 4, 1)))
        step = jnp.log(16.0 / 4000)
        return jnp.exp(2 * (jax.nn.logsumexp(joint, axis=0) + step) - jax.nn.logsumexp(of_square, axis=0) - step)

    found, expected = by_means.effective_sample_size / 20_000, effective_share(params, x)
    # For the others, the second moment of the weights lies in tails of q that no draw reaches.
    np.testing.assert_allclose(found[1:3], expected[1:3], rtol=0.05)
    mean, covariance = integral(params, x)
    missing = np.isnan(x)
    np.testing.assert_allclose(imputed, np.where(missing, mean, x), atol=0.02)
    np.testing.assert_array_equal(imputed[3], x[3])
    # The draws have the conditional's covariance, within six standard errors (those of a normal's moments).
    assert draws.shape == (num, 4, 5)
    np.testing.assert_array_equal(draws[:, ~missing], np.broadcast_to(x[~missing], (num, np.sum(~missing))))
    for i in range(3):
        of = np.flatnonzero(missing[i])
        expected, spread = covariance[i][np.ix_(of, of)], np.sqrt(np.diag(covariance[i]))[of]
        np.testing.assert_array_less(np.abs(draws[:, i, of].mean(0) - mean[i, of]), 6 * spread / num**0.5)
        error = np.cov(draws[:, i, of].T).reshape(len(of), len(of)) - expected
        np.testing.assert_array_less(np.abs(error), 6 * np.outer(spread, spread) * (2 / num) ** 0.5)
    with pytest.raises(ValueError, match="needs a likelihood of whole examples; write Incomplete"):
        jv.Incomplete(likelihood=model.likelihood)
    whole = dataclasses.replace(model, likelihood=jv.StudentT(degrees_of_freedom=3.0))
    advice = r"write likelihood=Incomplete\(likelihood=StudentT\(degrees_of_freedom=3.0, .*\)\)"  # the model's own
    with pytest.raises(ValueError, match=advice):
        jv.impute(whole, params, key, x)
    with pytest.raises(ValueError, match=f"x has entries that are NaN.*{advice}"):
        jv.make_evaluator(whole)(params, key, x)
    with pytest.raises(ValueError, match="num is 0; write 1 or more"):
        jv.multiple_imputations(model, params, key, x, num=0)


@pytest.mark.parametrize("impute", [jv.impute, jv.multiple_imputations])
def test_imputation_in_the_units_of_the_data(impute, key):
    networks = {"encoder": jv.MLP(hidden=(8,)), "decoder": jv.MLP(hidden=(8,))}
    mean, std = jnp.array([500.0, 0.1, -3.0]), jnp.array([90.0, 0.02, 1.0])
    x = jv.mask(jax.random.normal(key, (4, 3)), jnp.arange(3)[None] < jnp.array([[0], [1], [2], [3]]))
    in_units, plain = (
        jv.VAE(latent_dim=2, event_shape=(3,), likelihood=jv.Incomplete(likelihood=of), **networks)
        for of in (jv.Standardized(likelihood=jv.StudentT()), jv.StudentT())
    )
    params = jax.jit(in_units.init)(key, data_mean=mean, data_std=std)
    raw = mean[None] + std[None] * x
    expected = jax.jit(partial(impute, plain))(params, key, x)
    found = jax.jit(partial(impute, in_units))(params, key, raw)
    units = (np.array(a)[(None,) * (expected.ndim - 1)] for a in (mean, std))
    np.testing.assert_allclose(found, np.add(next(units), next(units) * np.array(expected)), rtol=1e-3)


def test_what_entries_tell_of_each_other_they_tell_in_any_units(key):
    @dataclasses.dataclass
    class Twins:
        """Two entries that are equal."""

        def conditional_mean(self, value, observed):
            return jnp.where(observed, value, value[..., ::-1])

        def conditional_sample(self, key, value, observed):
            return self.conditional_mean(value, observed)

    p = Observed(Rescaled(Twins(), jnp.array([500.0, 0.1]), jnp.array([90.0, 0.02])))
    x = jnp.array([[590.0, jnp.nan], [jnp.nan, 0.06]])
    expected = [[590.0, 0.12], [320.0, 0.06]]
    np.testing.assert_allclose(p.conditional_mean(x), expected, rtol=1e-5)
    np.testing.assert_allclose(p.conditional_sample(key, x), expected, rtol=1e-5)


def test_a_channel_tells_of_the_other(key):
    """In a mixture whose channels share the component, observing one changes the mean of the other."""
    logistic = DiscretizedLogistic(jnp.array([[25.0, 230.0], [25.0, 230.0]])[None, None], jnp.full((1, 1, 2, 2), 1.0))
    mixture = LogisticMixture(jnp.zeros((1, 1, 1, 2)), logistic)
    x = jnp.array([24.0, jnp.nan])[None, None]
    levels = jnp.stack(jnp.broadcast_arrays(24.0, jnp.arange(256.0)), axis=-1)[:, None, None]
    mass = np.exp(jax.jit(LogisticMixture.log_prob)(mixture, levels))
    expected = np.sum(mass * np.arange(256.0)) / np.sum(mass)
    mean = jax.jit(Observed.conditional_mean)(Observed(mixture), x)
    np.testing.assert_allclose(mean[0, 0, 1], expected, rtol=1e-4)
    assert expected < 30
    sample = jax.jit(lambda keys: jax.vmap(lambda k: Observed(mixture).conditional_sample(k, x))(keys))
    drawn = np.asarray(sample(jax.random.split(key, 4000)))[:, 0, 0, 1]
    spread = np.sqrt(np.sum(mass * np.arange(256.0) ** 2) / np.sum(mass) - expected**2)
    assert abs(drawn.mean() - expected) < 4 * spread / 4000**0.5
    np.testing.assert_allclose(drawn.std(), spread, rtol=0.1)


@pytest.mark.parametrize(
    ("posterior", "expected"), [(jv.FullGaussian(), 148), (jv.FlowPosterior(flow=jv.Planar(num_layers=1)), 100)]
)
def test_surgery_saves_on_draws_where_a_flow_is_inverted_alone(posterior, expected, key):
    model, x = dataclasses.replace(MODEL, posterior=posterior), np.tile(X, (4, 1))
    surgery = evaluation.elbo_surgery(model, jax.jit(model.init)(key), key, x, preprocess=binarize)
    assert len(surgery.marginal_kl) == expected


@pytest.mark.long
def test_what_all_posteriors_share_is_there_once(key, monkeypatch):
    """The evaluator keeps the encoder's output for each example, and no copies of the flow's weights."""
    flow = jv.SplineCoupling(num_layers=1, hidden=50, context=3, bins=2)
    model, sizes = dataclasses.replace(MODEL, posterior=jv.FlowPosterior(flow=flow)), []

    kept = evaluator.Encoded
    monkeypatch.setattr(evaluator, "Encoded", lambda *a: sizes.extend(b.size for b in a[:3]) or kept(*a))
    params, x = jax.jit(model.init)(key), jnp.asarray(X)
    assert np.isfinite(jv.make_evaluator(model, preprocess=binarize)(params, key, X).log_evidence).all()
    assert max(sizes) == len(X) * model.posterior.param_size(3)
    binary = evaluation.preprocess_each(binarize, key, x, jnp.arange(len(X)))
    outputs = model.variational_parameters(params, binary)
    keys = evaluator.example_keys(jax.random.fold_in(key, 2), jnp.arange(len(X)))

    @jax.jit
    def rate(outputs, keys):
        z = jax.vmap(lambda v, k: model.posterior_of(params, v[None]).sample(k)[0])(outputs, keys)
        return model.posterior_of(params, outputs).log_prob(z) - model.prior_distribution(params).log_prob(z)

    surgery = evaluation.elbo_surgery(model, params, key, X, preprocess=binarize)
    total = surgery.mutual_information + surgery.marginal_kl
    np.testing.assert_allclose(total, rate(outputs, keys), atol=2e-3)
