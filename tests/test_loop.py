"""The loop of a run: what it keeps, what it refuses to keep, and what it says meanwhile."""

import contextlib
import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae as jv
from jaxvae import evaluation
from jaxvae.checkpoints import Checkpoints, Mismatch
from jaxvae.experiment import loop, outcome, restoring, workdir
from jaxvae.experiment.session import Trainer
from jaxvae.experiment.stopping import Diverged
from jaxvae.training import Metrics, Totals

NETWORKS = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}

DIGITS = jv.Data(name="digits")


def trainer_of(*, data=DIGITS, data_mean_bias=True, **parts):
    model = jv.VAE(latent_dim=2, event_shape=(8, 8, 1), **NETWORKS, **parts)
    config = jv.Experiment(model=model, data=data, batch_size=128, num_epochs=1, data_mean_bias=data_mean_bias)
    return Trainer.of(config, jv.data.load(config.data))


@pytest.mark.parametrize("preprocess", [jv.Raw(), jv.Scaling(), jv.Dequantization()])
def test_units_are_those_of_the_training_split(preprocess):
    """After preprocessing, but without the noise that it adds."""
    trainer = trainer_of(
        data=dataclasses.replace(DIGITS, preprocess=preprocess), likelihood=jv.Standardized(), data_mean_bias=False
    )
    x = trainer.dataset.train.x
    scale, shift = {jv.Raw: (1.0, 0.0), jv.Scaling: (16.0, 0.0), jv.Dequantization: (17.0, 0.5)}[type(preprocess)]
    kept = trainer.new_session().state.params["likelihood"]["units"]
    np.testing.assert_allclose(kept["mean"], (x.mean(axis=0) + shift) / scale, rtol=1e-5)
    std = x.std(axis=0) / scale
    np.testing.assert_allclose(kept["std"], np.where(std > 0, std, 1.0), rtol=1e-5)
    assert not all(std.reshape(-1))  # some entries do not vary


def run(trainer, session, folder, *, best_before=()):
    """Trains to the end; returns the steps of the checkpoints that are left: the newest, and the best."""
    with (
        contextlib.closing(Checkpoints(folder / "latest")) as latest,
        contextlib.closing(Checkpoints(folder / "best")) as best,
    ):
        for step in best_before:
            best.save(step, session.state.eval_params)
        loop.run_to_the_end(trainer, session, latest, best, workdir.MetricsLog(folder, 0), [])
        return latest.steps, best.steps


def test_a_best_model_of_a_future_that_was_left_does_not_outlive_the_next(tmp_path):
    trainer = trainer_of()
    assert run(trainer, trainer.new_session(), tmp_path, best_before=(3, 500)) == ([10], [10, 3])


def test_an_optimizer_that_has_stopped_is_not_saved(tmp_path):
    """With an infinite second moment no parameter moves any more, while every metric stays finite."""
    trainer = trainer_of()
    session = trainer.new_session()
    state = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, jnp.inf) if ".nu" in jax.tree_util.keystr(path) else leaf,
        session.state.opt_state,
    )
    with pytest.raises(Diverged, match="step 10: the optimizer's state is not finite; no checkpoint was saved"):
        run(trainer, session._replace(state=session.state._replace(opt_state=state)), tmp_path)


def test_a_plain_autoencoder_is_told_no_bound(tmp_path):
    totals = Totals.zero().add(Metrics(*[jnp.float32(1.0)] * len(Metrics._fields)), jnp.int32(0))
    log = workdir.MetricsLog(tmp_path, 0)
    gaussian = {"likelihood": jv.Gaussian(variance=jv.Fixed())}
    told = loop.Dispatcher(trainer_of(posterior=jv.Delta(), **gaussian)).describe(log, totals)
    assert told == "distortion 1.00"
    assert loop.Dispatcher(trainer_of()).describe(log, totals) == "elbo 1.00  rate 1.00  distortion 1.00"


def test_a_long_epoch_loses_no_digits(key):
    """Of 300,000 steps, against the same numbers summed in float64."""

    def add(i, totals):
        value = 98.3 + jax.random.normal(jax.random.fold_in(key, i))
        return totals.add(Metrics(*[value] * len(Metrics._fields)), i)

    num = 300_000
    means = jax.jit(lambda: jax.lax.fori_loop(0, num, add, Totals.zero()))().means()
    noise = jax.jit(jax.vmap(lambda i: 98.3 + jax.random.normal(jax.random.fold_in(key, i))))(jnp.arange(num))
    assert means["elbo"] == pytest.approx(np.mean(np.asarray(noise, np.float64)), abs=1e-5)


def test_a_run_of_an_earlier_version_is_opened(tmp_path):
    trainer = trainer_of()
    session = trainer.new_session()
    old = session._replace(totals=session.totals._replace(sums=session.totals.sums[0]))
    with contextlib.closing(restoring.open_checkpoints(tmp_path, "latest", trainer.experiment)) as latest:
        latest.save(0, old)
    params, _ = restoring.restore_last_params(trainer.experiment, tmp_path)
    chex.assert_trees_all_equal(params, session.state.params)


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path):
    """Its totals had no compensation, in a run and (with an axis of replicas) in a sweep."""
    now = {"w": jnp.ones(3)}, Totals.zero()._replace(num_steps=jnp.int32(7))
    for before, saved in (
        ("run", now),
        ("sweep", jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), now)),
    ):
        weights, totals = saved
        old = weights, totals._replace(sums=totals.sums[..., 0, :] + 5.0)
        with contextlib.closing(Checkpoints(tmp_path / before)) as checkpoints:
            checkpoints.save(1, old)
        with contextlib.closing(Checkpoints(tmp_path / before)) as checkpoints:
            _, found = restoring.restore_any(checkpoints, jax.eval_shape(lambda saved=saved: saved)).tree
            assert (found.sums.shape, found.num_steps.max()) == (totals.sums.shape, 7)
            np.testing.assert_array_equal(found.sums[..., 0, :], 5.0)
            np.testing.assert_array_equal(found.sums[..., 1, :], 0.0)
            with pytest.raises(Mismatch, match="does not fit this run"):
                restoring.restore_any(checkpoints, jax.eval_shape(lambda saved=saved: saved[1]))


@pytest.mark.parametrize(
    ("parts", "active"), [({}, 0), ({"posterior": jv.VonMisesFisher(), "prior": jv.UniformSphere()}, 1)]
)
def test_active_units_are_measured_by_the_priors_variance(parts, active):
    """Of a latent whose posterior mean has the variance 0.006: more than 1 % of 1 / 2, and less than 1 % of 1."""
    one, code = np.ones(4), np.array([[-1.0, 0.0], [1.0, 0.0]] * 2) * np.sqrt(0.006)
    terms = evaluation.PerExample(one, one, one, code, None, one)
    assert outcome.summarize(trainer_of(**parts), terms)["active_units"] == active


@pytest.mark.parametrize(("seconds", "num"), [(0.001, 500), (0.2, 4), (0.8, 4), (1.5, 2), (30.0, 1)])
def test_steps_that_share_a_dispatch(seconds, num):
    """Half a second of steps, or up to four steps that take at most four seconds."""
    pace = loop.Pace(0.5)
    for _ in range(20):
        pace.add(pace.num_steps, pace.num_steps * seconds)
    assert pace.num_steps == num
