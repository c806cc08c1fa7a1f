"""The programs that only accelerators run: they compute the same as a CPU's, and can be lowered for a TPU and a GPU."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_configs import CONFIGS, dataset_like

import jaxvae as jv
from jaxvae import training
from jaxvae.experiment import feed
from jaxvae.experiment.command import load_config
from jaxvae.experiment.session import Trainer


@pytest.fixture
def backend(monkeypatch):
    """Sets the backend that the library sees; JAX itself stays on the CPU."""

    def pretend(name):
        jax.clear_caches()  # of functions that were traced for another
        monkeypatch.setattr(jax, "default_backend", lambda: name)

    yield pretend
    jax.clear_caches()


@pytest.mark.parametrize("shape", [(), (3,), (28, 28, 1), (8, 4, 4)])
def test_rows_of_a_tpu_fill_its_lanes(backend, shape):
    x = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    indices = jnp.array([[4, 0, 4], [5, 1, 2]])
    for name, multiple in (("cpu", 1), ("gpu", 1), ("tpu", 128)):
        backend(name)
        examples = training.Examples.of(x)
        length = examples.rows.shape[1]
        assert length % multiple == 0 and length - multiple < x[0].size <= length
        assert training.Examples.num_bytes(x.shape, x.dtype) == examples.rows.nbytes
        np.testing.assert_array_equal(examples[indices], x[np.asarray(indices)])


def test_a_set_is_streamed_when_its_rows_do_not_fit(backend):
    x = np.zeros((100, 8), np.float32)
    for name, kind in (("cpu", training.Resident), ("tpu", training.Block)):
        backend(name)
        assert isinstance(feed.make_feed(x, jax.random.key(0), batch_size=10, memory=x.nbytes)(0)[0], kind)


@pytest.mark.parametrize(
    "networks",
    [(jv.MLP(hidden=(16,)), jv.MLP(hidden=(16,))), (jv.ConvEncoder(channels=(4, 6)), jv.ConvDecoder(channels=(6, 4)))],
    ids=["MLP", "convolutions"],
)
def test_accelerators_train_as_a_cpu_does(backend, networks):
    encoder, decoder = networks
    model = jv.VAE(event_shape=(12, 12, 1), latent_dim=3, encoder=encoder, decoder=decoder)
    params = jax.jit(model.init)(jax.random.key(0))
    x = np.random.default_rng(0).integers(0, 256, (64, 12, 12, 1), dtype=np.uint8)
    order, sgd = jax.random.permutation(jax.random.key(1), 64).reshape(4, 16), optax.sgd(1e-2)

    def train():
        step = jv.make_train_step(
            model, jv.IWAE(num_samples=3), sgd, preprocess=lambda key, x: jv.DynamicBinarization()(key, x, 255.0)
        )
        advance = training.make_advance(step, fused=True)
        state = jv.TrainState.create(params, sgd)
        batches = training.Resident(training.Examples.of(x), order)
        state, totals = advance(state, training.Totals.zero(), batches, jax.random.key(2), 3)
        return state.params, totals.means()

    expected = train()
    for name in ("tpu", "gpu"):
        backend(name)
        chex.assert_trees_all_close(train(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_can_be_lowered(backend, path):
    """The training loop, also with 16-bit products, the evaluator's terms and generation; nothing is compiled.

    What the library does on a TPU alone are reshapes and padded rows, so its programs are lowered for a GPU too.
    """
    experiment = load_config(path)
    dataset = dataset_like(experiment.data.name)
    experiment = dataclasses.replace(experiment, batch_size=8).fit_to(dataset)
    backend("tpu")
    for compute in ("float32", "bfloat16"):
        networks = {n: getattr(experiment.model, n).clone(compute=compute) for n in ("encoder", "decoder")}
        model = dataclasses.replace(experiment.model, **networks)
        trainer = Trainer.of(dataclasses.replace(experiment, model=model), dataset)
        session, key = trainer.session_shapes(), trainer.keys.train
        x = training.Examples.of(dataset.train.x, put=lambda rows: rows)
        batches = training.Resident(x, np.zeros((trainer.steps_per_epoch, 8), np.int32))
        params, few = session.state.params, jax.ShapeDtypeStruct((8, *model.event_shape), jnp.float32)
        programs = [(trainer.make_advance(fused=True), (session.state, session.totals, batches, key, 2))]
        if compute == "float32":  # in 16 bits, a step has all of their products

            @jax.jit
            def others(params, key, x, model=model):
                return model.evidence(params, key, x, num_samples=3), model.generate(params, key, num=4)

            programs.append((others, (params, key, few)))
        for program, arguments in programs:
            program.trace(*arguments).lower(lowering_platforms=("tpu", "cuda"))
