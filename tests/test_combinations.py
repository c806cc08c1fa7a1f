"""Every piece with every other: a finite loss and gradient, saved, loaded and sampled; or an error that says why not.

A few combinations are compiled, each as a whole. Hundreds are run without jit: they share the same small operations,
which XLA's cache keeps.
"""

import dataclasses
import json
import random

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FULL

import jaxvae as jv
from jaxvae.numerics import global_norm

EVENT, BATCH, DIM = (4, 4, 1), 3, 3
SPLINE = jv.SplineCoupling(num_layers=2, hidden=8, context=3, bins=4)
AXES = {
    "posterior": [
        jv.DiagonalGaussian(),
        jv.FullGaussian(),
        jv.LowRankGaussian(rank=2),
        jv.FlowPosterior(flow=jv.Planar(num_layers=2)),
        jv.FlowPosterior(flow=jv.InverseAutoregressive(num_layers=2, hidden=8, context=3)),
        jv.FlowPosterior(flow=SPLINE),
        jv.FlowPosterior(base=jv.FullGaussian(), flow=jv.Planar(num_layers=2)),
        jv.FlowPosterior(base=jv.LowRankGaussian(rank=2), flow=SPLINE),
        jv.VonMisesFisher(),
        jv.Delta(),
    ],
    "prior": [
        jv.StandardNormal(),
        jv.GaussianMixture(num_components=3),
        jv.VampPrior(num_components=4),
        jv.FlowPrior(flow=SPLINE),
        jv.UniformSphere(),
    ],
    "likelihood": [
        jv.Bernoulli(),
        jv.ContinuousBernoulli(),
        jv.Beta(),
        jv.Gaussian(),
        jv.Gaussian(variance=jv.Shared()),
        jv.Laplace(squared_scale=jv.Fixed(value=0.5)),
        jv.StudentT(),
        jv.Categorical(num_classes=5),
        jv.DiscretizedLogistic(high=15),
        jv.LogisticMixture(num_components=2),
        jv.NegativeBinomial(),
        jv.ZeroInflatedNegativeBinomial(),
        jv.Incomplete(likelihood=jv.Gaussian()),
        jv.Incomplete(likelihood=jv.LogisticMixture(num_components=2)),
        jv.Standardized(likelihood=jv.StudentT()),
        jv.Incomplete(likelihood=jv.Standardized(likelihood=jv.Gaussian())),
    ],
    "objective": [
        jv.ELBO(),
        jv.ELBO(closed_form_kl=False, num_samples=2),
        jv.IWAE(num_samples=3),
        jv.MIWAE(num_samples=4, num_groups=2),
        jv.PIWAE(num_samples=4, num_groups=2),
        jv.CIWAE(num_samples=3),
        jv.Renyi(num_samples=3),
        jv.CUBO(num_samples=3),
        jv.FreeBits(),
        jv.FreeBits(free_nats=2.0, per_latent=False, closed_form_kl=False),
        jv.Capacity(closed_form_kl=False),
        jv.GECO(),
        jv.BetaTC(num_examples=9),
        jv.MMD(),
        jv.MMD(beta=0.0),
    ],
    "estimator": [jv.Pathwise(), jv.StickingTheLanding(), jv.DoublyReparameterized(), jv.ScoreFunction()],
    "networks": [
        (jv.MLP(hidden=(6,)), jv.MLP(hidden=(6,), activation="tanh")),
        (jv.ConvEncoder(channels=(2,), kernel_size=3, dense=6), jv.ConvDecoder(channels=(2,), kernel_size=3, dense=6)),
    ],
}


@pytest.fixture(scope="module", autouse=True)
def every_program_is_kept():
    """Caches every program, for the other worker and for the next combination."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)


NORMALS = (jv.DiagonalGaussian, jv.FullGaussian, jv.LowRankGaussian)


def why_not(posterior, prior, objective, estimator):
    """Why pieces do not go together, or None: by the rules of the field and not by the library's checks."""
    on_sphere = isinstance(posterior, jv.VonMisesFisher)
    if isinstance(prior, jv.VampPrior):
        if isinstance(posterior, jv.Delta):
            return "no density"
    elif on_sphere != isinstance(prior, jv.UniformSphere):
        return "another space"
    of_kl = isinstance(objective, jv.ELBO | jv.FreeBits | jv.Capacity | jv.GECO | jv.MMD)
    closed = of_kl and objective.closed_form_kl
    if isinstance(posterior, jv.Delta) and not (closed and isinstance(estimator, jv.Pathwise)):
        return "no density"
    of_mixture = isinstance(objective, jv.BetaTC)
    if not isinstance(estimator, jv.Pathwise) and (of_kl or of_mixture) and not isinstance(objective, jv.ELBO):
        return "more than three densities"
    if isinstance(estimator, jv.StickingTheLanding) and (not isinstance(objective, jv.ELBO) or closed):
        return "the score has a mean"
    two_gradients = isinstance(objective, jv.PIWAE | jv.CUBO)
    if isinstance(estimator, jv.DoublyReparameterized) and (isinstance(objective, jv.ELBO) or two_gradients):
        return "no weights, or two gradients"
    if isinstance(estimator, jv.ScoreFunction) and (two_gradients or objective.num_samples == 1):
        return "no other draws, or two gradients"
    if of_mixture and not isinstance(posterior, NORMALS):
        return "no densities of each latent"
    if isinstance(objective, jv.MMD):
        mixture = isinstance(prior, jv.VampPrior) and isinstance(posterior, jv.DiagonalGaussian)
        if not (mixture or isinstance(prior, jv.StandardNormal | jv.GaussianMixture | jv.UniformSphere)):
            return "no expected kernel"
        if objective.beta == 0.0:
            return None
    known = isinstance(posterior, jv.Delta) or (on_sphere and isinstance(prior, jv.UniformSphere))
    known = known or (isinstance(posterior, NORMALS) and isinstance(prior, jv.StandardNormal))
    if closed and not known:
        return "no closed form"
    normals = isinstance(posterior, jv.DiagonalGaussian) and isinstance(prior, jv.StandardNormal)
    if isinstance(objective, jv.FreeBits) and objective.per_latent and not normals:
        return "no KL of each latent"
    return None


def examples(likelihood, key):
    """Examples in the likelihood's support, with NaN where it allows missing entries."""
    support = likelihood.support
    uniform = jax.random.uniform(key, (BATCH, *EVENT), minval=0.01, maxval=0.99)
    low, high = max(support.low, -3.0), min(support.high, 40.0 if support.integer else 3.0)
    x = low + (high - low) * uniform
    x = jnp.round(x) if support.integer else x
    return jnp.where(uniform < 0.3, jnp.nan, x) if support.missing else x


def own_params(likelihood, key, mean=None):
    """What a model with this likelihood has in `params["likelihood"]`."""
    mean = jnp.linspace(-1.0, 2.0, 16).reshape(EVENT) if mean is None else mean
    units = {"mean": mean, "std": jnp.linspace(0.5, 3.0, 16).reshape(EVENT)}
    return likelihood.init(key) | ({"units": units} if likelihood.standardizes else {})


def make(combination):
    encoder, decoder = combination["networks"]
    choices = {k: combination[k] for k in ("posterior", "prior", "likelihood")}
    return jv.VAE(latent_dim=DIM, encoder=encoder, decoder=decoder, event_shape=EVENT, **choices)


def check(combination, key, folder):
    model, objective, estimator = make(combination), combination["objective"], combination["estimator"]
    objective = objective.at(3, objective.start())
    compiled = (lambda f: f) if FULL else jax.jit
    estimator.check(objective, model.posterior)
    x = examples(model.likelihood, key)
    params = compiled(model.init)(key, data_mean=jnp.nanmean(x, axis=0))

    def loss(params):
        bound, evidence = estimator(model, objective, params, key, x)
        return -jnp.mean(bound), (bound, evidence)

    (value, (bound, evidence)), grads = compiled(jax.value_and_grad(loss, has_aux=True))(params)
    draws = objective.num_samples
    chex.assert_shape(bound, (BATCH,))
    chex.assert_shape(evidence.z, (draws, BATCH, DIM))
    chex.assert_shape([evidence.log_likelihood, evidence.log_prior, evidence.log_posterior], (draws, BATCH))
    chex.assert_shape([evidence.rate, evidence.distortion], (BATCH,))
    assert jnp.isfinite(value)
    chex.assert_tree_all_finite(grads)
    chex.assert_trees_all_equal_shapes(grads, params)
    jv.save_model(folder, model, params)
    loaded = jv.load_model(folder)
    assert loaded.model == model
    chex.assert_trees_all_equal(loaded.params, params)

    @compiled
    def results(params):
        new = loaded.model.generate(params, key, num=2, sample=True)
        return new, loaded.model.reconstruct(params, key, x), model.embed(params, x)

    new, means, codes = results(loaded.params)
    chex.assert_shape(new, (2, *EVENT))
    support = model.likelihood.support
    assert jnp.all((new >= support.low) & (new <= support.high))
    assert not support.integer or jnp.all(new == jnp.round(new))
    assert jnp.all((means >= support.low) & (means <= support.high) & jnp.isfinite(means))
    chex.assert_shape(codes, (BATCH, DIM))


CHUNKS, IN_CHUNK = (8, 50) if FULL else (2, 4)
INSTEAD = ("closed_form_kl=", "estimator=", "objective=", "prior=", "posterior=", "ELBO", "GECO", "num_samples")
ONE_IN = 2  # most combinations are refused; one in so many is chosen to go together


FIXED = [
    {
        "posterior": jv.FlowPosterior(base=jv.LowRankGaussian(rank=2), flow=SPLINE),
        "prior": jv.VampPrior(num_components=4),
        "likelihood": jv.Incomplete(likelihood=jv.Standardized(likelihood=jv.Gaussian())),
        "objective": jv.MIWAE(num_samples=4, num_groups=2),
        "estimator": jv.DoublyReparameterized(),
        "networks": AXES["networks"][0],
    },
    {
        "posterior": jv.VonMisesFisher(),
        "prior": jv.UniformSphere(),
        "likelihood": jv.ZeroInflatedNegativeBinomial(),
        "objective": jv.GECO(),
        "estimator": jv.Pathwise(),
        "networks": AXES["networks"][1],
    },
]


@pytest.mark.parametrize("combination", FIXED, ids=["deep", "on the sphere"])
def test_combinations_far_from_the_usual(combination, key, tmp_path):
    check(combination, key, tmp_path / "model")


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_combinations(chunk, key, tmp_path):
    """8 in all, or 400 with `JAXVAE_FAULTS=full`, of which at least 200 go together."""
    rng, fits, refused = random.Random(chunk), 0, 0
    for i in range(IN_CHUNK):
        combination = {axis: rng.choice(choices) for axis, choices in AXES.items()}
        if i % ONE_IN == 0:
            while why_not(*(combination[k] for k in ("posterior", "prior", "objective", "estimator"))):
                combination = {axis: rng.choice(choices) for axis, choices in AXES.items()}
        reason = why_not(*(combination[k] for k in ("posterior", "prior", "objective", "estimator")))
        if reason is None:
            check(combination, key, tmp_path / str(i))
            fits += 1
            continue
        with pytest.raises(ValueError, match=rf"write ({'|'.join(INSTEAD)})"):
            check(combination, key, tmp_path / str(i))
        refused += 1
    print(json.dumps({"combinations": IN_CHUNK, "go together": fits, "refused": refused}))


@pytest.mark.parametrize("likelihood", [c for c in AXES["likelihood"] if not isinstance(c, jv.Incomplete)])
def test_what_is_not_observed_changes_nothing(likelihood, key):
    """With everything observed it equals the likelihood itself, and the value under a mask does not matter."""
    x, outputs_key = examples(likelihood, key), jax.random.key(9)
    outputs = jax.random.normal(outputs_key, (BATCH, 4, 4, likelihood.param_size(1)))
    incomplete, params = jv.Incomplete(likelihood=likelihood), own_params(likelihood, key)
    both = jax.jit(lambda outputs: [c.distribution(params, outputs, 3).log_prob(x) for c in (incomplete, likelihood)])
    np.testing.assert_allclose(*both(outputs), rtol=1e-5)
    observed = jax.random.uniform(key, x.shape) < 0.5

    def log_prob(outputs, unobserved):
        masked = jv.mask(jnp.where(observed, x, unobserved), observed)
        return jnp.sum(incomplete.distribution(params, outputs, 3).log_prob(masked))

    check = jax.jit(jax.value_and_grad(log_prob))
    results = [check(outputs, other) for other in (0.0, 7.5, -1e30, jnp.nan, jnp.inf)]
    for value, grads in results[1:]:
        assert value == results[0][0]
        np.testing.assert_array_equal(grads, results[0][1])
    chex.assert_tree_all_finite(results[0])
    whole = likelihood.distribution(params, outputs, 3)
    if hasattr(whole, "log_prob_by_entry"):
        by_entry = jax.jit(lambda outputs: likelihood.distribution(params, outputs, 3).log_prob_by_entry(x))(outputs)
        np.testing.assert_allclose(results[0][0], np.where(observed, by_entry, 0.0).sum(), rtol=1e-5)


EXTREMES = jnp.array([-1e8, -50.0, 0.0, 30.0, 1e8])


@pytest.mark.parametrize("likelihood", AXES["likelihood"])
def test_extreme_outputs_of_the_decoder(likelihood, key):
    x = examples(likelihood, key)
    shape = (BATCH, 4, 4, likelihood.param_size(1))

    def loss(outputs):
        return jnp.sum(likelihood.distribution(own_params(likelihood, key), outputs, 3).log_prob(x))

    check = jax.jit(jax.value_and_grad(loss))
    for size in EXTREMES:
        chex.assert_tree_all_finite(check(jnp.full(shape, size)))


@pytest.mark.parametrize("posterior", AXES["posterior"])
def test_extreme_outputs_of_the_encoder(posterior, key):
    """In 32 bits, and in 16, which reach as far: densities cast them, and compute with their values."""
    params = posterior.init(key, DIM)

    def of(outputs):
        q = posterior.distribution(params, outputs, DIM)
        z, log_q = jv.distributions.sample_and_log_prob(q, key, (2,))
        chex.assert_shape(z, (2, BATCH, DIM))
        chex.assert_shape(log_q, (2, BATCH))
        assert z.dtype == log_q.dtype == jnp.float32
        return jnp.sum(log_q) + jnp.sum(jnp.tanh(z))

    check = jax.jit(jax.value_and_grad(lambda outputs: of(outputs) + of(outputs.astype(jnp.bfloat16))))
    for size in EXTREMES:
        chex.assert_tree_all_finite(check(jnp.full((BATCH, posterior.param_size(DIM)), size)))


@pytest.mark.parametrize("likelihood", AXES["likelihood"])
def test_bfloat16(likelihood, key):
    """Inputs may have 16 bits; sums have 32."""
    x = examples(likelihood, key)
    outputs = jax.random.normal(key, (BATCH, 4, 4, likelihood.param_size(1))).astype(jnp.bfloat16)
    params, x = own_params(likelihood, key), x.astype(jnp.bfloat16)

    @jax.jit
    def of(outputs, x):
        p = likelihood.distribution(params, outputs, 3)
        return p.log_prob(x), p.mean

    of_16_bits, of_32_bits = of(outputs, x), of(outputs.astype(jnp.float32), x.astype(jnp.float32))
    assert of_16_bits[0].dtype == jnp.float32
    chex.assert_trees_all_close(of_16_bits, of_32_bits, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("likelihood", AXES["likelihood"])
def test_no_examples(likelihood, key):
    outputs, params = jnp.zeros((0, 4, 4, likelihood.param_size(1))), own_params(likelihood, key)
    p = jax.eval_shape(lambda: likelihood.distribution(params, outputs, 3).log_prob(jnp.zeros((0, 4, 4, 1))))
    assert p.shape == (0,)


@pytest.mark.parametrize("likelihood", AXES["likelihood"])
def test_the_output_bias_starts_at_the_mean(likelihood, key):
    support = likelihood.support
    low, high = max(support.low, -2.0), min(support.high, 255.0)
    mean = low + (high - low) * jnp.linspace(0.1, 0.9, 16).reshape(EVENT)
    outputs = jax.jit(likelihood.initial_outputs)(mean)
    chex.assert_shape(outputs, (4, 4, likelihood.param_size(1)))
    params = own_params(likelihood, key, mean)
    started = jax.jit(lambda outputs: likelihood.distribution(params, outputs, 3).mean)(outputs)
    np.testing.assert_allclose(started, mean, rtol=1e-3, atol=0.01 * (high - low))


def test_a_blank_example_has_a_direction(key):
    """Its gradient is not much larger than that of others. The sphere needs two dimensions or more."""
    sphere = {"posterior": jv.VonMisesFisher(), "prior": jv.UniformSphere(), "likelihood": jv.Bernoulli()}
    model = make({"networks": AXES["networks"][0]} | sphere)
    x = jax.random.bernoulli(key, 0.5, (32, *EVENT)).astype(jnp.float32)

    @jax.jit
    def size(x):
        return global_norm(jax.grad(lambda p: -model.evidence(p, key, x).log_weights.mean())(model.init(key)))

    assert size(x.at[0].set(0.0)) < 3 * size(x)
    with pytest.raises(ValueError, match="latent_dim is 1; write a whole number of at least 2 and at most 256"):
        dataclasses.replace(model, latent_dim=1)


@pytest.mark.parametrize(
    "posterior",
    [
        jv.FullGaussian(),
        jv.LowRankGaussian(rank=1),
        pytest.param(jv.FlowPosterior(flow=SPLINE), marks=pytest.mark.long),
    ],
)
def test_a_learned_prior_is_drawn_from_as_its_density_says(posterior, key):
    """The means of three functions, over draws and over a grid of the plane."""
    prior = jv.VampPrior(num_components=3, noise=1.0)
    choices = {"networks": AXES["networks"][0], "posterior": posterior, "prior": prior, "likelihood": jv.Bernoulli()}
    model = dataclasses.replace(make(choices), latent_dim=2)
    params = jax.jit(model.init)(key)
    axis = jnp.linspace(-10.0, 10.0, 801)
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1)
    density = jax.jit(lambda params: jnp.exp(jax.lax.map(model.prior_distribution(params).log_prob, grid)))(params)
    cell = float(axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(density.sum() * cell, 1.0, atol=5e-3)
    z = jax.jit(lambda params: model.prior_distribution(params).sample(key, (10_000,)))(params)
    of_both = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    drawn, exact = jnp.sin(z @ of_both.T), jnp.einsum("ij,ijk->k", density * cell, jnp.sin(grid @ of_both.T))
    np.testing.assert_allclose(drawn.mean(axis=0), exact, atol=4 * float(drawn.std(axis=0).max()) / 100 + 5e-3)


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_every_covariance_is_a_full_gaussians(dim):
    """Each of the encoder's numbers is one entry of the triangle, and a flow near the identity keeps the draws."""
    size = jv.FullGaussian().param_size(dim)
    outputs = jnp.concatenate([jnp.zeros(2 * dim), 1.0 + jnp.arange(size - 2 * dim)])[None]
    q = jv.FullGaussian().distribution({}, outputs, dim)
    below = q.scale_tril[0][np.tril_indices(dim, -1)]
    np.testing.assert_array_equal(jnp.sort(below), 1.0 + jnp.arange(len(below)))
    np.testing.assert_array_equal(q.scale_tril[0] - jnp.tril(q.scale_tril[0], -1), jnp.eye(dim))
    posterior = jv.FlowPosterior(base=jv.FullGaussian(), flow=jv.Planar(num_layers=1))
    outputs = jnp.pad(outputs, [(0, 0), (0, posterior.param_size(dim) - size)])
    flow = posterior.init(jax.random.key(0), dim)

    @jax.jit
    def draws(outputs):
        return [d.sample(jax.random.key(1)) for d in (posterior.distribution(flow, outputs, dim), q)]

    np.testing.assert_allclose(*draws(outputs), rtol=1e-5)
    with pytest.raises(ValueError, match=r"base is Delta\(\); write DiagonalGaussian\(\), FullGaussian\(\) or"):
        jv.FlowPosterior(base=jv.Delta())


def test_what_the_encoder_sees():
    x = jnp.array([[0.0, 3.0, jnp.nan]])
    np.testing.assert_allclose(jv.Categorical(num_classes=5).seen({}, x)[0, :2], [0.0, 0.75])
    np.testing.assert_allclose(jv.NegativeBinomial().seen({}, x)[0, :2], [0.0, np.log(4.0)])
    np.testing.assert_array_equal(jv.Gaussian().seen({}, x), x)
    units = {"units": {"mean": jnp.array([5.0, 1.0, 7.0]), "std": jnp.array([0.5, 2.0, 3.0])}}
    np.testing.assert_allclose(jv.Standardized().seen(units, x)[0, :2], [-10.0, 1.0])


@pytest.mark.parametrize(
    "likelihood", [jv.Gaussian(), jv.NegativeBinomial(), jv.Standardized(likelihood=jv.Gaussian())]
)
def test_what_was_not_observed_is_zero_to_the_encoder(likelihood, key):
    """For standardized entries, zero is their mean."""
    networks = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}
    model = jv.VAE(latent_dim=2, event_shape=(3,), likelihood=jv.Incomplete(likelihood=likelihood), **networks)
    mean = jnp.array([1.0, 2.0, 3.0])
    params = jax.jit(model.init)(key, data_mean=mean, data_std=2.0 * mean)
    zero = mean if isinstance(likelihood, jv.Standardized) else jnp.zeros(3)
    x = jnp.array([[4.0, jnp.nan, 1.0], [4.0, zero[1], 1.0]])
    with_a_hole, with_zero = jax.jit(model.embed)(params, x)
    np.testing.assert_array_equal(with_a_hole, with_zero)


def test_the_vamp_prior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs(key):
    networks, posterior = AXES["networks"][0], jv.DiagonalGaussian()
    prior, likelihood = jv.VampPrior(num_components=4), jv.Bernoulli()
    model = make({"networks": networks, "posterior": posterior, "prior": prior, "likelihood": likelihood})
    params, z = jax.jit(model.init)(key), jax.random.normal(key, (5, DIM))

    @jax.jit
    def expected(params):
        q = model.encode(params, params["prior"]["pseudo_inputs"])
        return jnp.log(jnp.mean(jnp.exp(q.log_prob(z[:, None])), axis=1))

    @jax.jit
    def log_prob(params):
        return model.prior_distribution(params).log_prob(z)

    np.testing.assert_allclose(log_prob(params), expected(params), rtol=1e-5)
    grads = jax.jit(jax.grad(lambda params: log_prob(params).sum()))(params)
    assert jnp.any(grads["prior"]["pseudo_inputs"] != 0)
    assert dataclasses.replace(model, prior=jv.StandardNormal()).init(key)["prior"] == {}
