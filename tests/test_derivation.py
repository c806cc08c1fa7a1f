"""The derivation's integrals, on a linear-Gaussian model where every one of them is known in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxvae as jv
from jaxvae import derivation
from jaxvae.derivation import grid, quadrature
from jaxvae.experiment.command import derive
from jaxvae.experiment.stopping import Diverged

E, B, VARIANCE = 4, 3, 0.5


def model_and_params(dim):
    model = jv.VAE(
        event_shape=(E,),
        latent_dim=dim,
        encoder=jv.MLP(hidden=()),
        decoder=jv.MLP(hidden=()),
        likelihood=jv.Gaussian(variance=jv.Fixed(value=VARIANCE)),
    )
    params = model.init(jax.random.key(3))
    bias = jnp.concatenate([jnp.zeros(dim), jnp.linspace(-1.5, -1.0, dim)])  # standard deviations of about a half
    params["encoder"]["output"]["bias"] = bias
    return model, params


@pytest.mark.parametrize("dim", [1, 2])
def test_it_is_the_closed_form(monkeypatch, dim):
    monkeypatch.setattr(grid, "FINE", 6000)  # a linear decoder has no kinks
    model, params = model_and_params(dim)
    x = jax.random.normal(jax.random.key(1), (B, E))
    ticks = []
    result = derivation.derive(model, params, x, tick=ticks.append)

    w = np.asarray(params["decoder"]["output"]["kernel"], float)
    b = np.asarray(params["decoder"]["output"]["bias"], float)
    log_evidence = scipy.stats.multivariate_normal(b, w.T @ w + VARIANCE * np.eye(E)).logpdf(x)
    np.testing.assert_allclose(result.log_evidence, log_evidence, atol=1e-4)

    q = model.encode(params, x)
    covariance = np.linalg.inv(np.eye(dim) + w @ w.T / VARIANCE)
    mean = (np.asarray(x, float) - b) @ w.T @ covariance / VARIANCE
    q_mean, q_var = np.asarray(q.mean, float), np.asarray(q.variance, float)
    gap = [
        0.5
        * (
            np.trace(np.linalg.solve(covariance, np.diag(q_var[i])))
            + (mean[i] - q_mean[i]) @ np.linalg.solve(covariance, mean[i] - q_mean[i])
            - dim
            + np.log(np.linalg.det(covariance) / q_var[i].prod())
        )
        for i in range(B)
    ]
    np.testing.assert_allclose(result.gap, gap, atol=1e-4)
    np.testing.assert_allclose(result.elbo, log_evidence - gap, atol=1e-4)
    assert result.disagreement < 1e-4
    assert len(result.lines) == 15
    assert sum(ticks) >= result.num_points
    assert 0.5 < sum(ticks) / derivation.num_decodings(q) < 2  # for the progress bar


def test_a_wrong_density_is_noticed():
    """The lines are a check: they disagree if the prior's density is not the one of its closed-form KL."""

    @dataclasses.dataclass(frozen=True)
    class Lies(jv.StandardNormal):
        def distribution(self, params, latent_dim, encode):
            from jaxvae.distributions import Normal, pytree

            @pytree
            @dataclasses.dataclass(frozen=True)
            class Unnormalized(Normal):
                def log_prob(self, value):
                    return super().log_prob(value) + 0.01

            derivation_kl[(Normal, Unnormalized)] = derivation_kl[(Normal, Normal)]
            return Unnormalized(jnp.zeros(latent_dim), jnp.zeros(latent_dim))

    from jaxvae.distributions import CLOSED_FORM_KL as derivation_kl

    model, params = model_and_params(1)
    before = dict(derivation_kl)
    try:
        lying = dataclasses.replace(model, prior=Lies())
        result = derivation.derive(lying, params, jnp.ones((1, E)))
    finally:
        derivation_kl.clear()
        derivation_kl.update(before)
    assert result.disagreement == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize(("rule", "name"), [(grid, "on_grid"), (quadrature, "log_evidence_by_panels")])
def test_a_wrong_evidence_is_noticed(monkeypatch, rule, name):
    """Each of the two rules that integrate it is wrong once."""
    model, params = model_and_params(1)
    right = getattr(rule, name)

    def wrong(*args):
        result = right(*args)
        return result._replace(log_evidence=result.log_evidence + 0.5) if rule is grid else result + 0.5

    monkeypatch.setattr(rule, name, wrong)
    assert derivation.derive(model, params, jnp.ones((1, E))).disagreement == pytest.approx(0.5, abs=1e-4)


def test_what_is_not_a_number_is_no_agreement():
    lines = [derivation.Line("=", np.zeros(1), np.array([value])) for value in (0.0, np.nan, 0.5)]
    assert np.isnan(derivation.Derivation(*[np.zeros(1)] * 3, lines, 1).disagreement)


def test_a_posterior_that_both_rules_miss_is_refused():
    """A decoder so steep that p(z|x) is narrower than the points are apart, with a q as wide as the prior."""
    model, params = model_and_params(2)
    params["encoder"]["output"]["bias"] = jnp.zeros(4)
    x = jnp.ones((1, E))
    derive._require_fine_enough(derivation.derive(model, params, x))
    params["decoder"]["output"]["kernel"] *= 1000.0
    with pytest.raises(Diverged, match=r"differ by .* nats: p\(z\|x\) is so much narrower .* a smaller weight"):
        derive._require_fine_enough(derivation.derive(model, params, x))


def test_mistakes_are_named():
    model, params = model_and_params(2)
    x = jnp.zeros((1, E))
    wide = dataclasses.replace(model, latent_dim=3)
    with pytest.raises(ValueError, match=r"has 3 latents.*--config\.model\.latent_dim=2"):
        derivation.derive(wide, wide.init(jax.random.key(0)), x)
    point = dataclasses.replace(model, posterior=jv.Delta())
    with pytest.raises(ValueError, match=r"write posterior=DiagonalGaussian"):
        derivation.derive(point, point.init(jax.random.key(0)), x)
    learned = dataclasses.replace(model, prior=jv.GaussianMixture())
    with pytest.raises(ValueError, match=r"p\(z\) is a GaussianMixture.*write prior=StandardNormal\(\)"):
        derivation.derive(learned, learned.init(jax.random.key(0)), x)
    params["encoder"]["output"]["bias"] = jnp.array([0.0, 0.0, -20.0, -20.0])
    with pytest.raises(ValueError, match=r"standard deviation 4\.5e-05.*points"):
        derivation.derive(model, params, x)
    params["encoder"]["output"]["bias"] = jnp.array([0.0, 0.0, 30.0, 30.0])
    with pytest.raises(
        ValueError, match=r"^a latent space of 5\.23e\+07 by 5\.23e\+07 needs a grid of more than 1,000,000"
    ):
        derivation.derive(model, params, x)
    with pytest.raises(ValueError, match="there are no examples"):
        derivation.derive(model, params, x[:0])
    for part, message in (("decoder", r"log p\(x\|z\) is NaN"), ("encoder", r"q\(z\|x\) is not finite")):
        params["encoder"]["output"]["bias"] = jnp.zeros(4)
        params[part]["output"]["bias"] *= jnp.nan
        with pytest.raises(ValueError, match=message):
            derivation.derive(model, params, x)
    with pytest.raises(ValueError, match=r"q\(z\|x\) is not finite"):
        derivation.num_decodings(model.encode(params, x))


def test_the_error_of_the_bound_beside_it(key):
    """The standard error of a mean of weights, against their variance over separate draws; one draw has none."""
    model, params = model_and_params(2)
    params = jax.tree.map(lambda leaf: 0.2 * leaf, params)
    params["encoder"]["output"]["bias"] = jnp.array([0.0, 0.0, 0.5, 0.5])  # wider than p(z|x): no weight is heavy
    x, num = jax.random.normal(key, (B, E)), 4000
    bound = derive._bound(model, params, key, x, num)
    log_weights = jax.jit(lambda key: model.evidence(params, key, x, num_samples=100_000).log_weights)(key)
    weights = np.exp(np.asarray(log_weights, np.float64) - np.asarray(log_weights.max(axis=0))[None])
    relative = weights.var(axis=0) / weights.mean(axis=0) ** 2
    np.testing.assert_allclose(bound.stderr, np.sqrt(np.sum(relative / num)) / B, rtol=0.1)
    assert derive._bound(model, params, key, x, 1).stderr is None
