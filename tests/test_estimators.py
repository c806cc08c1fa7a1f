"""Gradient estimators on the linear-Gaussian model of `test_oracle`: their means, their variances, their zeros."""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special
from test_oracle import BIAS, MODEL, VARIANCE, W, X, any_q, around_the_posterior, orthogonal, params

import jaxvae as jv
from jaxvae import estimators
from jaxvae.estimators import _slope_and_curvature

BATCH = jnp.asarray(X, jnp.float32)
ELBO = jv.ELBO(closed_form_kl=False, num_samples=3)
PAIRS = [
    (jv.StickingTheLanding(), ELBO),
    (jv.ScoreFunction(), ELBO),
    (jv.ScoreFunction(), jv.ELBO(num_samples=3, beta=0.5)),
    (jv.ScoreFunction(), jv.IWAE(num_samples=4)),
    (jv.DoublyReparameterized(), jv.IWAE(num_samples=4)),
    (jv.DoublyReparameterized(), jv.MIWAE(num_samples=6, num_groups=2)),
    (jv.DoublyReparameterized(), jv.CIWAE(num_samples=4, elbo_weight=0.3)),
    (jv.DoublyReparameterized(), jv.Renyi(num_samples=4, alpha=0.4)),
]
MANY, AT_ONCE = 20_000, 500
TWO_GRADIENTS = [(jv.Pathwise(), jv.PIWAE()), (jv.Pathwise(), jv.CUBO(num_samples=5))]


def label(choice):
    return type(choice).__name__


def gradients(estimator, objective, p, key, num, x=BATCH):
    """`num` independent estimates of the gradient of the batch's mean: a dict with leaves [num, ...].

    Many are computed in parts of one size, so that tests with other numbers share a program.
    """
    parts = jax.random.split(key, num).reshape(-1, min(num, AT_ONCE))
    estimates = [_gradients(estimator, objective, p, keys, x) for keys in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *estimates)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradients(estimator, objective, p, keys, x):
    def one(key):
        return jax.grad(lambda p: estimator(MODEL, objective, p, key, x)[0].mean())(p)

    return jax.vmap(one)(keys)


def near_the_posterior(seed=4):
    """Parameters with a q that is off by a little, as in training."""
    _, p = orthogonal()
    noise = np.random.default_rng(seed)
    encoder = jax.tree.map(lambda a: a + 0.05 * noise.normal(size=a.shape).astype(np.float32), p["encoder"]["output"])
    return p | {"encoder": {"output": encoder}}


@pytest.mark.parametrize(("estimator", "objective"), TWO_GRADIENTS + PAIRS, ids=label)
def test_the_value_is_the_objectives(estimator, objective, key):
    p, _, _ = any_q()
    estimator.check(objective, MODEL.posterior)

    @jax.jit
    def both(p):
        expected = MODEL.evidence(p, key, BATCH, num_samples=objective.num_samples)
        return estimator(MODEL, objective, p, key, BATCH), (objective(expected), expected)

    (bound, evidence), (expected_bound, expected) = both(p)
    np.testing.assert_allclose(bound, expected_bound, rtol=1e-5)
    chex.assert_trees_all_close(evidence, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("estimator", "objective"), PAIRS, ids=label)
def test_the_mean_is_the_gradient(estimator, objective, key):
    """Against the pathwise gradient, for every parameter, within the error of both."""
    p = near_the_posterior()
    ours, reference = (gradients(e, objective, p, k, MANY) for e, k in zip(
        (estimator, jv.Pathwise()), jax.random.split(key), strict=True))  # fmt: skip
    for part in ("encoder", "decoder"):
        for leaf in ("kernel", "bias"):
            a, b = (np.asarray(tree[part]["output"][leaf], float) for tree in (ours, reference))
            error = np.hypot(a.std(axis=0), b.std(axis=0)) / np.sqrt(MANY)
            assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * error + 1e-4), (part, leaf)
            assert np.linalg.norm(error) < 0.1 * np.linalg.norm(b.mean(axis=0)) + 0.01, (part, leaf)


def test_dreg_has_the_mean_of_iwae_and_less_noise_in_the_encoder(key, capsys):
    """K = 50, 10,000 draws: Tucker et al. (2019), figure 2."""
    p, num, objective = near_the_posterior(), 10_000, jv.IWAE(num_samples=50)
    dreg, iwae = (
        np.asarray(gradients(e, objective, p, k, num, BATCH[:1])["encoder"]["output"]["bias"], float)
        for e, k in zip((jv.DoublyReparameterized(), jv.Pathwise()), jax.random.split(key), strict=True)
    )
    error = np.hypot(dreg.std(axis=0), iwae.std(axis=0)) / np.sqrt(num)
    assert np.all(np.abs(dreg.mean(axis=0) - iwae.mean(axis=0)) < 5 * error)
    ratio = iwae.var(axis=0).sum() / dreg.var(axis=0).sum()
    with capsys.disabled():
        print(
            f"\nencoder's gradient at K = 50, mean of entries: DReG {dreg.mean():+.5f}, IWAE {iwae.mean():+.5f} "
            f"(error {error.max():.5f}); variance: DReG {dreg.var(axis=0).sum():.6f}, "
            f"IWAE {iwae.var(axis=0).sum():.6f}, {ratio:.1f} times"
        )
    assert ratio > 2


def test_the_models_own_gradient_is_left_alone(key):
    p, _, _ = any_q()
    objective = jv.IWAE(num_samples=5)
    ours, reference = (gradients(e, objective, p, key, 3) for e in (jv.DoublyReparameterized(), jv.Pathwise()))
    chex.assert_trees_all_close(ours["decoder"], reference["decoder"], rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("posterior", "scale"),
    [(jv.FlowPosterior(flow=jv.InverseAutoregressive(hidden=8)), 10.0), (jv.FullGaussian(), 100.0)],
    ids=["flow", "full"],
)
def test_the_value_is_the_objectives_own_where_z_cannot_be_inverted(posterior, scale, key):
    """Far from initial parameters, log q(z|x) of a given z has no digits left, but that of a draw has all."""
    mlp = jv.MLP(hidden=())
    model = jv.VAE(event_shape=(4,), latent_dim=5, encoder=mlp, decoder=mlp, posterior=posterior)
    x, p = jax.random.bernoulli(key, shape=(6, 4)).astype(jnp.float32), jax.jit(model.init)(key)
    output = p["encoder"]["output"]
    p["encoder"]["output"] = output | {"bias": scale * jax.random.normal(jax.random.key(1), output["bias"].shape)}

    @jax.jit
    def log_probs(p):
        q = model.encode(p, x)
        z, log_q = jv.distributions.sample_and_log_prob(q, key)
        return q.log_prob(z), log_q

    assert not np.allclose(*log_probs(p), rtol=0.1)

    @jax.jit
    def values(p):
        def value(estimator, objective):
            return estimator(model, objective, p, key, x)[0]

        weights = [jv.IWAE(num_samples=4), jv.PIWAE(num_samples=4, num_groups=1), jv.CUBO(num_samples=4)]
        return (
            [value(e, jv.ELBO(num_samples=4, closed_form_kl=False)) for e in (jv.Pathwise(), jv.StickingTheLanding())],
            [value(jv.Pathwise(), o) for o in weights]
            + [value(e, weights[0]) for e in (jv.DoublyReparameterized(), jv.ScoreFunction())],
        )

    for same in values(p):
        for other in same[1:]:
            np.testing.assert_array_equal(other, same[0])
        assert np.isfinite(same[0]).all()

    @jax.jit
    def gradients_of_one_group(p):
        objectives = jv.IWAE(num_samples=4), jv.PIWAE(num_samples=4, num_groups=1)
        return [jax.grad(lambda p, o=o: jv.Pathwise()(model, o, p, key, x)[0].mean())(p) for o in objectives]

    iwae, piwae = gradients_of_one_group(p)
    chex.assert_trees_all_close(piwae, iwae, rtol=1e-3)  # with one group the two gradients are the same
    chex.assert_tree_all_finite(piwae)


def test_dreg_of_float32_parameters_under_x64(key):
    """Under x64 the weights of the draws have 64 bits, and the draws do not."""
    with jax.enable_x64(True):
        p = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), near_the_posterior())
        of_params = jax.grad(
            lambda p: jv.DoublyReparameterized()(MODEL, jv.IWAE(num_samples=4), p, key, BATCH)[0].mean()
        )
        assert {a.dtype for a in jax.tree.leaves(jax.jit(of_params)(p))} == {jnp.dtype("float32")}


def test_sticking_the_landing_is_zero_at_the_posterior(key):
    """For every draw, in double precision; the pathwise gradient is zero in the mean only."""
    with jax.enable_x64(True):
        w, _ = orthogonal()
        covariance = np.diag(1 / np.diag(np.eye(3) + w @ w.T / VARIANCE))
        to_mean = w.T @ covariance / VARIANCE
        p = params(w, to_mean, -BIAS @ to_mean, np.log(np.diag(covariance)), dtype=jnp.float64)

        def gradient(estimator, objective):
            of_params = jax.grad(lambda p: estimator(MODEL, objective, p, key, jnp.asarray(X))[0].mean())
            return jax.jit(of_params)(p)["encoder"]

        def largest(tree):
            return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))

        assert largest(gradient(jv.StickingTheLanding(), ELBO)) < 1e-12
        assert largest(gradient(jv.DoublyReparameterized(), jv.IWAE())) < 1e-12
        assert largest(gradient(jv.Pathwise(), ELBO)) > 1e-2


def test_piwae_has_the_gradients_of_two_bounds(key):
    p, _, _ = any_q()
    piwae = jv.PIWAE(num_samples=12, num_groups=3)
    both, of_iwae, of_miwae = (
        gradients(jv.Pathwise(), objective, p, key, 2)
        for objective in (piwae, jv.IWAE(num_samples=12), jv.MIWAE(num_samples=12, num_groups=3))
    )
    chex.assert_trees_all_close(both["decoder"], of_iwae["decoder"], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(both["encoder"], of_miwae["encoder"], rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(of_iwae["encoder"]["output"]["bias"] - of_miwae["encoder"]["output"]["bias"])).max() > 0.01


def test_cubo_has_the_gradients_of_two_bounds(key):
    """That of q is the upper bound's: of (1/n) log E_r[(q / r) (p / q)ⁿ] at r = q, with the draws and r held fixed."""
    p, k, n = around_the_posterior(1.2), 50, 1.5
    both, of_iwae = (
        gradients(jv.Pathwise(), objective, p, key, 3)
        for objective in (jv.CUBO(num_samples=k, order=n), jv.IWAE(num_samples=k))
    )
    chex.assert_trees_all_close(both["decoder"], of_iwae["decoder"], rtol=1e-4, atol=1e-5)

    def minus_bound(encoder, key):
        fixed = MODEL.evidence(p, key, BATCH, num_samples=k)  # of p itself, not of `encoder`
        joint, z, log_r = fixed.log_likelihood + fixed.log_prior, fixed.z, fixed.log_posterior
        log_q = MODEL.encode(p | {"encoder": encoder}, BATCH).log_prob(z)
        return -jax.nn.logsumexp(n * (joint - log_q) + log_q - log_r, axis=0).mean() / n

    of_keys = jax.jit(jax.vmap(jax.grad(minus_bound), (None, 0)))
    of_cubo = of_keys(p["encoder"], jax.random.split(key, 3))
    chex.assert_trees_all_close(both["encoder"], of_cubo, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_cubo_trains_a_q_that_covers_the_posterior(key):
    """From a q that is far off, to the variances of the diagonal q with the least χ² divergence."""
    p, _, _ = any_q()
    precision = np.eye(3) + W @ W.T / VARIANCE
    optimizer, objective = optax.adam(0.02), jv.CUBO(num_samples=500)

    def one(carry, key):
        encoder, state = carry
        grads = jax.grad(
            lambda encoder: -jv.Pathwise()(MODEL, objective, p | {"encoder": encoder}, key, BATCH)[0].mean()
        )(encoder)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(encoder, updates), state), None

    start = (p["encoder"], optimizer.init(p["encoder"]))
    (encoder, _), _ = jax.jit(lambda keys: jax.lax.scan(one, start, keys))(jax.random.split(key, 1500))
    variance = np.asarray(MODEL.encode(p | {"encoder": encoder}, BATCH).variance)

    def divergence(log_var):  # of N(0, inverse precision) from N(0, exp(log_var)), up to a constant
        both = 2 * precision - np.diag(np.exp(-log_var))
        return 0.5 * (log_var.sum() - np.linalg.slogdet(both)[1]) if np.linalg.eigvalsh(both)[0] > 0 else np.inf

    best = scipy.optimize.minimize(divergence, np.zeros(3), method="Nelder-Mead").x
    np.testing.assert_allclose(variance.mean(axis=0), np.exp(best), rtol=0.1)
    assert np.all(np.exp(best)[1:] > 2 / np.diag(precision)[1:])  # the ELBO's best q is much narrower


@pytest.mark.parametrize("num", [7, 300])
def test_slope_and_curvature_of_iwae(num, key):
    log_weights = 3 * jax.random.normal(key, (num, 4))
    slope, curvature = jax.jit(lambda w: _slope_and_curvature(jv.IWAE().of, w))(log_weights)
    weights = jax.nn.softmax(log_weights, axis=0)
    np.testing.assert_allclose(slope, weights, rtol=1e-5)
    np.testing.assert_allclose(curvature, weights * (1 - weights), atol=1e-6)


def test_the_baseline_does_not_know_its_own_draw():
    """Of an outlier, a sum less one term keeps the rounding; of a weight of 0 it makes NaN."""
    others = np.array([-10.0, -11.0, -12.0, -13.0])
    for own in (-1e9, -np.inf):
        zeros = jnp.zeros((5, 1))
        of = jv.Evidence(jnp.float32([[own], *others[:, None]]), zeros, zeros, None, zeros[..., None], None)
        without = estimators._without_each(jv.IWAE(num_samples=5), of)[0, 0]
        expected = scipy.special.logsumexp([others.mean(), *others]) - np.log(5)
        np.testing.assert_allclose(without, expected, rtol=1e-6)


class Bounded(NamedTuple):
    """A likelihood of no weight for about every other z."""

    inner: Any

    def log_prob(self, x):
        return jnp.where(jnp.sin(5.0 * self.inner.mean[..., 0]) > 0.0, -jnp.inf, self.inner.log_prob(x))


@dataclasses.dataclass(frozen=True)
class BoundedGaussian(jv.Gaussian):
    def distribution(self, params, outputs, event_ndims):
        return Bounded(super().distribution(params, outputs, event_ndims))


@pytest.mark.parametrize("estimator", [jv.DoublyReparameterized(), jv.ScoreFunction()], ids=label)
def test_draws_of_no_weight_leave_a_gradient(estimator, key):
    model, (p, _, _) = (
        dataclasses.replace(MODEL, likelihood=BoundedGaussian(variance=jv.Fixed(value=VARIANCE))),
        any_q(),
    )

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def total(p, key):
        bound, evidence = estimator(model, jv.IWAE(num_samples=4), p, key, BATCH)
        return bound.sum(), evidence.log_weights

    gradients, log_weights = zip(*(total(p, key) for key in jax.random.split(key, 30)), strict=True)
    num_finite = np.isfinite(log_weights).sum(axis=1)  # of the draws of each example
    kept = [gradient for gradient, num in zip(gradients, num_finite, strict=True) if num.min() > 0]
    assert len(kept) > 3 and num_finite.min() == 0 and np.any(num_finite == 1) and np.any(num_finite == 3)
    chex.assert_tree_all_finite(kept)


@pytest.mark.parametrize("estimator", [jv.DoublyReparameterized(), jv.ScoreFunction()], ids=label)
def test_memory_is_linear_in_the_draws(estimator, key):
    """Each draw is compared with all others, but never all pairs at once."""
    p, _, _ = any_q()
    program = jax.make_jaxpr(jax.grad(lambda p: estimator(MODEL, jv.IWAE(num_samples=300), p, key, BATCH)[0].mean()))(p)
    assert "[300,300" not in str(program)


def test_weights_far_apart_stay_finite(key):
    """A q that is far too wide: most weights are negligible beside the largest."""
    _, p = orthogonal()
    bias = p["encoder"]["output"]["bias"].at[3:].set(8.0)
    p = p | {"encoder": {"output": p["encoder"]["output"] | {"bias": bias}}}
    for estimator, objective in TWO_GRADIENTS + PAIRS:
        chex.assert_tree_all_finite(gradients(estimator, objective, p, key, 500))


@pytest.mark.parametrize(
    ("estimator", "objective", "message"),
    [
        (jv.StickingTheLanding(), jv.ELBO(), "write ELBO(closed_form_kl=False)"),
        (jv.StickingTheLanding(), jv.IWAE(), "write estimator=DoublyReparameterized()"),
        (jv.StickingTheLanding(), jv.PIWAE(), "write estimator=Pathwise()"),
        (jv.DoublyReparameterized(), jv.ELBO(), "write estimator=StickingTheLanding()"),
        (jv.DoublyReparameterized(), jv.PIWAE(), "write estimator=Pathwise()"),
        (jv.ScoreFunction(), jv.PIWAE(), "write estimator=Pathwise()"),
        (jv.DoublyReparameterized(), jv.CUBO(), "write estimator=Pathwise()"),
        (jv.ScoreFunction(), jv.ELBO(), "write num_samples=2 or more"),
    ],
    ids=label,
)
def test_pairs_that_are_not_valid_name_the_fix(estimator, objective, message, key):
    with pytest.raises(ValueError, match=re.escape(message)):
        jv.make_train_step(MODEL, objective, optax.sgd(0.1), estimator=estimator)
    with pytest.raises(ValueError, match=re.escape(message)):
        estimator(MODEL, objective, any_q()[0], key, BATCH)


@pytest.mark.parametrize(
    "estimator", [jv.StickingTheLanding(), jv.DoublyReparameterized(), jv.ScoreFunction()], ids=label
)
def test_a_posterior_without_a_density_has_the_pathwise_gradient_only(estimator):
    with pytest.raises(ValueError, match=r"needs the density q\(z\|x\), but Delta has none; write estimator=Pathwise"):
        estimator.check(ELBO, jv.Delta())


@pytest.mark.parametrize("objective", [jv.IWAE(), jv.CUBO(), jv.ELBO(closed_form_kl=False)], ids=label)
def test_without_a_density_no_draw_can_be_weighed(objective):
    model = dataclasses.replace(MODEL, posterior=jv.Delta())
    with pytest.raises(ValueError, match=r"by the density q\(z\|x\), but Delta has none; write objective=ELBO\(\)"):
        jv.make_train_step(model, objective, optax.sgd(0.1))
    jv.make_train_step(model, jv.ELBO(), optax.sgd(0.1))


def test_the_score_does_not_know_what_else_an_objective_reads():
    class Other(jv.Objective):
        def __call__(self, evidence):
            return jnp.square(evidence.z).mean((0, 2))

        needs_density = False

    with pytest.raises(ValueError, match=r"not for Other; write estimator=Pathwise\(\)"):
        jv.ScoreFunction().check(Other(num_samples=2), MODEL.posterior)


@pytest.mark.parametrize(("estimator", "objective"), TWO_GRADIENTS + PAIRS, ids=label)
def test_what_it_was_computed_from_has_no_gradient(estimator, objective, key):
    p, _, _ = any_q()
    gradient = jax.jit(jax.grad(lambda p: estimator(MODEL, objective, p, key, BATCH)[1].kl.sum()))(p)
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, p))


@pytest.mark.parametrize("estimator", [jv.DoublyReparameterized(), jv.ScoreFunction(), jv.Pathwise()], ids=label)
def test_a_step_climbs(estimator, key):
    p, _, _ = any_q()
    objective = jv.PIWAE(num_samples=8, num_groups=2) if estimator == jv.Pathwise() else jv.IWAE(num_samples=8)
    step = jv.make_train_step(MODEL, objective, optax.adam(0.02), estimator=estimator)
    state = jv.TrainState.create(p, optax.adam(0.02))
    losses = []
    for _ in range(60):
        state, metrics = step(state, BATCH, key)
        losses.append(float(metrics.loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
