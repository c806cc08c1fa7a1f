"""The model and its axes: shapes, the names of the contract, and what each choice means."""

import dataclasses
import types
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from absl.testing import parameterized
from flax import nnx

import jaxvae as jv
from jaxvae.likelihoods import Shared

EVENT, B, D = (6, 5, 2), 4, 3
X = (jax.random.uniform(jax.random.key(3), (B, *EVENT)) < 0.4).astype(jnp.float32)
LIKELIHOODS = [
    jv.Bernoulli(),
    jv.Gaussian(),
    jv.Gaussian(variance=jv.Shared()),
    jv.Gaussian(variance=jv.Fixed(value=0.2)),
]


def make(**choices):
    defaults = {"latent_dim": D, "encoder": jv.MLP(hidden=(8,)), "decoder": jv.MLP(hidden=(8,)), "event_shape": EVENT}
    return jv.VAE(**defaults | choices)


class ModelTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*LIKELIHOODS)
    def test_shapes_of_the_contract(self, likelihood):
        for posterior in (jv.DiagonalGaussian(), jv.Delta()):
            model, key = make(likelihood=likelihood, posterior=posterior), jax.random.key(0)
            params = self.variant(model.init)(key)
            q = self.variant(model.encode)(params, X)
            chex.assert_shape([q.mean, q.std], (B, D))
            p = self.variant(model.decode)(params, q.mean)
            chex.assert_shape(p.mean, (B, *EVENT))
            chex.assert_shape(p.log_prob(X), (B,))
            e = self.variant(lambda p, k, x, model=model: model.evidence(p, k, x, num_samples=5))(params, key, X)
            chex.assert_shape([e.log_likelihood, e.log_prior, e.log_posterior], (5, B))
            chex.assert_shape([e.kl, e.rate, e.distortion, jv.ELBO()(e)], (B,))
            chex.assert_shape(e.z, (5, B, D))
            chex.assert_shape(
                self.variant(lambda p, k, m=model: m.generate(p, k, num=7, sample=True))(params, key), (7, *EVENT)
            )
            chex.assert_shape(self.variant(model.reconstruct)(params, key, X), (B, *EVENT))

    def test_convolutional_networks_fit_in(self):
        encoder, decoder = jv.ConvEncoder(channels=(4,), dense=8), jv.ConvDecoder(channels=(4,), dense=8)
        model = make(encoder=encoder, decoder=decoder, likelihood=jv.Gaussian())
        params = jax.jit(model.init)(jax.random.key(0))
        e = jax.jit(model.evidence)(params, jax.random.key(1), X)
        chex.assert_tree_all_finite(e)


def test_evidence_is_made_of_its_parts(key):
    model = make()
    params = model.init(key)
    e = model.evidence(params, key, X, num_samples=3)
    q = e.posterior
    np.testing.assert_array_equal(e.z, q.sample(key, (3,)))
    norm = scipy.stats.norm
    np.testing.assert_allclose(e.log_posterior, norm.logpdf(e.z, q.mean, q.std).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(e.log_prior, norm.logpdf(e.z).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(e.log_likelihood[1], model.decode(params, e.z[1]).log_prob(X), rtol=1e-5)
    np.testing.assert_allclose(e.kl, jv.losses.gaussian_kl(q.mean, q.log_var), rtol=1e-5)
    np.testing.assert_allclose(e.log_weights, e.log_likelihood + e.log_prior - e.log_posterior)


@pytest.mark.parametrize("spread", [jv.PerPixel(), jv.Shared(initial=0.3), jv.Fixed(value=0.3)], ids=lambda s: s)
def test_what_is_said_of_the_spread_is_what_it_is(spread, key):
    """A variance or squared scale: each likelihood's density is scipy's with the square root of it as scale."""
    mean = jax.random.normal(key, (B, 5))
    per_pixel = isinstance(spread, jv.PerPixel)
    log_square = jnp.linspace(-2.0, 1.0, 5) if per_pixel else jnp.full(5, np.log(0.3))
    outputs = jnp.concatenate([mean, jnp.tile(log_square, (B, 1))], axis=-1) if per_pixel else mean
    x, scale = np.asarray(mean) + np.linspace(-3.0, 4.0, 5), np.exp(0.5 * np.asarray(log_square, float))
    for likelihood, reference in (
        (jv.Gaussian(variance=spread), scipy.stats.norm(mean, scale)),
        (jv.Laplace(squared_scale=spread), scipy.stats.laplace(mean, scale)),
        (jv.StudentT(degrees_of_freedom=3.0, squared_scale=spread), scipy.stats.t(3.0, mean, scale)),
    ):
        p = likelihood.distribution(likelihood.init(key), outputs, 1)
        np.testing.assert_allclose(p.log_prob(jnp.asarray(x, jnp.float32)), reference.logpdf(x).sum(-1), rtol=1e-5)


def test_a_concentration_that_fell_is_pulled_up_again():
    """The softplus of -100 has no gradient left."""

    def concentration(output):
        outputs = jnp.array([1.0, 0.0, 0.0, 1.0]).at[-1].set(output)[None]
        return jv.VonMisesFisher().distribution({}, outputs, 3).concentration[0]

    slopes = [float(jax.grad(concentration)(at)) for at in (-500.0, -10.0, 3.0)]
    np.testing.assert_allclose(slopes, 1 / (1 + np.exp([10.0, 10.0, -3.0])), rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e25])
def test_directions_are_on_the_unit_sphere(size):
    """Also of outputs of 0, and of outputs whose squares overflow."""
    outputs = size * np.random.default_rng(0).normal(size=(7, 5))
    direction = jv.VonMisesFisher().distribution({}, jnp.asarray(outputs, jnp.float32), 4).direction
    expected = outputs[:, :4] + 0.1 * np.eye(4)[0]
    np.testing.assert_allclose(direction, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-7)


def test_a_mean_of_float32_may_be_a_little_beyond_its_values(key):
    """NumPy adds along the first axis one by one, so that the mean of 100,000 white pixels is 255.34."""
    white = np.full((100_000, 4), 255, np.float32).mean(0)
    assert (white > 255.3).all()
    model = make(event_shape=(4,), likelihood=jv.DiscretizedLogistic())
    chex.assert_tree_all_finite(model.init(key, data_mean=white))


def test_the_autoencoders_loss_is_the_squared_distance(key):
    """Delta and a Gaussian of variance ½: -ELBO = ‖x - x̂‖² + D/2 log π."""
    model = make(posterior=jv.Delta(), likelihood=jv.Gaussian(variance=jv.Fixed(value=0.5)))
    params = model.init(key)
    loss = -jv.ELBO()(model.evidence(params, key, X))
    x_hat = model.decode(params, model.encode(params, X).mean).mean
    expected = jnp.square(X - x_hat).sum((1, 2, 3)) + 0.5 * np.prod(EVENT) * np.log(np.pi)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert not model.posterior.has_density


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_output_bias_starts_at_the_mean_of_the_data(likelihood, key):
    model = make(likelihood=likelihood)
    mean = jnp.linspace(0.1, 0.9, int(np.prod(EVENT))).reshape(EVENT)
    params = model.init(key, data_mean=mean)
    centre = model.decode(params, jnp.zeros((1, D)))
    np.testing.assert_allclose(centre.mean[0], mean, rtol=1e-5)


def test_gaussian_variances(key):
    z = jax.random.normal(key, (B, D))

    def variance(choice):
        model = make(likelihood=jv.Gaussian(variance=choice))
        params = model.init(key)
        return params, np.broadcast_to(model.decode(params, z).variance, (B, *EVENT))

    _, per_pixel = variance(jv.PerPixel())
    assert len(np.unique(per_pixel)) == per_pixel.size
    params, shared = variance(jv.Shared(initial=0.7))
    np.testing.assert_allclose(shared, 0.7, rtol=1e-6)
    chex.assert_shape(params["likelihood"]["log_var"], ())
    params, fixed = variance(jv.Fixed(value=0.2))
    np.testing.assert_allclose(fixed, 0.2, rtol=1e-6)
    assert params["likelihood"] == {}


def test_the_shared_variance_is_learned(key):
    """Its best value for a constant mean is the variance of the data."""
    model = make(likelihood=jv.Gaussian(variance=Shared()))
    params = model.init(key)
    grad = jax.grad(lambda p: model.evidence(p, key, X).log_likelihood.mean())(params)["likelihood"]["log_var"]
    residual = X - model.decode(params, model.encode(params, X).sample(key, (1,))[0]).mean
    np.testing.assert_allclose(grad, 0.5 * (jnp.square(residual).sum((1, 2, 3)).mean() - np.prod(EVENT)), rtol=1e-4)


FAR_APART = ((-2, 3), (3, -1))  # powers of ten, first to last entry: of the means, of the standard deviations


def test_a_model_in_the_units_of_the_data(key):
    """Equals a model of standardized data after a change of variables."""
    mean, std = (np.logspace(*ends, int(np.prod(EVENT)), dtype=np.float32).reshape(EVENT) for ends in FAR_APART)
    plain = make(likelihood=jv.Gaussian())
    model = make(likelihood=jv.Standardized(likelihood=jv.Gaussian()))
    inner = plain.init(key, data_mean=jnp.zeros(EVENT))
    params = model.init(key, data_mean=mean, data_std=std)
    np.testing.assert_array_equal(params["likelihood"]["units"]["std"], std)
    z = jax.random.normal(key, (B, D))
    p, q = model.decode(params, z), plain.decode(inner, z)
    means, stds, x = np.array(q.mean), np.sqrt(q.variance), mean + std * np.array(X)
    expected = scipy.stats.norm.logpdf(x, mean + std * means, std * stds).sum((1, 2, 3))
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-4)
    np.testing.assert_allclose(p.mean, mean + std * means, rtol=1e-5)
    np.testing.assert_allclose(p.sample(key, (3,)), mean + std * np.array(q.sample(key, (3,))), rtol=1e-5)
    codes = [m.embed(of, its) for m, of, its in ((model, params, x), (plain, inner, (x - mean) / std))]
    np.testing.assert_allclose(*codes, rtol=1e-5)


def test_what_a_vmap_returns_is_that_distribution(key):
    """With `vmap` over codes, and over the parameters of several models."""
    model = make(likelihood=jv.Standardized())
    keys = jax.random.split(key, 2)
    mean = jnp.linspace(-3.0, 40.0, int(np.prod(EVENT))).reshape(EVENT)
    several = jax.vmap(lambda k: model.init(k, data_mean=mean, data_std=jnp.abs(mean)))(keys)
    params = jax.tree.map(lambda leaf: leaf[1], several)
    z, x = jax.random.normal(key, (B, D)), mean[None] + X
    expected = model.decode(params, z).log_prob(x)
    np.testing.assert_allclose(jax.vmap(lambda z: model.decode(params, z))(z).log_prob(x), expected, rtol=1e-5)
    by_model = jax.vmap(lambda p: model.decode(p, z))(several)
    np.testing.assert_allclose(by_model.log_prob(x)[1], expected, rtol=1e-5)


def test_an_entry_that_does_not_vary_keeps_its_unit(key):
    model = make(likelihood=jv.Standardized())
    params = model.init(key, data_mean=jnp.zeros(EVENT), data_std=jnp.zeros(EVENT).at[0].set(3.0))
    std = params["likelihood"]["units"]["std"]
    np.testing.assert_array_equal(std, jnp.ones(EVENT).at[0].set(3.0))
    # without moments it equals the likelihood within
    p, q = (make(likelihood=c) for c in (jv.Standardized(), jv.Gaussian()))
    z = jnp.ones((1, D))
    of_both = [m.decode(m.init(key), z).log_prob(X[:1]) for m in (p, q)]
    np.testing.assert_allclose(*of_both, rtol=1e-6)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_encoder_outputs_stay_finite(size, key):
    model = make()
    params = model.init(key)
    params["encoder"]["output"]["bias"] = jnp.full(2 * D, size)
    loss = lambda p: -jv.ELBO()(model.evidence(p, key, X)).mean()  # noqa: E731
    value, grads = jax.value_and_grad(loss)(params)
    assert jnp.isfinite(value)
    chex.assert_tree_all_finite(grads)
    # the gradient that pulls the variance back is not lost
    assert jnp.all(jnp.sign(grads["encoder"]["output"]["bias"][D:]) == jnp.sign(size))


def test_no_examples_have_no_codes(key):
    params = make().init(key)
    assert make().encode(params, X[:0]).mean.shape == (0, 3)
    assert make().decode(params, jnp.zeros((4, 0, 3))).mean.shape == (4, 0, *EVENT)


def test_elbo_variants(key):
    e = make().evidence(make().init(key), key, X, num_samples=4)
    np.testing.assert_allclose(jv.ELBO(beta=0.0)(e), -e.distortion)
    np.testing.assert_allclose(jv.ELBO(beta=3.0)(e), -e.distortion - 3 * e.kl, rtol=1e-6)
    np.testing.assert_allclose(jv.ELBO(closed_form_kl=False)(e), e.log_weights.mean(0), rtol=1e-4)
    schedule = jv.ELBO(beta=4.0, beta_schedule=lambda step: step / 8)
    np.testing.assert_allclose(schedule.at(4)(e), jv.ELBO(beta=2.0)(e))
    with pytest.raises(ValueError, match=r"objective\.at\(step\)"):
        schedule(e)
    with pytest.raises(ValueError, match="closed_form_kl=False"):
        jv.ELBO()(e._replace(kl=None))
    np.testing.assert_allclose(e._replace(kl=None).rate, e.monte_carlo_kl)


@pytest.mark.parametrize("flow", [jv.Planar(), jv.InverseAutoregressive(), jv.SplineCoupling()])
@pytest.mark.parametrize("prior", [jv.GaussianMixture(), jv.VampPrior(), jv.FlowPrior])
def test_with_double_precision_at_hand_parameters_are_float32(flow, prior):
    prior = prior(flow=flow) if prior is jv.FlowPrior else prior
    model = make(posterior=jv.FlowPosterior(flow=flow), prior=prior)
    with jax.enable_x64(True):
        params = jax.eval_shape(model.init, jax.random.key(0))
        model, moment = make(likelihood=jv.Standardized()), np.ones(EVENT)
        started = jax.eval_shape(lambda: model.init(jax.random.key(0), data_mean=moment, data_std=moment))
    for tree in (params, started):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}


def test_a_space_that_is_not_one_is_named():
    class Flat(jv.DiagonalGaussian):
        space = "vectors"

    with pytest.raises(ValueError, match=r"Flat\.space is 'vectors'; write 'all vectors' or 'the unit sphere'"):
        make(posterior=Flat())


def test_generate_and_reconstruct_are_means_unless_asked(key):
    model = make()
    params = model.init(key)
    means, draws = model.generate(params, key, num=5), model.generate(params, key, num=5, sample=True)
    assert jnp.all((means > 0) & (means < 1))
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert set(np.unique(model.reconstruct(params, key, X, sample=True))) == {0.0, 1.0}
    chex.assert_trees_all_close(means, model.generate(params, key, num=5))


def test_a_model_is_a_value():
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make(latent_dim=4) != make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().latent_dim = 5


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(x.reshape(len(x), -1))


class Returning(nn.Module):
    what: Any

    @nn.compact
    def __call__(self, x):
        return self.what(x)


class Fixed(nn.Module):
    """Does not return the shape that it is asked for."""

    @nn.compact
    def __call__(self, z, output_shape):
        return nn.Dense(1)(z)


class Unsummed(jv.priors.OverVectors):
    """Its log_prob is by entry, like NumPyro's distributions before `.to_event`."""

    def init(self, key, latent_dim, seen):
        return {}

    def distribution(self, params, latent_dim, encode):
        normal = jv.distributions.Normal(jnp.zeros(latent_dim), jnp.zeros(latent_dim))
        return types.SimpleNamespace(log_prob=normal.log_prob_by_entry)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x.reshape(len(x), -1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(latent_dim=0), "VAE.latent_dim is 0; write a whole number of at least 1"),
        (lambda: make(latent_dim=float("nan")), "VAE.latent_dim is nan"),
        (lambda: make(event_shape=()), r"VAE.event_shape is \(\); write the sizes of an example's axes, such as"),
        (lambda: make(event_shape=(5, 0)), r"VAE.event_shape is \(5, 0\)"),
        (lambda: make(event_shape=12), r"VAE.event_shape is 12; write the sizes"),
        (lambda: make().init(jax.random.key(0), data_mean=jnp.zeros(3)), r"data_mean has the shape \(3,\); write \("),
        (
            lambda: make().init(jax.random.key(0), data_mean=jnp.full(make().event_shape, jnp.nan)),
            "data_mean is not a mean that float32 can hold; write that of the observed values",
        ),
        *(
            (
                lambda bad=bad: make().init(jax.random.key(0), data_mean=np.zeros(EVENT), data_std=np.full(EVENT, bad)),
                "data_std is not a std that float32 can hold; write that of the observed values, as given by jaxvae",
            )
            for bad in (np.inf, 1e300, -1.0)
        ),
        (
            lambda: make().init(jax.random.key(0), data_std=jnp.ones(EVENT)),
            "data_std is given without data_mean; write both",
        ),
        (
            lambda: jv.Standardized(likelihood=jv.Bernoulli()),
            r"for likelihoods of real numbers, but Bernoulli takes values in {0, 1}; write Standardized\(",
        ),
        (lambda: jv.Standardized(likelihood=jv.Standardized()), "for likelihoods of real numbers, but Standardized"),
        (
            lambda: jv.Standardized(likelihood=jv.Incomplete(likelihood=jv.Gaussian())),
            r"Standardized needs whole examples; write Incomplete\(likelihood=Standardized\(",
        ),
        (lambda: make(event_shape=None).init(jax.random.key(0)), "event_shape is not set"),
        (
            lambda: make(encoder=lambda x: x),
            "encoder is of the type builtins.function; write a flax.linen.Module",
        ),
        (
            lambda: make(decoder=nnx.Linear(3, 8, rngs=nnx.Rngs(0))),
            r"decoder is of the type flax\.nnx\.\S+; write a flax",
        ),
        (
            lambda: make(likelihood=jv.Gaussian),
            r"likelihood is the class Gaussian; write an object, such as Gaussian\(\)",
        ),
        (lambda: jv.Gaussian(variance=0.1), r"Gaussian\.variance is 0\.1; write PerPixel\(\), Shared\(\) or Fixed"),
        (lambda: jv.StudentT(squared_scale=jv.Shared), r"StudentT\.squared_scale is the class Shared; write an object"),
        (lambda: jv.Incomplete(likelihood=jv.Beta), r"Incomplete\.likelihood is the class Beta; write an object"),
        (lambda: jv.Standardized(likelihood=None), r"Standardized\.likelihood is None; write a Likelihood"),
        (lambda: jv.FlowPosterior(base=jv.Delta()), r"FlowPosterior\.base is Delta\(\); write DiagonalGaussian\(\)"),
        (lambda: jv.FlowPrior(flow=jv.Gaussian), "is the class Gaussian; write a flow, such as SplineCoupling"),
        (lambda: jv.FlowPrior(flow=jv.Flow), "is the class Flow; write a flow, such as SplineCoupling"),
        (lambda: jv.FlowPrior(flow=[0.5] * 100), r"FlowPrior\.flow is of the type builtins\.list; write a flow"),
        (lambda: jv.FlowPosterior(flow=None), r"FlowPosterior\.flow is None; write a flow, such as SplineCoupling"),
        (lambda: jv.FlowPrior(flow=jv.Planar), r"FlowPrior\.flow is the class Planar; write an object, such as Planar"),
        (
            lambda: make().init(jax.random.key(0), data_mean=np.full(EVENT, 255.0)),
            r"data_mean has values from 255 to 255, but Bernoulli takes values in \{0, 1\}; write the mean of",
        ),
        (lambda: make(encoder=Normalized()).init(jax.random.key(0)), "keeps state in .*LayerNorm"),
        (lambda: make(encoder=Dropping()).init(jax.random.key(0)), "the encoder draws random numbers; .* leave out"),
        (
            lambda: make(encoder=Returning(what=lambda x: (x, x))).init(jax.random.key(0)),
            r"Returning returns tuple for 1 examples; write an array of features, \(1, \.\.\.\)",
        ),
        (
            lambda: make(decoder=Returning(what=jnp.sum)).init(jax.random.key(0)),
            r"Returning returns the shape \(\) for 1 examples",
        ),
        (
            lambda: make(decoder=Fixed()).init(jax.random.key(0)),
            r"Fixed returns the shape \(1, 1\) for 1 examples; write an array of the shape \(1, 6, 5, 2\)",
        ),
        (
            lambda: make(encoder=Returning(what=lambda x: x.reshape(7, 7))).init(jax.random.key(0)),
            r"the encoder does not fit an example of shape \(6, 5, 2\) \(TypeError.* in test_model.py, line \d+",
        ),
        (
            lambda: make(prior=Unsummed()).evidence(make().init(jax.random.key(0)), jax.random.key(0), X),
            r"of Unsummed gives a log_prob of shape \(4, 1, 3\), not \(4, 1\), .* sum it over the event",
        ),
        (lambda: make().encode(make().init(jax.random.key(0)), X[0]), "a batch of these events has"),
        (
            lambda: make().evidence(make().init(jax.random.key(0)), jax.random.key(0), X, num_samples=0),
            "num_samples is 0; write 1 or more",
        ),
        (
            lambda: make().generate(make().init(jax.random.key(0)), jax.random.key(0), num=-1),
            "num is -1; write 1 or more",
        ),
        (lambda: jv.MLP(hidden=200), r"MLP\.hidden is 200; write whole numbers of at least 1, such as \(200,\)"),
        (lambda: jv.MLP(hidden=(True,)), r"MLP\.hidden is \(True,\); write whole numbers"),
        (lambda: jv.MLP(hidden=(8, 0)), r"MLP\.hidden is \(8, 0\); write whole numbers"),
        (lambda: jv.ConvEncoder(dense=0), "ConvEncoder.dense is 0; write a whole number of at least 1"),
        (lambda: jv.ConvDecoder(kernel_size=1), "ConvDecoder.kernel_size is 1; write a whole number of at least 2"),
        (lambda: jv.MLP(activation="relux"), "MLP.activation is 'relux'; write one of elu, gelu"),
        (lambda: jv.MLP(compute="float16"), "MLP.compute is 'float16'; write one of float32, bfloat16"),
        (lambda: jv.SGD(momentum=None), "SGD.momentum is None; write a number of at least 0 and less than 1"),
        (lambda: jv.Adam(clip_norm=0.0), "Adam.clip_norm is 0.0; write a number greater than 0, or None"),
        (lambda: make().decode(make().init(jax.random.key(0)), jnp.zeros((2, 7))), r"write z \[\.\.\., 3\]"),
        (lambda: jv.ELBO(beta=-1.0), "ELBO.beta is -1.0; write a number of at least 0"),
        (lambda: jv.ELBO(beta=jnp.float32(-1.0)), "ELBO.beta is -1.0; write a number of at least 0"),
        (lambda: jv.ELBO(num_samples=0), "ELBO.num_samples is 0"),
        (lambda: jv.Fixed(value=0.0), "Fixed.value is 0.0; write a number of at least 1e-30 and"),
        (lambda: jv.Shared(initial=-1.0), "Shared.initial"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
