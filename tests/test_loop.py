"""The loop of a run: what it keeps, what it refuses to keep, and what it says meanwhile."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

import jaxvae as jv
from jaxvae.checkpoints import Checkpoints
from jaxvae.experiment import loop, workdir
from jaxvae.experiment.session import Trainer
from jaxvae.experiment.stopping import Diverged
from jaxvae.training import Totals

NETWORKS = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}


def trainer_of(**parts):
    model = jv.VAE(latent_dim=2, event_shape=(8, 8, 1), **NETWORKS, **parts)
    config = jv.Experiment(model=model, batch_size=128, num_epochs=1, eval_every_epochs=1)
    return Trainer.of(config, jv.data.load(config.data))


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
    """An infinite second moment moves nothing more, and every metric stays a number."""
    trainer = trainer_of()
    session = trainer.new_session()
    state = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, jnp.inf) if ".nu" in jax.tree_util.keystr(path) else leaf,
        session.state.opt_state,
    )
    with pytest.raises(Diverged, match="step 10: the optimizer's state is not finite; no checkpoint was saved"):
        run(trainer, session._replace(state=session.state._replace(opt_state=state)), tmp_path)


def test_a_plain_autoencoder_is_told_no_bound(tmp_path):
    totals = Totals.zero()._replace(sums=jnp.ones(5), num_steps=jnp.int32(1))
    log = workdir.MetricsLog(tmp_path, 0)
    gaussian = {"likelihood": jv.Gaussian(variance=jv.Fixed())}
    told = loop.Advance(trainer_of(posterior=jv.Delta(), **gaussian)).describe(log, totals)
    assert told == "distortion 1.00"
    assert loop.Advance(trainer_of()).describe(log, totals) == "elbo 1.00  rate 1.00  distortion 1.00"
