"""The step: what it computes, what it donates, and that cutting the loop changes no bit."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxvae as jv
from jaxvae import training
from jaxvae.fingerprints import digest

MODEL = jv.VAE(event_shape=(8,), latent_dim=2, encoder=jv.MLP(hidden=(16,)), decoder=jv.MLP(hidden=(16,)))
ORDER = jax.random.permutation(jax.random.key(1), 50).reshape(5, 10)
X = (np.random.default_rng(0).random((50, 8)) < 0.3).astype(np.uint8)


def start(optimizer, **kwargs):
    return jv.TrainState.create(MODEL.init(jax.random.key(0)), optimizer, **kwargs)


def test_one_step_is_the_optimizers_update(key):
    batch, objective, sgd = jnp.asarray(X[:10], jnp.float32), jv.ELBO(beta=0.5, num_samples=3), optax.sgd(0.1)
    params = MODEL.init(jax.random.key(0))
    state, metrics = jv.make_train_step(MODEL, objective, sgd)(start(sgd), batch, key)

    def loss(p):
        return -objective(MODEL.evidence(p, jax.random.fold_in(key, 0), batch, num_samples=3)).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, optax.tree.norm(grads), rtol=1e-4)
    # β is in the loss alone
    np.testing.assert_allclose(metrics.elbo, -(metrics.distortion + metrics.rate), rtol=1e-6)
    np.testing.assert_allclose(-metrics.loss, -(metrics.distortion + 0.5 * metrics.rate), rtol=1e-5)
    assert state.step == 1


def test_a_step_donates_its_state_and_nothing_of_the_callers(key):
    adam = optax.adam(1e-3)
    params = MODEL.init(jax.random.key(0))
    state = jv.TrainState.create(params, adam, ema=True)
    step = jv.make_train_step(MODEL, jv.ELBO(), adam, ema_decay=0.9)
    step(state, jnp.asarray(X, jnp.float32), key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("optimizer", [optax.contrib.prodigy(), optax.contrib.cocob()], ids=["prodigy", "cocob"])
def test_an_optimizers_own_copy_of_the_parameters_is_one(optimizer, key):
    """The first keeps the initial parameters, the second keeps one array twice."""
    params = MODEL.init(jax.random.key(0))
    step = jv.make_train_step(MODEL, jv.ELBO(), optimizer)
    state, _ = step(jv.TrainState.create(params, optimizer), jnp.asarray(X, jnp.float32), key)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    step(state, jnp.asarray(X, jnp.float32), key)


def test_no_step_changes_what_is_kept_of_the_data(key):
    """Weight decay does not, and the data's units do not count in the norm by which an update is clipped."""
    model = dataclasses.replace(MODEL, likelihood=jv.Standardized())
    mean, std = jnp.linspace(-3e4, 7e5, 8), jnp.linspace(1e3, 3e5, 8)
    x = mean[None] + std[None] * X
    params = model.init(key, data_mean=mean, data_std=std)
    kept = params["likelihood"]["units"]
    for optimizer in (
        optax.adamw(0.1, weight_decay=0.5),
        optax.chain(optax.add_decayed_weights(1e-3), optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    ):
        state = jv.TrainState.create(params, optimizer)
        state, _ = jv.make_train_step(model, jv.ELBO(), optimizer)(state, x, key)
        chex.assert_trees_all_equal(state.params["likelihood"]["units"], kept)
        moved = jax.tree.map(jnp.subtract, state.params, params)
        del moved["likelihood"]
        assert optax.tree.norm(moved) > 0.09  # clipping leaves 0.1 of a step

    def loss(params):
        return -jv.ELBO()(model.evidence(params, key, x)).mean()

    of_units = jax.jit(jax.grad(loss))(params)["likelihood"]["units"]
    chex.assert_trees_all_equal(of_units, jax.tree.map(jnp.zeros_like, kept))


def test_the_key_is_folded_with_the_step(key):
    frozen = optax.sgd(0.0)
    step = jv.make_train_step(MODEL, jv.ELBO(), frozen)
    state, first = step(start(frozen), jnp.asarray(X, jnp.float32), key)
    _, second = step(state, jnp.asarray(X, jnp.float32), key)
    assert first.distortion != second.distortion
    np.testing.assert_allclose(first.rate, second.rate)


def test_the_average_of_the_parameters(key):
    sgd = optax.sgd(0.5)
    step = jv.make_train_step(MODEL, jv.ELBO(), sgd, ema_decay=0.75)
    state = start(sgd, ema=True)
    expected = jax.tree.map(np.asarray, state.params)
    for _ in range(3):
        state, _ = step(state, jnp.asarray(X, jnp.float32), key)
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * np.asarray(p), expected, state.params)
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-6)
    assert state.eval_params is state.ema
    without = start(sgd)
    assert without.eval_params is without.params
    with pytest.raises(ValueError, match="ema=True"):
        step(start(sgd), jnp.asarray(X, jnp.float32), key)
    with pytest.raises(ValueError, match=r"ema_decay is 1\.0"):
        jv.make_train_step(MODEL, jv.ELBO(), sgd, ema_decay=1.0)


def test_kl_warm_up_moves_the_loss_and_not_the_elbo(key):
    frozen = optax.sgd(0.0)
    objective = jv.ELBO(beta_schedule=optax.linear_schedule(0.0, 1.0, 2))
    step = jv.make_train_step(MODEL, objective, frozen)
    state = start(frozen)
    for beta in (0.0, 0.5, 1.0, 1.0):
        state, m = step(state, jnp.asarray(X, jnp.float32), key)
        np.testing.assert_allclose(m.loss, m.distortion + beta * m.rate, rtol=1e-5)
        np.testing.assert_allclose(m.elbo, -(m.distortion + m.rate), rtol=1e-5)


def binarize(key, x):
    return jv.DynamicBinarization()(key, x, 2.0)


def train(cuts, *, fused, order=ORDER, **options):
    optimizer = optax.adam(1e-2)
    step = jv.make_train_step(MODEL, jv.ELBO(), optimizer, preprocess=binarize, **options)
    advance = training.make_advance(step, fused=fused)
    state, totals = start(optimizer), training.Totals.zero()
    batches = training.Resident(training.Examples.of(X), order)
    for num in cuts:
        state, totals = advance(state, totals, batches, jax.random.key(2), num)
    return state, totals


@pytest.mark.parametrize("fused", [True, False])
def test_how_steps_are_cut_into_dispatches_changes_no_bit(fused):
    whole, totals = train([25], fused=fused)
    for cuts in ([1] * 25, [3, 1, 9, 12]):
        other, other_totals = train(cuts, fused=fused)
        assert digest(other) == digest(whole)
        assert digest(other_totals) == digest(totals)
    assert digest(train([25], fused=not fused)[0]) == digest(whole)
    assert int(whole.step) == int(totals.num_steps) == 25
    assert totals.means()["elbo"] == pytest.approx(-totals.means()["distortion"] - totals.means()["rate"], rel=1e-5)


def test_a_block_has_the_batches_of_its_steps():
    whole, _ = train([5], fused=True)
    optimizer = optax.adam(1e-2)
    advance = training.make_advance(jv.make_train_step(MODEL, jv.ELBO(), optimizer, preprocess=binarize), fused=True)
    state, totals = start(optimizer), training.Totals.zero()
    for first, num in ((0, 2), (2, 3)):
        block = training.Block(jnp.asarray(X)[ORDER[first : first + num]], jnp.int32(first))
        state, totals = advance(state, totals, block, jax.random.key(2), num)
    assert digest(state) == digest(whole)


def test_the_metrics_of_an_epoch_are_the_means_of_its_steps():
    _, totals = train([5], fused=True)
    optimizer = optax.adam(1e-2)
    step = jv.make_train_step(MODEL, jv.ELBO(), optimizer, preprocess=binarize)
    state, each = start(optimizer), []
    for rows in ORDER[:5]:
        state, metrics = step(state, jnp.asarray(X)[rows], jax.random.key(2))
        each.append(np.array(metrics, float))
    means = dict(zip(training.Metrics._fields, np.mean(each, axis=0), strict=True))
    assert totals.means() == pytest.approx(means, rel=1e-5)


def test_parts_are_averaged(key):
    """The gradient over two parts is the mean of theirs, each with its own key."""
    sgd, batch = optax.sgd(0.1), jnp.asarray(X[:10])
    params = MODEL.init(jax.random.key(0))
    step = jv.make_train_step(MODEL, jv.ELBO(), sgd, preprocess=binarize, num_parts=2)
    state, metrics = step(start(sgd), batch, key)
    preprocess_key, step_key = (jax.random.fold_in(k, 0) for k in jax.random.split(key))

    def loss(p):
        bounds = []
        for i, rows in enumerate((batch[:5], batch[5:])):
            x = binarize(jax.random.fold_in(preprocess_key, i), rows)
            bounds.append(jv.ELBO()(MODEL.evidence(p, jax.random.fold_in(step_key, i), x)))
        return -jnp.concatenate(bounds).mean()

    value, grads = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, optax.tree.norm(grads), rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="a batch of 10 examples can't be cut into 3 equal parts"):
        jv.make_train_step(MODEL, jv.ELBO(), sgd, num_parts=3)(start(sgd), batch, key)


def test_an_epoch_sees_every_example_once():
    seen = []
    frozen = optax.sgd(0.0)

    def spy(key, x):
        jax.debug.callback(lambda a: seen.append(np.asarray(a)), x[:, 0])
        return x.astype(jnp.float32)

    step = jv.make_train_step(MODEL, jv.ELBO(), frozen, preprocess=spy)
    x = np.tile(np.arange(50)[:, None], (1, 8))
    batches = training.Resident(training.Examples.of(x), ORDER)
    advance = training.make_advance(step, fused=False)
    advance(start(frozen), training.Totals.zero(), batches, jax.random.key(2), 5)
    jax.effects_barrier()
    assert sorted(np.concatenate(seen).tolist()) == list(range(50))


def test_the_first_step_that_is_not_finite_is_named():
    totals = training.Totals.zero()
    good = training.Metrics(*(jnp.float32(1.0) for _ in training.Metrics._fields))
    bad = good._replace(rate=jnp.float32("nan"), elbo=jnp.float32("nan"), loss=jnp.float32("nan"))
    worse = good._replace(distortion=jnp.float32("inf"))
    gradient = good._replace(grad_norm=jnp.float32("inf"))
    for step, metrics in enumerate([good, good, bad, worse, good]):
        totals = totals.add(metrics, jnp.int32(step))
    assert totals.failure() == "step 2: the rate is nan"
    assert training.Totals.zero().add(gradient, jnp.int32(7)).failure() == "step 7: the grad norm is inf"
    assert training.Totals.zero().add(good, jnp.int32(0)).failure() is None


def test_fusing_is_chosen_by_the_network():
    """On a CPU our convolutions are products, which a loop does not slow down; linen's are slower in a loop."""
    if jax.default_backend() != "cpu":
        pytest.skip("the slow path is the CPU backend's")
    for encoder, pays in ((jv.MLP(), True), (jv.ConvEncoder(), True), (nn.Conv(3, (3, 3)), False)):
        model = jv.VAE(event_shape=(8, 8, 1), latent_dim=2, encoder=encoder, decoder=jv.ConvDecoder())
        assert training.fusing_pays(model) == pays


def test_training_learns(key):
    """Four patterns have an entropy of log 4, which no bound can beat; independent pixels would cost far more."""
    patterns = jnp.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1, 0], [0] * 8])
    x = jnp.tile(patterns, (25, 1)).astype(jnp.float32)
    adam = optax.adam(1e-2)
    step, state = jv.make_train_step(MODEL, jv.ELBO(), adam), start(adam)
    for _ in range(1500):
        state, metrics = step(state, x, key)
    p = np.clip(np.asarray(patterns).mean(0), 1e-9, 1 - 1e-9)
    independent = -np.sum(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert -0.5 * (independent + np.log(4)) < metrics.elbo < -np.log(4) + 0.1


def test_what_is_no_choice_is_named():
    with pytest.raises(ValueError, match=r"objective is the class IWAE; write an object, such as IWAE\(\)"):
        jv.make_train_step(MODEL, jv.IWAE, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"estimator is the class Pathwise; write an object"):
        jv.make_train_step(MODEL, jv.IWAE(), optax.sgd(0.1), estimator=jv.Pathwise)
    with pytest.raises(ValueError, match=r"model is of the type \S+ELBO; write a VAE"):
        jv.make_train_step(jv.ELBO(), MODEL, optax.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"optimizer is Adam\(\.\.\.\), which is not one of optax's; write optax\.adam"
    ):
        jv.make_train_step(MODEL, jv.IWAE(), jv.Adam())
    with pytest.raises(ValueError, match=r"optimizer is Adam\(\.\.\.\), which is not one of optax's"):
        jv.TrainState.create({}, jv.Adam())
    with pytest.raises(ValueError, match=r"preprocess is Raw\(\); write its \.bind\(dataset\.values\)"):
        jv.make_train_step(MODEL, jv.IWAE(), optax.sgd(0.1), preprocess=jv.Raw())


@pytest.mark.parametrize(
    ("x", "optimizer", "preprocess", "message"),
    [
        (X[:0], optax.sgd(0.1), None, r"the batch has the shape \(0, 8\); write one or more examples"),
        (X, optax.adam(0.1), None, "the state is not this optimizer's"),
        (X, optax.sgd(0.1), lambda key, x: x[:1], r"makes the shape \(1, 8\) of 50 examples; write one event for each"),
    ],
)
def test_what_a_step_cannot_take_is_named(x, optimizer, preprocess, message, key):
    step = jv.make_train_step(MODEL, jv.ELBO(), optimizer, preprocess=preprocess)
    with pytest.raises(ValueError, match=message):
        step(start(optax.sgd(0.1)), x, key)


def test_arguments_in_another_order_are_named(key):
    step, state = jv.make_train_step(MODEL, jv.ELBO(), optax.sgd(0.1)), start(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"the batch is a \S+ without axes; write step\(state, batch, key\)"):
        step(state, key, X)
    with pytest.raises(ValueError, match="the batch is a list without axes"):
        step(state, [[0.0] * 8], key)
    with pytest.raises(ValueError, match=r"the state is a dict; write TrainState\.create\(params, optimizer\)"):
        step(state.params, X, key)


def test_an_optimizer_may_ask_for_the_loss(key):
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    state, metrics = jv.make_train_step(MODEL, jv.ELBO(), optimizer, num_parts=5)(start(optimizer), X, key)
    np.testing.assert_array_equal(state.opt_state[1].best_value, metrics.loss)
    sam = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1))  # takes other arguments, but not this one
    jv.make_train_step(MODEL, jv.ELBO(), sam)(start(sam), X, key)


def test_an_objective_that_is_no_number_for_each_example_is_named(key):
    class Mean(jv.ELBO):
        def __call__(self, evidence):
            return jnp.mean(super().__call__(evidence))

    state = jv.TrainState.create(MODEL.init(key), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"Mean gives the shape \(\) for \d+ examples; write one number for each"):
        jv.make_train_step(MODEL, Mean(), optax.sgd(0.1))(state, X, key)
