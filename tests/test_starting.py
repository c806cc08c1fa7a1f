"""Runs that start from the parameters of a model that was trained before."""

import contextlib
import dataclasses
import shutil

import chex
import jax
import numpy as np
import pytest

import jaxvae as jv
from jaxvae.checkpoints import Checkpoints
from jaxvae.experiment import remarks, run, stopping, sweep, workdir
from jaxvae.experiment.command.benchmark import benchmark_main
from jaxvae.experiment.sweep import training

MLP = jv.MLP(hidden=(4,))
MODEL = jv.VAE(latent_dim=2, encoder=MLP, decoder=MLP, event_shape=(8, 8, 1))
CONFIG = jv.Experiment(
    model=dataclasses.replace(MODEL, event_shape=None), data=jv.Data(name="digits"), num_epochs=1, ema_decay=0.9
)


@pytest.fixture
def published(tmp_path, key):
    """The folder of a model with parameters that no run of `CONFIG` would draw, and these parameters."""
    params = jax.tree.map(lambda leaf: leaf + 0.1, MODEL.init(key))
    jv.save_model(tmp_path / "model", MODEL, params)
    return tmp_path / "model", params


def starting(path):
    return dataclasses.replace(CONFIG, start_from=str(path))


def checkpoints_of(runs, folder):
    return contextlib.closing(Checkpoints(runs.unfinished(folder)))


def test_a_run_starts_from_a_models_parameters_and_goes_on_without_it(published, tmp_path):
    """So does the average of the parameters; the optimizer's state is that of any new run."""
    path, params = published
    trainer = run.prepare(starting(path), tmp_path / "run")
    drawn = run.prepare(CONFIG, tmp_path / "drawn")
    state, new = trainer.new_session().state, drawn.new_session().state
    chex.assert_trees_all_equal((state.params, state.ema), (params, params))
    chex.assert_trees_all_equal(state.opt_state, new.opt_state)
    first = run.fit(trainer, tmp_path / "run", pictures=False)
    shutil.rmtree(path)
    again = run.train(starting(path), tmp_path / "run", pictures=False)
    assert again["params_sha256"] == first["params_sha256"]


def test_a_run_that_has_saved_nothing_does_not_start_from_another_model(published, tmp_path, key):
    path, _ = published
    run.prepare(starting(path), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "latest").mkdir(parents=True)  # killed in the first epoch
    run.prepare(starting(path), tmp_path / "run")
    shutil.rmtree(path)
    with pytest.raises(ValueError, match=r"start_from=.*model: .*config\.json can't be read"):
        run.prepare(starting(path), tmp_path / "run")
    jv.save_model(path, MODEL, MODEL.init(key))
    with pytest.raises(ValueError, match=r"holds a run that started from other parameters than start_from has now"):
        run.prepare(starting(path), tmp_path / "run")


def test_all_runs_of_a_sweep_start_from_them_and_go_on_without_them(published, tmp_path):
    path, params = published
    config = dataclasses.replace(starting(path), num_epochs=2, checkpoint_every_epochs=1)

    def prepared():
        return sweep.prepare(sweep.over_seeds(config, 2), tmp_path / "sweep")

    runs = prepared()
    states, _ = sweep.start(runs)
    for i in range(2):
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], states.params), params)
    with pytest.raises(stopping.Interrupted), checkpoints_of(runs, tmp_path / "sweep") as latest:
        training.train(runs, tmp_path / "sweep", latest, received=[15])
    shutil.rmtree(path)
    runs = prepared()
    with checkpoints_of(runs, tmp_path / "sweep") as latest:
        ended = training.train(runs, tmp_path / "sweep", latest, received=[])
    assert int(ended.states.step[0]) == runs.first.num_steps


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"latent_dim": 3}, r"is another model: model\.latent_dim is 2 there and 3 here; choose another"),
        ({"encoder": jv.MLP(hidden=(4,), activation="tanh")}, r"encoder\.activation is relu there and tanh here"),
    ],
)
def test_another_model_is_refused_before_there_is_a_folder(published, part, message, tmp_path):
    config = starting(published[0])
    with pytest.raises(ValueError, match=message):
        run.prepare(dataclasses.replace(config, model=dataclasses.replace(CONFIG.model, **part)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_units_of_the_data_are_not_remarked_where_the_models_are_kept(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(70, 2)) * [1.0, 0.0])
    model = jv.VAE(latent_dim=2, encoder=MLP, decoder=MLP, likelihood=jv.Standardized())
    config = jv.Experiment(model=model, data=jv.Data(name=str(tmp_path / "x.npy"), preprocess=jv.Raw()), batch_size=10)
    dataset = jv.data.load(config.data)
    assert "entry 1 does not vary" in remarks.remark(config, dataset)
    assert remarks.remark(dataclasses.replace(config, start_from="model"), dataset) is None


def test_a_sweep_that_draws_its_parameters_is_known_as_before():
    """Its configs' identity has no `start_from`, a field that an earlier version did not have."""
    assert "start_from" not in workdir.identity(CONFIG)
    assert workdir.identity(starting("/model"))["start_from"] == "/model"


def test_a_model_that_is_not_there_is_one_line_of_the_benchmark(capsys, tmp_path):
    assert benchmark_main([f"--config.start_from={tmp_path}/none"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"start_from={tmp_path}/none: " in said
