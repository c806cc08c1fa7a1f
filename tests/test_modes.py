"""The pure functions in other people's code: JAX's modes and transformations, other types, other containers."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax import export

import jaxvae as jv
from jaxvae import latents, organization
from jaxvae.distributions import Beta, NegativeBinomial, UniformOnSphere, VonMisesFisher, kl_divergence
from jaxvae.numerics import global_norm

MLP = jv.MLP(hidden=(8,))
HALF = jnp.bfloat16, jnp.float16


def model(event_shape=(4,), **choices):
    return jv.VAE(event_shape=event_shape, latent_dim=3, **{"encoder": MLP, "decoder": MLP} | choices)


def test_a_frozen_dict_keeps_its_units_too(key):
    likelihood = jv.Standardized(likelihood=jv.Gaussian(variance=jv.Fixed(value=1.0)))
    vae, optimizer = model(likelihood=likelihood), optax.adamw(0.1, weight_decay=1.0)
    params = vae.init(key, data_mean=np.full(4, 5.0), data_std=np.full(4, 2.0))
    step = jv.make_train_step(vae, jv.ELBO(), optimizer)
    state, _ = step(jv.TrainState.create(flax.core.freeze(params), optimizer), jnp.full((6, 4), 5.0), key)
    before, after = (p["likelihood"]["units"] for p in (params, state.params))
    np.testing.assert_array_equal(after["std"], before["std"])
    np.testing.assert_array_equal(after["mean"], before["mean"])
    assert np.all(np.asarray(state.params["encoder"]["output"]["kernel"]) != params["encoder"]["output"]["kernel"])


@pytest.mark.parametrize("dtype", HALF)
def test_sums_of_16_bits_are_in_float32(dtype):
    """Those of float16 overflow or vanish; those of bfloat16 keep three digits."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(500.0, 1000.0, (300, 2)), dtype)
    has = rng.random(300) < 0.3
    exact = np.asarray(z, float)[has].mean(axis=0) - np.asarray(z, float)[~has].mean(axis=0)
    np.testing.assert_allclose(latents.attribute_vector(z, jnp.asarray(has)), exact, rtol=1e-5)
    for value in (1e-4, 300.0):
        tree = {"a": jnp.full((10, 100), value, dtype), "b": jnp.full(7, value, dtype)}
        rounded = float(jnp.asarray(value, dtype))
        np.testing.assert_allclose(global_norm(tree), rounded * np.sqrt(1007), rtol=1e-5)


@pytest.mark.parametrize("dtype", HALF)
def test_densities_of_16_bit_outputs_are_those_of_their_values(dtype, key):
    z, kappa = jnp.eye(1, 128), jnp.array([1000.0], dtype)
    both = jax.jit(lambda q: (q.log_prob(z), kl_divergence(q, UniformOnSphere(128))))
    found, exact = (both(VonMisesFisher(jnp.eye(1, 128, dtype=d), kappa.astype(d))) for d in (dtype, jnp.float32))
    np.testing.assert_array_equal(found, exact)
    for family in (jv.FullGaussian(), jv.VonMisesFisher(), jv.DiagonalGaussian(), jv.LowRankGaussian()):
        outputs = jax.random.normal(key, (5, family.param_size(3))).astype(dtype)

        @jax.jit
        def log_probs(outputs, family=family):
            q, exact = (family.distribution({}, outputs.astype(d), 3) for d in (dtype, jnp.float32))
            z = exact.sample(key)
            return q.log_prob(z), exact.log_prob(z)

        np.testing.assert_allclose(*log_probs(outputs), rtol=1e-6)


def test_doubles_are_doubles(key):
    """x64: the densities next to an end, neighbours that float32 can't tell apart, and an inverse with mixed types."""
    with jax.enable_x64(True):
        x = jnp.array([[1.0 - 1e-9]])
        found = Beta(jnp.full((1, 1), 2.0), jnp.full((1, 1), 3.0)).log_prob(x)
        np.testing.assert_allclose(found, scipy.stats.beta.logpdf(1.0 - 1e-9, 2.0, 3.0), rtol=1e-8)
        examples = jnp.array([[1e9], [1e9 + 10.0], [1e9 + 20.0]])
        near = latents.nearest(jnp.array([[1e9 + 19.0]]), examples, num=2)
        np.testing.assert_array_equal(near.indices, [[2, 1]])
        np.testing.assert_array_equal(near.distances, [[1.0, 9.0]])
        vae = model(prior=jv.FlowPrior(flow=jv.InverseAutoregressive(hidden=8, context=2)))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jax.jit(vae.init)(key))

        @jax.jit
        def log_probs(params):
            prior = vae.prior_distribution(params)
            z = prior.sample(key, (5,))
            return prior.log_prob(z.astype(jnp.float32)), prior.log_prob(z)

        np.testing.assert_allclose(*log_probs(params), atol=1e-5)
        for family in (jv.Laplace(), jv.StudentT(), jv.Beta(), jv.DiscretizedLogistic(), jv.NegativeBinomial()):
            outputs = jax.ShapeDtypeStruct((2, family.param_size(3)), jnp.float32)
            drawn = jax.eval_shape(lambda o, f=family: f.distribution(f.init(key), o, 1).sample(key), outputs)
            assert drawn.dtype == jnp.float32


def test_a_step_over_an_axis_of_vmap(key):
    """Two parts on the two places of an axis are those of one device."""
    vae, optimizer = model(), optax.sgd(0.1)
    x = jnp.round(jax.random.uniform(key, (8, 4)))
    options = {"num_parts": 2}
    step = jv.make_train_step(vae, jv.ELBO(), optimizer, axis_name="d", **options)
    state = jv.TrainState.create(vae.init(key), optimizer)
    mapped = jax.vmap(step, in_axes=(None, 0, None), out_axes=None, axis_name="d")
    found, _ = jax.jit(mapped)(state, x.reshape(2, 4, 4), key)
    exact, _ = jv.make_train_step(vae, jv.ELBO(), optimizer, **options)(state, x, key)
    for a, b in zip(*map(jax.tree.leaves, (found.params, exact.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_whole_numbers_do_not_wrap_around():
    z, near = np.array([[1, 2], [5, 9]], np.uint8), np.array([[2, 2], [5, 9]], np.uint8)
    exact = organization.memorization(z.astype(np.float32), near.astype(np.float32))
    np.testing.assert_array_equal(organization.memorization(z, near), exact)
    speeds = organization.speeds(lambda z: z, z[:1], near[:1])
    np.testing.assert_allclose(speeds, 1.0)


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_counts_are_drawn_with_keys_of_any_kind(kind):
    counts = NegativeBinomial(jnp.full((4000, 1), np.log(3.0)), jnp.full((4000, 1), np.log(2.0)))
    drawn = np.asarray(counts.sample(jax.random.key(0, impl=kind)))
    np.testing.assert_allclose(drawn.mean(), 3.0, atol=5 * np.sqrt((3.0 + 9.0 / 2.0) / 4000))


@pytest.mark.parametrize(
    "choices",
    [{}, {"event_shape": (6, 6, 1), "encoder": jv.ConvEncoder((2, 3)), "decoder": jv.ConvDecoder((3, 2))}],
)
def test_a_program_for_any_batch_can_be_exported(choices, key):
    vae = model(**choices)
    params, shape = jax.jit(vae.init)(key), vae.event_shape
    (num,) = export.symbolic_shape("num")
    bound = jax.jit(lambda params, key, x: jv.losses.iwae(vae.evidence(params, key, x).log_weights))
    shapes = jax.eval_shape(lambda: (params, key))
    exported = export.export(bound)(*shapes, jax.ShapeDtypeStruct((num, *shape), jnp.float32))
    x = jnp.ones((5, *shape))
    np.testing.assert_allclose(exported.call(params, key, x), bound(params, key, x), rtol=1e-6)


@pytest.mark.parametrize(
    "choices",
    [
        {"likelihood": jv.Categorical(num_classes=3)},
        {"likelihood": jv.LogisticMixture()},
        {"posterior": jv.FullGaussian(), "prior": jv.GaussianMixture(num_components=4)},
        {"posterior": jv.LowRankGaussian(), "prior": jv.FlowPrior()},
        {"posterior": jv.FlowPosterior(base=jv.FullGaussian()), "prior": jv.VampPrior(num_components=4)},
        {"prior": jv.VampPrior(num_components=4)},
    ],
)
def test_no_examples_have_no_terms(choices, key):
    vae = model(**choices)
    evidence = jax.jit(lambda key: vae.evidence(vae.init(key), key, jnp.zeros((0, 4)), num_samples=2))
    assert evidence(key).log_weights.shape == (2, 0)


def test_no_examples_have_no_neighbours():
    assert latents.nearest(jnp.zeros((0, 4)), jnp.zeros((7, 4)), num=2).indices.shape == (0, 2)


def test_a_list_of_widths_is_a_tuple():
    lists = jv.MLP(hidden=[8, 4]), jv.ConvEncoder(channels=[2]), jv.Stages(epochs=[1, 2], factors=[1.0, 0.1])
    tuples = jv.MLP(hidden=(8, 4)), jv.ConvEncoder(channels=(2,)), jv.Stages(epochs=(1, 2), factors=(1.0, 0.1))
    assert lists == tuples
    assert list(map(hash, lists)) == list(map(hash, tuples))


def test_parts_are_counted_by_whole_numbers():
    optimizer = optax.adam(1e-3)
    jv.make_train_step(model(), jv.ELBO(), optimizer, num_parts=np.int64(2))
    with pytest.raises(ValueError, match="num_parts is True; write a whole number"):
        jv.make_train_step(model(), jv.ELBO(), optimizer, num_parts=True)


def test_the_masks_of_a_flow_need_no_promotion(key):
    flow = jv.InverseAutoregressive(hidden=8, context=2)
    with jax.numpy_dtype_promotion("strict"):
        (first, *_) = flow.maps(flow.init(key, 3), jnp.zeros((5, 2)), 3)
        z, _ = first.forward(jnp.ones((5, 3)))
        np.testing.assert_allclose(first.inverse(z)[0], 1.0, rtol=1e-5)
