"""The optimizers and schedules of a config are optax's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxvae as jv

STEPS = {"num_steps": 100, "steps_per_epoch": 10}


def test_schedules():
    assert jv.Constant().build(0.5, **STEPS)(77) == 0.5
    cosine = jv.Cosine(warmup_epochs=2, final=0.1).build(0.5, **STEPS)
    np.testing.assert_allclose([cosine(0), cosine(10), cosine(20)], [0, 0.25, 0.5], atol=1e-7)
    np.testing.assert_allclose([cosine(60), cosine(100)], [0.5 * 0.55, 0.05], rtol=1e-5)
    assert jv.Cosine(warmup_epochs=1e308).build(0.5, **STEPS)(50) == 0.5  # at most half of the run
    stages = jv.Stages(epochs=(1, 3, 9), factors=(1.0, 0.5, 0.25)).build(0.8, **STEPS)
    np.testing.assert_allclose([stages(s) for s in (0, 9, 10, 39, 40, 500)], [0.8, 0.8, 0.4, 0.4, 0.2, 0.2])
    beyond = jv.Stages(epochs=(2**31, 1), factors=(1.0, 0.5)).build(0.8, **STEPS)
    assert jax.jit(beyond)(jnp.int32(99)) == np.float32(0.8)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (jv.Adam(learning_rate=0.1, b1=0.8, eps=1e-4), optax.adam(0.1, b1=0.8, eps=1e-4)),
        (jv.Adam(learning_rate=0.1, weight_decay=0.3), optax.adamw(0.1, weight_decay=0.3)),
        (
            jv.Muon(learning_rate=0.1, momentum=0.9, weight_decay=0.3),
            optax.contrib.muon(0.1, beta=0.9, weight_decay=0.3, adam_weight_decay=0.3),
        ),
        (jv.SGD(learning_rate=0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        (jv.SGD(learning_rate=0.1, clip_norm=0.5), optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))),
    ],
)
def test_transformations(ours, theirs):
    params, results = {"bias": jnp.array([1.0, -2.0, 3.0]), "kernel": jnp.array([[1.0, 2.0], [-0.5, 1.0]])}, []
    for optimizer in (ours.build(**STEPS), theirs):
        p, state = params, optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(jax.tree.map(lambda a: 2 * a, p), state, p)
            p = optax.apply_updates(p, updates)
        results.append(p)
    chex.assert_trees_all_close(*results, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jv.Adam(learning_rate=float("nan")), "Adam.learning_rate is nan; write a number greater than 0"),
        (lambda: jv.Adam(learning_rate=-1e-3), "Adam.learning_rate is -0.001"),
        (lambda: jv.Adam(clip_norm=0.0), "Adam.clip_norm is 0.0"),
        (lambda: jv.Adam(b1=1.0), r"Adam.b1 is 1.0; write a number of at least 0 and less than 1"),
        (lambda: jv.SGD(momentum=-0.1), "SGD.momentum"),
        (lambda: jv.Muon(momentum=1.0), "Muon.momentum is 1.0"),
        (lambda: jv.Adam(eps=0.0), "Adam.eps is 0.0"),
        (
            lambda: jv.Stages(epochs=(1, 2), factors=(1.0, float("nan"))),
            "write whole, positive epochs and positive, finite",
        ),
        (lambda: jv.Stages(epochs=(1.5, 2), factors=(1.0, 0.1)), "write whole, positive epochs"),
        (lambda: jv.Stages(epochs=5, factors=(1.0,)), "Stages.epochs is 5; write a tuple"),
        (lambda: jv.Cosine(final=2.0), "Cosine.final is 2.0; write a number of at least 0 and at most 1"),
        (lambda: jv.Stages(epochs=(1,), factors=()), "Stages has 1 epochs and 0 factors"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
