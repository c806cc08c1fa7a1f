"""The benchmark: its count of products is exact, its lines hold what they promise, and it leaves nothing behind."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from test_commands import DIGITS, refused

import jaxvae as jv
from jaxvae import data
from jaxvae.data import Dataset, Split
from jaxvae.experiment import benchmark, command
from jaxvae.experiment.benchmark import limits, subjects, timing
from jaxvae.experiment.session import Trainer
from jaxvae.typing import Support

B, H, D = 128, 400, 20
MLP = jv.MLP(hidden=(H,))
MODEL = jv.VAE(event_shape=(28, 28, 1), latent_dim=D, encoder=MLP, decoder=MLP)


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_of_a_dense_vae_are_the_closed_form(key):
    params, x = jax.eval_shape(MODEL.init, key), spec(B, 28, 28, 1)

    def loss(params, key, x):
        return -jnp.mean(jv.ELBO()(MODEL.evidence(params, key, x)))

    forward = 2 * B * (784 * H + H * 2 * D + D * H + H * 784)
    assert benchmark.products(loss, params, key, x) == {"float32": forward}
    # The images need no gradient.
    gradient = 3 * forward - 2 * B * 784 * H
    assert benchmark.products(jax.grad(loss), params, key, x) == {"float32": gradient}
    step = jv.make_train_step(MODEL, jv.ELBO(), jv.Adam().build(num_steps=1, steps_per_epoch=1), num_parts=4)
    state = jax.eval_shape(lambda p: jv.TrainState.create(p, jv.Adam().build(num_steps=1, steps_per_epoch=1)), params)
    assert benchmark.products(step, state, x, key) == {"float32": gradient}  # a scan over four parts


def test_products_in_loops_and_branches():
    a = spec(3, 5, 7)

    def multiply(a):
        return jnp.einsum("bij,bkj->bik", a, a)  # 3 products of 5×7 by 7×5

    one = 2 * 3 * 5 * 5 * 7
    assert benchmark.products(multiply, a) == {"float32": one}
    scanned = lambda a: jax.lax.scan(lambda s, _: (s + multiply(a), None), jnp.zeros((3, 5, 5)), length=11)  # noqa: E731
    assert benchmark.products(jax.jit(scanned), a) == {"float32": 11 * one}
    either = lambda a: jax.lax.cond(a[0, 0, 0] > 0, lambda: multiply(multiply(a)), lambda: multiply(a))  # noqa: E731
    assert benchmark.products(either, a) == {"float32": one + 2 * 3 * 5 * 5 * 5}
    assert benchmark.products(lambda a: multiply(a) @ jnp.ones(5), a) == {"float32": one}  # a sum
    narrow = lambda a: jnp.sum(multiply(a)) + jnp.sum(multiply(a.astype(jnp.bfloat16)))  # noqa: E731
    assert benchmark.products(narrow, a) == {"float32": one, "bfloat16": one}


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({"window_strides": (1, 1), "padding": "VALID"}, (6 * 3) ** 2),
        ({"window_strides": (1, 1), "padding": "SAME"}, (8 * 3 - 2) ** 2),  # one column of zeros on either side
        # Stretched to 15 with zeros between: of the 15 outputs, 8 meet one entry and 7 meet two.
        ({"window_strides": (1, 1), "padding": [(1, 1), (1, 1)], "lhs_dilation": (2, 2)}, (8 + 7 * 2) ** 2),
        ({"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 2)}, (4 * 3) ** 2),
        ({"window_strides": (2, 2), "padding": "VALID", "feature_group_count": 2}, (3 * 3) ** 2),
    ],
)
def test_products_of_a_convolution_are_those_with_entries_of_the_image(options, pairs):
    groups = options.get("feature_group_count", 1)

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    x, w = spec(5, 8, 8, 4), spec(3, 3, 4 // groups, 6)
    assert benchmark.products(convolve, x, w) == {"float32": 2 * 5 * 6 * (4 // groups) * pairs}


def test_the_bound_is_the_slower_of_the_two():
    rates = {"float32": 10.0, "bfloat16": 40.0, "bandwidth": 5.0}
    products = benchmark.products(lambda a, b: a @ b, spec(2, 3), spec(3, 4))  # 48
    products["bfloat16"] = 80
    assert limits.bound(products, 10.0, rates) == (4.8 + 2.0, "products")
    assert limits.bound(products, 100.0, rates) == (20.0, "bandwidth")
    assert limits.bound(products, None, rates) == (4.8 + 2.0, "products")


def test_what_takes_too_long_has_three_rounds(monkeypatch):
    """With a clock that the runs advance themselves."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        def run(num):
            now[0] += num * seconds

        return run

    reported = []
    times = timing.interleave({"a": taking(1.0), "b": taking(50.0)}, seconds=90.0, report=reported.append)
    assert times == {"a": [1.0] * timing.ROUNDS, "b": [50.0] * 3}
    assert sum(reported) == 2 * timing.ROUNDS


QUICK = ["--seconds=0.01", "--num-importance-samples=70", "--config.batch_size=16"]
QUICK += ["--config.model.encoder.hidden=8", "--config.model.decoder.hidden=8", "--config.model.latent_dim=2"]
SPREADS = {"seconds", "per_second", "fraction", "ratio", "steps_per_second"}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Limits that take no time to measure, and a folder to work in."""
    monkeypatch.setattr(limits, "_SIZES", {"cpu": (64, 2**10)})
    monkeypatch.setattr(limits, "_ACCELERATOR", (64, 2**10))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lines_of_every_measured_thing(small, capsys):
    """Nothing is left behind, not even in JAX's compilation cache."""
    options = {"jax_compilation_cache_dir": str(small / "cache"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    try:
        compared = ["--compare=dispatch,devices", "--compare", "precision"]
        config = f"--config={ROOT / 'configs' / 'autoencoder.py'}"  # compiles in half the time of the others
        arguments = [config, *QUICK, *compared, "--output=rows.jsonl"]
        assert command.benchmark_main(arguments) == 0
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert [p.name for p in small.iterdir()] == ["rows.jsonl"]
    printed = capsys.readouterr().out.splitlines()
    *rows, summary = [json.loads(line) for line in printed if line.startswith("{")]
    of = {kind: {r["name"]: r for r in rows if r["kind"] == kind} for kind in ("limit", "measured", "variant")}

    assert set(of["limit"]) == {"float32", "bfloat16", "bandwidth"}
    assert list(of["measured"]) == ["train", "bound", "gradient", "evaluate", "generate"]
    numbers = "lower_seconds compile_seconds warmup_seconds argument_bytes output_bytes temp_bytes xla_flops xla_bytes"
    for row in of["measured"].values():
        assert all(row[name] > 0 for name in [*numbers.split(), "limit_seconds"]), row
        assert {"device_peak_bytes", "what", "unit"} < set(row)
        assert row["binds"] in ("products", "bandwidth")
    for row in rows:
        for name in SPREADS & set(row):
            assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]
    forward = 2 * 16 * (64 * 8 + 8 * 2 + 2 * 8 + 8 * 64)
    products = {name: row["product_flops"]["float32"] for name, row in of["measured"].items()}
    assert products["bound"] == forward
    assert products["train"] == products["gradient"] == 3 * forward - 2 * 16 * 64 * 8
    assert products["generate"] == 2 * 16 * (2 * 8 + 8 * 64)
    assert products["evaluate"] == 2 * 64 * (64 * 8 + 8 * 2 + 70 * (2 * 8 + 8 * 64))
    assert of["measured"]["evaluate"]["xla_flops"] > products["evaluate"] / 2  # it has several chunks

    assert {r["axis"] for r in of["variant"].values()} == {"dispatch", "precision"}
    precisions = [of["variant"].pop(name) for name in ("float32", "bfloat16")]
    assert all(row["ratio"]["median"] > 0 for row in precisions)
    assert list(of["variant"])[:2] == ["one by one", "1 fused"]
    assert of["variant"]["one by one"]["ratio"]["median"] == 1.0
    why = [row["why"] for row in rows if row["kind"] == "left out"]
    left_out = [line.split(" fused: ")[0] for line in why if " fused: " in line]
    assert {*of["variant"], *(f"{n} fused" for n in left_out)} == {"one by one"} | {
        f"{n} fused" for n in ("1", "10", "100", "1,000")
    }
    if jax.local_device_count() == 1:
        assert "there is only one device" in why

    assert summary["train_images_per_second"] == of["measured"]["train"]["per_second"]["median"]
    assert {"jaxvae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "python"} == set(summary["versions"])
    kept = [json.loads(line) for line in (small / "rows.jsonl").read_text().splitlines()]
    about = {"machine", "cores", "backend", "device", "versions", "date", "matmul_precision"}
    assert [{k: row[k] for k in rows[i]} for i, row in enumerate(kept)] == rows
    assert all(about < set(row) for row in kept)
    for name in [*of["measured"], *of["variant"]]:
        assert any(line.startswith(name) for line in printed)


@pytest.fixture(scope="module")
def trainer():
    experiment = command.load_config(ROOT / "configs" / "digits.py")
    experiment = dataclasses.replace(experiment, objective=jv.ELBO(closed_form_kl=False))
    dataset = data.load(experiment.data)
    return Trainer.of(experiment.fit_to(dataset), dataset)


def test_many_steps_a_dispatch(trainer):
    """Ten dispatches of a hundred steps, or one of thirty; the initial state is untouched."""
    taken = []

    def advance(state, totals, batches, key, num):
        taken.append(num)
        return state._replace(step=state.step + num), totals

    session, batches = trainer.new_session(), subjects.resident(trainer)
    subjects.training_run(trainer, advance, session, batches, dispatch=100)(10)
    subjects.training_run(trainer, advance, session, batches)(30)
    assert taken == [100] * 10 + [30]
    assert int(session.state.step) == 0


def test_the_bytes_of_a_step_are_those_of_a_batch(trainer):
    """Not those of the whole set: XLA would count every byte of an array from which a few rows are taken."""
    few = trainer.dataset._replace(train=trainer.dataset.train._replace(x=trainer.dataset.train.x[:128]))
    rows = []
    for each in (trainer, dataclasses.replace(trainer, dataset=few)):
        step = subjects._train(each, each.new_session(), subjects.resident(each))
        compiled = jax.jit(step.program, donate_argnums=step.donated).lower(*step.arguments).compile()
        rows.append(compiled.cost_analysis()["bytes accessed"])
    assert rows[0] == rows[1] > 4 * sum(leaf.size for leaf in jax.tree.leaves(each.new_session().state.params))


def test_devices_that_can_not_share_the_batch_are_left_out(trainer, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1] * 2)
    experiment = dataclasses.replace(trainer.experiment, num_parts=4)
    variants, left_out = benchmark.AXES["devices"](dataclasses.replace(trainer, experiment=experiment), 1.0)
    assert not variants
    assert [why.split(";")[0] for why in left_out] == ["2 devices: num_parts is 4, but a mesh splits the batch itself"]


def test_estimators_that_the_objective_refuses_are_left_out(trainer):
    variants, left_out = benchmark.AXES["estimator"](trainer, 1.0)
    assert [v.name for v in variants] == ["Pathwise", "StickingTheLanding"]
    assert [line.split(":")[0] for line in left_out] == ["DoublyReparameterized"]
    experiment = dataclasses.replace(
        trainer.experiment, objective=jv.IWAE(num_samples=3), estimator=jv.DoublyReparameterized()
    )
    variants, left_out = benchmark.AXES["estimator"](dataclasses.replace(trainer, experiment=experiment), 1.0)
    assert [v.name for v in variants] == ["DoublyReparameterized", "Pathwise"]  # the config's own is first
    assert [line.split(":")[0] for line in left_out] == ["StickingTheLanding"]


BAD = {
    "axis": (["--compare=dispach"], ["dispach", *benchmark.AXES]),
    "second axis": (["--compare=dispatch", "--compare=speed"], ["speed", *benchmark.AXES]),
    "seconds": (["--seconds=0"], ["seconds is 0", "greater than 0"]),
    "draws": (["--num-importance-samples=0"], ["--num-importance-samples is 0", "at least 1"]),
    "output": (["--output=missing/rows.jsonl"], ["--output=missing/rows.jsonl can't be written"]),
    "field": (["--config.modle.latent_dim=3"], ["--config.modle.latent_dim", "erhaps you meant"]),
    "size": (["--config.model.encoder.hidden=10000000000"], ["parameters, their gradients", "write a smaller"]),
    "set": (["--config.data.name=mnits"], ["mnits", "data.name"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, small, capsys, no_compiling):
    arguments, words = BAD[case]
    refused(capsys, [DIGITS, *arguments], words, command.benchmark_main)
    assert not list(small.iterdir())


def test_help_says_what_there_is_to_compare(capsys):
    with pytest.raises(SystemExit) as stop:
        command.benchmark_main([DIGITS, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for expected in ("--compare", *benchmark.AXES, "--seconds", "num_importance_samples", "--config.batch_size"):
        assert expected in text


def test_the_program_that_is_looked_into_is_the_evaluators(key):
    """2²² outputs are at once in memory: those of 64 draws for five images of 64 × 64 × 3."""
    mlp = jv.MLP(hidden=(4,))
    model = jv.VAE(latent_dim=2, event_shape=(64, 64, 3), encoder=mlp, decoder=mlp)
    x, grey = np.zeros((80, 64, 64, 3), np.uint8), Support(0.0, 255.0, integer=True)
    trainer = Trainer.of(jv.Experiment(model=model, batch_size=8), Dataset(Split(x, None), None, None, grey))
    params = jax.eval_shape(model.init, key)
    subject = subjects._evaluate(trainer, params, 100)
    assert subject.arguments[3].shape == (5, 64, 64, 3)
    assert subject.num_programs == 64 * 100 / (5 * 64)
