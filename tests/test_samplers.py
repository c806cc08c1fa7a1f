"""Samplers: what they are fitted to, and that a run keeps them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scipy.stats

import jaxvae as jv
from jaxvae.distributions import Normal, Transformed
from jaxvae.experiment import command, sampling
from jaxvae.fingerprints import digest
from jaxvae.samplers import Affine, FlowSampler, GaussianSampler, MixtureSampler

FEW = jv.SplineCoupling(num_layers=2, hidden=16, context=1)


def bent(key, num):
    """`num` draws from a crescent, N(x; 0, 1) N(y; x²/2, 0.3²), and their log-densities."""
    x_key, y_key = jax.random.split(key)
    x = jax.random.normal(x_key, (num,))
    y = 0.5 * x**2 + 0.3 * jax.random.normal(y_key, (num,))
    z = jnp.stack([x, y], axis=-1)
    return z, scipy.stats.norm.logpdf(x) + scipy.stats.norm.logpdf(y, 0.5 * x**2, 0.3)


def test_the_gaussian_has_the_codes_moments(key):
    z = jax.random.normal(key, (500, 3)) @ jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]) + 4.0
    sampler = GaussianSampler()
    q = sampler.distribution(sampler.fit(key, z))
    np.testing.assert_allclose(q.mean, z.mean(0), rtol=1e-5)
    covariance = np.cov(np.asarray(z, np.float64), rowvar=False)  # singular: the last row is 0
    np.testing.assert_allclose(q.scale_tril @ q.scale_tril.T, covariance, atol=1e-4)
    draws = q.sample(key, (20_000,))
    np.testing.assert_allclose(np.cov(np.asarray(draws), rowvar=False), covariance, atol=0.1)


def test_an_affine_map_of_a_normal_is_a_normal(key):
    mean, tril = jnp.array([3.0, -1.0]), jnp.array([[0.2, 0.0], [1.5, 5.0]])
    q = Transformed(Normal(jnp.zeros(2), jnp.zeros(2)), (Affine(mean, tril),))
    z, log_q = q.sample_and_log_prob(key, (5, 2))
    expected = scipy.stats.multivariate_normal(np.asarray(mean), np.asarray(tril @ tril.T, float)).logpdf(z)
    np.testing.assert_allclose(log_q, expected, rtol=1e-4)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-4)


def test_the_mixture_finds_its_parts(key):
    z = jnp.concatenate([jax.random.normal(key, (300, 2)) - 6.0, 0.5 * jax.random.normal(key, (100, 2)) + 6.0])
    sampler = MixtureSampler(num_components=2)
    q = sampler.distribution(sampler.fit(key, z))
    order = np.argsort(q.components.mean[:, 0])
    np.testing.assert_allclose(jax.nn.softmax(q.logits)[order], [0.75, 0.25], rtol=1e-4)
    np.testing.assert_allclose(q.components.mean[order], [z[:300].mean(0), z[300:].mean(0)], rtol=1e-4)
    truth = np.logaddexp(
        np.log(0.75) + scipy.stats.norm.logpdf(z, -6.0).sum(1),
        np.log(0.25) + scipy.stats.norm.logpdf(z, 6.0, 0.5).sum(1),
    )
    assert q.log_prob(z).mean() > truth.mean() - 0.01


@pytest.mark.parametrize("sampler", [GaussianSampler(), MixtureSampler(num_components=1)])
def test_a_small_latent_beside_a_large_one_keeps_its_width(sampler, key):
    z = jax.random.normal(key, (500, 3)) * jnp.array([[1e3, 1.0, 0.01]])
    q = sampler.distribution(sampler.fit(key, z))
    normal = q.components if sampler == MixtureSampler(num_components=1) else q
    np.testing.assert_allclose(jnp.ravel(normal.std), z.std(0), rtol=2e-3)


def test_the_flow_follows_a_crescent(key):
    """Its KL from the truth, on codes that it has not seen, is a small part of the best Gaussian's."""
    z, _ = bent(key, 4000)
    unseen, truth = bent(jax.random.key(1), 4000)
    flow, normal, ticks = FlowSampler(flow=FEW, num_steps=800), GaussianSampler(), []
    q, normal = flow.distribution(flow.fit(key, z, tick=ticks.append)), normal.distribution(normal.fit(key, z))
    assert ticks == [100] * 8
    gap, normals_gap = (np.mean(truth - jax.jit(lambda p: p.log_prob(unseen))(p)) for p in (q, normal))
    assert 0.0 < gap < 0.15 * normals_gap
    draws = jax.jit(lambda q: q.sample(key, (4000,)))(q)
    assert scipy.stats.ks_2samp(draws[:, 1], unseen[:, 1]).pvalue > 1e-3


def test_a_flow_does_not_memorize_a_few_codes(key):
    """On as many codes that it has not seen, it is not much worse than the distribution from which they came."""
    mix = jnp.array([[1.0, 0.9, 0.9, 0.9], [0.0, 0.4, 0.3, 0.3], [0.0, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 0.2]])
    z, unseen = jax.random.normal(key, (2, 400, 4)) @ mix
    sampler = FlowSampler(flow=jv.SplineCoupling(num_layers=2, hidden=64), num_steps=600)
    q = sampler.distribution(sampler.fit(key, z))
    truth = scipy.stats.multivariate_normal(np.zeros(4), np.asarray(mix.T @ mix, float)).logpdf(unseen).mean()
    assert jax.jit(lambda q: q.log_prob(unseen))(q).mean() > truth - 0.1


def test_a_latent_that_does_not_vary_takes_nothing_from_the_others(key):
    """Its likelihood has no bound. The draws of the others keep the codes' means, within their errors and the fit's."""
    z, _ = bent(key, 4000)
    sampler = FlowSampler(flow=FEW, num_steps=400)
    q = sampler.distribution(sampler.fit(key, jnp.pad(z, [(0, 0), (0, 1)], constant_values=3.0)))
    draws = np.asarray(jax.jit(lambda q: q.sample(key, (4000,)))(q), float)
    off = (draws[:, :2].mean(axis=0) - z.mean(axis=0)) / np.std(z, axis=0)
    np.testing.assert_allclose(off, 0.0, atol=0.06)
    np.testing.assert_allclose(draws[:, 2], 3.0, atol=1e-4)


def test_a_sampler_that_needs_more_examples_is_refused():
    trained = types.SimpleNamespace(trainer=types.SimpleNamespace(dataset=types.SimpleNamespace(sizes={"train": 19})))
    sampling.check(trained, "gaussian")
    with pytest.raises(ValueError, match="there are 19 training examples, but --sampler=mixture needs 20; write"):
        sampling.check(trained, "mixture")


def test_a_full_disk_keeps_no_sampler(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    sampling._keep({"mean": jnp.zeros(2)}, tmp_path / "samplers" / "gaussian.safetensors", "sha")
    said = capsys.readouterr().err
    assert "No space left on device (os error 28)): the sampler is fitted anew each time" in said


def test_its_map_takes_64_bits():
    """The parameters have 32, whatever the codes have."""
    affine = Affine(jnp.array([3.0, -1.0]), jnp.array([[0.2, 0.0], [1.5, 5.0]]))
    with jax.enable_x64(True):
        y = np.random.default_rng(0).normal(size=(4, 2))
        z, log_det = affine.inverse(y)
        assert z.dtype == np.float64
        np.testing.assert_allclose(affine.forward(z)[0], y, rtol=1e-6)
        np.testing.assert_allclose(log_det, -affine.forward(z)[1])


def test_a_sampler_of_another_version_is_fitted_anew(tmp_path):
    params, path = {"mean": jnp.zeros(2)}, tmp_path / "samplers" / "flow.safetensors"
    sampling._keep(params, path, "sha")
    np.testing.assert_array_equal(sampling._read(path, "sha")["mean"], params["mean"])
    old = {"params_sha256": "sha", "own_sha256": digest(params)}
    safetensors.numpy.save_file({"mean": np.zeros(2, np.float32)}, path, metadata=old)
    assert sampling._read(path, "sha") is None


@pytest.mark.parametrize("sampler", [GaussianSampler(), MixtureSampler(num_components=1), FlowSampler()])
def test_codes_that_are_not_numbers(sampler, key):
    with pytest.raises(ValueError, match="z has values that are NaN or infinite"):
        sampler.fit(key, jnp.zeros((20, 2)).at[3, 1].set(jnp.nan))


def test_too_few_codes(key):
    with pytest.raises(ValueError, match="write \\[N, D\\] with N of at least 20"):
        MixtureSampler().fit(key, jnp.zeros((5, 2)))


@pytest.mark.parametrize("config", ["autoencoder", "sphere"])
@pytest.mark.long
def test_a_run_keeps_its_samplers(config, tmp_path, capsys, no_pictures):
    """For a plain autoencoder and on the sphere: fitted once and reused; fitted again if the file is damaged."""
    choices, names = {
        "autoencoder": ("posterior=jv.Delta()", ("mixture", "flow", "gaussian")),
        "sphere": ("posterior=jv.VonMisesFisher(), prior=jv.UniformSphere()", ("gaussian",)),
    }[config]
    networks = "encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,))"
    (tmp_path / "c.py").write_text(
        "import jaxvae as jv\ndef get_config():\n    return jv.Experiment(num_epochs=2, checkpoint_every_epochs=1, "
        f"model=jv.VAE(latent_dim=3, {networks}, {choices}))\n"
    )
    run = tmp_path / "run"
    assert command.train_main([f"--config={tmp_path / 'c.py'}", f"--workdir={run}"]) == 0
    capsys.readouterr()
    pictures = {}
    for name in (*names, "gaussian"):
        arguments = [f"--workdir={run}", f"--sampler={name}", f"--output={tmp_path / 'x.npy'}", "--num=5"]
        assert command.generate_main(arguments) == 0
        said = capsys.readouterr().err
        new = np.load(tmp_path / "x.npy")
        assert new.shape == (5, 8, 8, 1)
        if name in pictures:
            assert said == ""
            np.testing.assert_array_equal(new, pictures[name])
        else:
            assert f"fitting the {name} sampler to the codes of 1,285 training examples" in said
        pictures[name] = new
    if config == "sphere":
        assert command.inference_gap_main([f"--workdir={run}"]) == 2
        assert "VonMisesFisher is over the unit sphere" in capsys.readouterr().err
    kept = run / "samplers" / "gaussian.safetensors"
    whole = kept.read_bytes()
    for damaged in (whole[:-7], whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:]):
        kept.write_bytes(damaged)
        assert command.generate_main(arguments) == 0
        assert "fitting the gaussian" in capsys.readouterr().err
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), pictures["gaussian"])
