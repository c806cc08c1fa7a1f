"""Flows: there and back, the determinant of the Jacobian, and a density that integrates to one."""

import functools

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import jaxvae as jv
from jaxvae.distributions import Normal, Transformed, sample_and_log_prob
from jaxvae.flows.coupling import _places, rational_quadratic
from jaxvae.flows.planar import PlanarMap

FLOWS = [
    jv.Planar(num_layers=4),
    jv.InverseAutoregressive(num_layers=2, hidden=16, context=5),
    jv.SplineCoupling(num_layers=2, hidden=16, context=5, bins=6, bound=4.0),
]


@functools.partial(jax.jit, static_argnames=("flow", "dim"))
def make(flow, key, *, dim):
    """A flow that is far from the identity."""
    params_key, noise_key, context_key = jax.random.split(key, 3)
    flat, unravel = jax.flatten_util.ravel_pytree(flow.init(params_key, dim))
    params = unravel(flat + 0.05 * jax.random.normal(noise_key, flat.shape))
    context = 0.7 * jax.random.normal(context_key, (flow.context_size(dim),))
    return flow.maps(params, context, dim)


def test_the_second_derivative_of_a_planar_flows_inverse(key):
    """Against differences of the gradient; the root that bisection finds has no derivative of its own."""
    maps = make(jv.Planar(num_layers=2), key, dim=3)
    with jax.enable_x64(True):
        maps = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), maps)
        gradient = jax.jit(jax.grad(lambda y: Transformed(Normal(jnp.zeros(3), jnp.zeros(3)), maps).log_prob(y)))
        y, steps = jnp.array([0.3, -1.0, 0.7]), 1e-4 * jnp.eye(3)
        differences = jnp.stack([(gradient(y + s) - gradient(y - s)) / 2e-4 for s in steps])
        np.testing.assert_allclose(jax.jacfwd(gradient)(y), differences, rtol=1e-4, atol=1e-6)


def through(maps, z):
    log_det = jnp.zeros(z.shape[:-1])
    for step in maps:
        z, term = step.forward(z)
        log_det = log_det + term
    return z, log_det


def back_through(maps, y):
    log_det = jnp.zeros(y.shape[:-1])
    for step in reversed(maps):
        y, term = step.inverse(y)
        log_det = log_det + term
    return y, log_det


@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize("flow", FLOWS)
def test_there_and_back(flow, dim, key):
    maps = make(flow, key, dim=dim)
    z = 1.5 * jax.random.normal(key, (50, 6, dim))
    y, log_det = jax.jit(through)(maps, z)
    assert float(jnp.max(jnp.abs(y - z))) > 0.1
    back, inverse_log_det = jax.jit(back_through)(maps, y)
    np.testing.assert_allclose(back, z, atol=1e-5)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=2e-4)


@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize("flow", FLOWS)
def test_the_determinant_is_that_of_the_jacobian(flow, dim, key):
    maps = make(flow, key, dim=dim)
    z = jax.random.normal(key, (20, dim))
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda z: through(maps, z)[0])))(z)
    expected = np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    np.testing.assert_allclose(jax.jit(through)(maps, z)[1], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_gradient_of_the_inverse(flow, key):
    """There and back is the identity: its gradient is 1 in z, and 0 in the flow's numbers."""
    maps, z = make(flow, key, dim=5), jax.random.normal(key, (8, 5))

    def there_and_back(maps, z):
        y, _ = back_through(maps, through(maps, z)[0])
        return jnp.sum(jnp.sin(y))

    of_maps, of_z = jax.jit(jax.grad(there_and_back, (0, 1)))(maps, z)
    np.testing.assert_allclose(of_z, jnp.cos(z), atol=2e-3)
    assert all(float(jnp.max(jnp.abs(leaf))) < 2e-2 for leaf in jax.tree.leaves(of_maps) if leaf.size)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_image_has_its_density(flow, key):
    """It integrates to one over the plane; its draws follow its marginals, and come with their density."""
    q = Transformed(Normal(jnp.array([0.3, -0.2]), jnp.array([0.2, -0.4])), make(flow, key, dim=2))

    @jax.jit
    def drawn(q):
        z, log_q = sample_and_log_prob(q, key, (20_000,))
        return z, log_q, q.log_prob(z), q.sample(key, (20_000,))

    draws, log_q, inverted, sampled = map(np.asarray, drawn(q))
    np.testing.assert_allclose(inverted, log_q, atol=2e-3)
    np.testing.assert_allclose(sampled, draws, atol=1e-5)
    axes = [np.linspace(*np.quantile(d, (0, 1)) + np.array([-2.0, 2.0]) * (1 + d.std()), 401) for d in draws.T]
    grid = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), jnp.float32)
    density = np.exp(np.asarray(jax.jit(q.log_prob)(grid), np.float64))
    whole = scipy.integrate.simpson(scipy.integrate.simpson(density, x=axes[1]), x=axes[0])
    np.testing.assert_allclose(whole, 1.0, atol=5e-3)
    for d in range(2):
        marginal = scipy.integrate.simpson(density, x=axes[1 - d], axis=1 - d)
        below = scipy.integrate.cumulative_trapezoid(marginal, x=axes[d], initial=0.0) / whole
        below_draws = np.interp(draws[::4, d], axes[d], below)
        assert scipy.stats.kstest(below_draws, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("flow", FLOWS)
def test_each_example_has_its_own_flow(flow, key):
    """A batch equals the examples one by one. As components of a mixture, all flows are evaluated at one z."""
    params, context = jax.jit(flow.init, static_argnums=1)(key, 5), jax.random.normal(key, (4, flow.context_size(5)))
    z = jax.random.normal(key, (6, 4, 5))

    @jax.jit
    def log_prob(context, z):
        base = jnp.zeros((*context.shape[:-1], 5))
        return Transformed(Normal(base, base), flow.maps(params, context, 5)).log_prob(z)

    log_q = log_prob(context, z)
    chex.assert_shape(log_q, (6, 4))
    for i in range(4):
        np.testing.assert_allclose(log_q[:, i], log_prob(context[i], z[:, i]), atol=1e-4)
    at_all = log_prob(context, z[:, :1])
    chex.assert_shape(at_all, (6, 4))
    np.testing.assert_allclose(at_all[:, 0], log_q[:, 0], atol=1e-4)


@pytest.mark.parametrize(("flow", "gain"), [*zip(FLOWS, (1.0, 0.8808**2, 1.0), strict=True)])
def test_flows_begin_near_the_identity(flow, gain, key):
    """Each gate of the autoregressive flow lets 88 % through."""
    z = jax.random.normal(key, (9, 4))
    y, log_det = jax.jit(lambda z: through(flow.maps(flow.init(key, 4), jnp.zeros(flow.context_size(4)), 4), z))(z)
    np.testing.assert_allclose(y, gain * z, atol=0.5)
    np.testing.assert_allclose(log_det, 4 * np.log(gain), atol=0.5)


@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize("flow", FLOWS)
def test_every_entry_sees_the_example(flow, dim, key):
    params, z = jax.jit(flow.init, static_argnums=1)(key, dim), jax.random.normal(key, (dim,))
    context = jax.random.normal(key, (flow.context_size(dim),))
    of_context = jax.jit(jax.jacobian(lambda context: through(flow.maps(params, context, dim), z)[0]))(context)
    assert jnp.all(jnp.max(jnp.abs(of_context), axis=-1) > 1e-4)


@pytest.mark.parametrize("against", [1.0, 18.0, 1e4])
def test_planar_layers_that_nearly_fold(against, key):
    """u opposes w: the slope goes towards 0, and its logarithm stays finite."""
    w = jnp.array([0.6, -0.8])
    fold = PlanarMap(-against * w, w, jnp.zeros(1))
    z = jnp.concatenate([jnp.zeros((1, 2)), 1e-5 * jax.random.normal(key, (9, 2)), jax.random.normal(key, (90, 2))])
    y, log_det = jax.jit(PlanarMap.forward)(fold, z)
    assert jnp.all(jnp.isfinite(log_det))
    if against < 100:  # beyond, u less its part along w has no digits left
        np.testing.assert_allclose(jax.jit(PlanarMap.inverse)(fold, y)[0], z, atol=2e-4)
    grads = jax.jit(jax.grad(lambda fold, z: jnp.sum(fold.forward(z)[1]), (0, 1)))(fold, z)
    chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize("length", [3.0, 10.0, 100.0])
def test_a_planar_layer_of_long_vectors_has_its_determinant(length, key):
    """That of the map as applied in 32 bits: only the part of u along w counts, and it is small beside u."""
    context_key, z_key = jax.random.split(key)
    context = length * jax.random.normal(context_key, (500, 41)).at[:, 40].set(0.0)
    (fold,) = jv.Planar(num_layers=1).maps({"w": jnp.zeros((1, 20))}, context, 20)
    z = 0.01 * jax.random.normal(z_key, (500, 20))
    log_det = jax.jit(PlanarMap.forward)(fold, z)[1]
    u, w, z = (np.asarray(a, np.float64) for a in (jax.jit(lambda fold: fold._u[0])(fold), fold.w, z))
    slope = 1.0 + (w * u).sum(-1) / np.cosh((w * z).sum(-1)) ** 2
    assert slope.min() > 0.0
    assert np.abs(log_det - np.log(slope)).mean() < (1e-3 if length <= 10.0 else 0.01)


@pytest.mark.long
@pytest.mark.parametrize("flow", FLOWS)
def test_one_latent_is_trained_and_kept(flow, key, tmp_path):
    """A flow over one latent has no empty arrays: neither an optimizer nor a checkpoint would accept them."""
    networks = {"encoder": jv.MLP(hidden=(6,)), "decoder": jv.MLP(hidden=(6,))}
    choices = {"posterior": jv.FlowPosterior(flow=flow), "prior": jv.FlowPrior(flow=FLOWS[2])}
    model = jv.VAE(event_shape=(5,), latent_dim=1, **networks, **choices)
    optimizer, params = jv.Muon().build(num_steps=10, steps_per_epoch=1), jax.jit(model.init)(key)
    assert all(leaf.size for leaf in jax.tree.leaves(params))
    step = jv.make_train_step(model, jv.IWAE(num_samples=2), optimizer)
    state, metrics = step(jv.TrainState.create(params, optimizer), jnp.ones((4, 5)), key)
    assert jnp.isfinite(metrics.loss)
    jv.save_model(tmp_path / "model", model, state.params)
    chex.assert_trees_all_equal(jv.load_model(tmp_path / "model").params, state.params)


@pytest.mark.parametrize("size", [2.0, 5.0, 8.0])
def test_the_inverse_of_a_spline_keeps_its_digits(size, key):
    """Whichever way it bends: in 32 bits its error is that of rounding its inputs, times a constant."""
    x_key, y_key, slope_key, image_key = jax.random.split(key, 4)
    logits = [size * jax.random.normal(k, (20_000, num)) for k, num in ((x_key, 8), (y_key, 8), (slope_key, 9))]
    knots = (*(_places(a, 5.0) for a in logits[:2]), 1e-3 + jax.nn.softplus(logits[2]))
    image = jax.random.uniform(image_key, (20_000,), minval=-4.9, maxval=4.9)
    inverse = jax.jit(functools.partial(rational_quadratic, inverse=True))
    found = inverse(image, *knots)
    with jax.enable_x64(True):
        image, *knots = (np.asarray(a, np.float64) for a in (image, *knots))
        digit = 1.0 + 2.0**-24 * np.array([1.0, -1.0] * 4 + [1.0])
        exact, of_image = np.asarray(inverse(image, *knots)), np.asarray(inverse(image * digit[0], *knots))
        of_heights = np.asarray(inverse(image, knots[0], knots[1] * digit, knots[2]))
    effect = np.abs(of_image - exact) + np.abs(of_heights - exact)
    assert np.all(np.abs(np.asarray(found, np.float64) - exact) < 30 * effect + 1e-5)


@pytest.mark.parametrize("flow", FLOWS)
def test_extreme_contexts_stay_finite(flow, key):
    params = jax.jit(flow.init, static_argnums=1)(key, 3)
    z = jnp.concatenate([jax.random.normal(key, (5, 3)), jnp.full((1, 3), 50.0)])

    def total(context, z):
        y, log_det = through(flow.maps(params, context, 3), z)
        return jnp.sum(jnp.tanh(y)) + jnp.sum(log_det)

    value_and_grads = jax.jit(jax.value_and_grad(total, (0, 1)))
    for size in (1e2, -1e4, 1e8):
        value, grads = value_and_grads(jnp.full(flow.context_size(3), size), z)
        assert jnp.isfinite(value), size
        chex.assert_tree_all_finite(grads)


def test_mistakes_are_named():
    for make_one, message in [
        (lambda: jv.Planar(num_layers=0), "Planar.num_layers is 0"),
        (lambda: jv.SplineCoupling(bins=1), "SplineCoupling.bins is 1"),
        (lambda: jv.SplineCoupling(bound=0.0), "SplineCoupling.bound"),
        (lambda: jv.InverseAutoregressive(hidden=0), "InverseAutoregressive.hidden"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_one()
