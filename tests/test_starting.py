"""Runs that start from the parameters of a model that was trained before."""

import dataclasses
import shutil

import chex
import jax
import pytest

import jaxvae as jv
from jaxvae.experiment import run, sweep

MLP = jv.MLP(hidden=(4,))
CONFIG = jv.Experiment(
    model=jv.VAE(latent_dim=2, encoder=MLP, decoder=MLP), data=jv.Data(name="digits"), num_epochs=1, ema_decay=0.9
)


@pytest.fixture
def published(tmp_path, key):
    """A model that no run of `CONFIG` would draw, and its parameters."""
    model = dataclasses.replace(CONFIG.model, event_shape=(8, 8, 1))
    params = jax.tree.map(lambda leaf: leaf + 0.1, model.init(key))
    jv.save_model(tmp_path / "model", model, params)
    return str(tmp_path / "model"), params


def test_a_run_starts_from_a_models_parameters_and_goes_on_without_it(published, tmp_path):
    """Its average too; the optimizer's state is that of any start."""
    path, params = published
    trainer = run.prepare(dataclasses.replace(CONFIG, start_from=path), tmp_path / "run")
    drawn = run.prepare(CONFIG, tmp_path / "drawn")
    state, new = trainer.new_session().state, drawn.new_session().state
    chex.assert_trees_all_equal((state.params, state.ema), (params, params))
    chex.assert_trees_all_equal(state.opt_state, new.opt_state)
    first = run.fit(trainer, tmp_path / "run", pictures=False)
    shutil.rmtree(path)
    again = run.train(dataclasses.replace(CONFIG, start_from=path), tmp_path / "run", pictures=False)
    assert again["params_sha256"] == first["params_sha256"]


def test_all_runs_of_a_sweep_start_from_them(published, tmp_path):
    path, params = published
    runs = sweep.prepare(sweep.over_seeds(dataclasses.replace(CONFIG, start_from=path), 2), tmp_path / "sweep")
    states, _ = sweep.start(runs)
    for i in range(2):
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], states.params), params)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"latent_dim": 3}, r"is another model: model\.latent_dim is 2 there and 3 here; choose another"),
        (
            {"encoder": jv.MLP(hidden=(4,), activation="tanh")},
            r"encoder\.activation is relu there and tanh here",
        ),
    ],
)
def test_another_model_is_refused_before_there_is_a_folder(published, part, message, tmp_path):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **part), start_from=published[0])
    with pytest.raises(ValueError, match=message):
        run.prepare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
