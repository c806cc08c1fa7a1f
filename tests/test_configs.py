"""Every config trains for two steps on its own shapes, and can be written and read as JSON."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

import jaxvae as jv
from jaxvae import files
from jaxvae.data import Dataset, Split
from jaxvae.experiment import loop, serialization
from jaxvae.experiment.command import load_config
from jaxvae.experiment.session import Trainer
from jaxvae.typing import Support

CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def dataset_like(name):
    shape, high = {"digits": ((8, 8, 1), 16), "mnist": ((28, 28, 1), 255), "binarized_mnist": ((28, 28, 1), 1)}[name]
    x = np.random.default_rng(0).integers(0, high + 1, (256, *shape), dtype=np.uint8)
    return Dataset(Split(x, None), Split(x[:9], None), Split(x[:9], None), Support(0.0, float(high), integer=True))


# The same networks, losses and optimizers are in others.
ALIKE = ("burda_iwae", "burda_vae", "fixed_vae")


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.long] * (p.stem in ALIKE), id=p.stem) for p in CONFIGS]
)
def test_one_step_of_every_config(path):
    experiment = load_config(path)
    dataset = dataset_like(experiment.data.name)
    experiment = dataclasses.replace(experiment, batch_size=min(experiment.batch_size, dataset.sizes["train"]))
    trainer = Trainer.of(experiment.fit_to(dataset), dataset)
    session = trainer.new_session()
    before = jax.tree.map(np.asarray, session.state.params)
    advance = loop.Dispatcher(trainer)
    for step in range(2):  # a warm-up starts at a learning rate of 0
        session = advance(session, step)
    assert int(session.state.step) == 2
    assert np.isfinite(list(session.totals.means().values())).all()
    for part in ("encoder", "decoder"):
        moved = jax.tree.map(lambda a, b: np.any(a != b), before[part], session.state.params[part])
        assert all(jax.tree.leaves(moved)), (part, moved)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_data(path):
    experiment = load_config(path)
    data = json.loads(json.dumps(serialization.to_data(experiment)))
    assert serialization.from_data(data) == experiment
    assert serialization.differences(data, serialization.to_data(experiment)) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_a_short_page(path):
    text = path.read_text()
    assert len(text[text.index("def get_config") :].splitlines()) <= 25
    docstring = text[: text.index("import jaxvae")]
    assert f"python scripts/train.py --config=configs/{path.name}" in docstring
    assert re.search(r"Expected: .*-?\d", docstring)
    assert re.search(r"[1-9]\d* (s|seconds|minutes)", docstring)
    assert not re.search(r"-0\b(?!\.)", docstring)


def test_burdas_output_bias():
    """The one-layer network starts at the training mean of each pixel."""
    experiment = load_config(ROOT / "configs" / "binarized_mnist.py")
    dataset = dataset_like("binarized_mnist")
    trainer = Trainer.of(experiment.fit_to(dataset), dataset)
    bias = trainer.new_session().state.params["decoder"]["output"]["bias"]
    mean = np.clip(dataset.train.x.mean(0).ravel(), 0.001, 0.999)
    np.testing.assert_allclose(jax.nn.sigmoid(bias), mean, rtol=1e-5)


def test_what_weighs_draws_needs_a_density():
    experiment = load_config(ROOT / "configs" / "autoencoder.py")
    with pytest.raises(ValueError, match=r"IWAE weighs draws by the density q\(z\|x\), but Delta has none"):
        dataclasses.replace(experiment, objective=jv.IWAE()).fit_to(dataset_like("digits"))
    with pytest.raises(ValueError, match="num_groups is 3; write a divisor of num_samples="):
        jv.MIWAE(num_samples=4, num_groups=3)


def with_objective(objective):
    return dataclasses.replace(load_config(ROOT / "configs" / "digits.py"), objective=objective)


@pytest.mark.parametrize("objective", [jv.IWAE(), jv.MIWAE(), jv.PIWAE(), jv.CIWAE(), jv.Renyi(), jv.CUBO()])
def test_every_objective_is_data(objective):
    experiment = with_objective(objective)
    assert serialization.from_data(json.loads(json.dumps(serialization.to_data(experiment)))) == experiment


@pytest.mark.parametrize("objective", [jv.IWAE(), jv.PIWAE()])
def test_objectives_of_one_and_of_two_gradients_train(objective):
    experiment = with_objective(objective)
    dataset = dataset_like("digits")
    trainer = Trainer.of(experiment.fit_to(dataset), dataset)
    session = trainer.new_session()
    session = loop.Dispatcher(trainer)(session, 0)
    means = session.totals.means()
    assert np.isfinite(list(means.values())).all()
    assert -means["loss"] > means["elbo"] + 0.5  # a tighter bound, from the same draws


def test_a_class_of_ones_own(tmp_path):
    import flax.linen as nn

    class Mine(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x):
            return jnp.tanh(nn.Dense(self.width)(x.reshape(len(x), -1)))

    model = jv.VAE(latent_dim=2, encoder=Mine(width=4), decoder=jv.MLP())
    experiment = jv.Experiment(model=model)
    with pytest.raises(ValueError, match=r"Mine is not registered; write @jaxvae\.register"):
        serialization.to_data(experiment)
    jv.register(Mine)
    files.write_json(tmp_path / "config.json", serialization.to_data(experiment))
    assert serialization.read(tmp_path / "config.json") == experiment
    with pytest.raises(ValueError, match="the name MLP is taken"):
        jv.register(type("MLP", (nn.Module,), {}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read as a config"),
        ('{"class": "os.system"}', "unknown class 'os.system'"),
        ('{"class": "Adam", "b3": 1}', "the config's Adam can't be made"),
        ('{"class": "Adam"}', "config.json is not the config of a run; choose another folder"),
        ('{"class": ["a"]}', "unknown class"),
        ('{"my": 1}', r"config\.json: the config has an object without a class"),
        ("[" * 100_000, "can't be read as a config"),
    ],
)
def test_a_bad_config_json_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        serialization.read(path)


def test_initial_outputs_are_looked_at_where_a_run_has_them():
    """Those that do not fit are refused before anything is compiled, unless the run starts without them."""

    class Misfit(jv.Bernoulli):
        def initial_outputs(self, data_mean):
            return jnp.zeros(3)

    mlp = jv.MLP(hidden=(4,))
    experiment = jv.Experiment(model=jv.VAE(latent_dim=2, encoder=mlp, decoder=mlp, likelihood=Misfit()))
    source = jv.data.find(jv.Data())
    with pytest.raises(ValueError, match=r"the decoder does not fit an example of shape \(8, 8, 1\)"):
        experiment.fit_to(source)
    dataclasses.replace(experiment, data_mean_bias=False).fit_to(source)
    with pytest.raises(ValueError, match=r"data is 'digits'; write jaxvae\.Data"):
        jv.data.find("digits")
