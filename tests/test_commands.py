"""The command lines, as a user types them: files, numbers, and one clear line for a mistake."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT

import jaxvae as jv
from jaxvae.checkpoints import Checkpoints
from jaxvae.evaluation import preprocess_each
from jaxvae.experiment import cluster, command, console, outcome, report, serialization, stopping, workdir
from jaxvae.experiment import run as runs
from jaxvae.experiment.command import parsing, running
from jaxvae.experiment.restoring import reopen, restore_last_params, restore_params

DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
QUICK = [
    "--config.num_epochs=4",
    "--config.eval_every_epochs=2",
    "--config.model.encoder.hidden=16,8",
    "--config.model.decoder.hidden",
    "8",
    "16",
    "--config.model.latent_dim=3",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "a" / "b"
    assert command.train_main([DIGITS, f"--workdir={folder}", *QUICK]) == 0
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_train_leaves_the_files_of_the_design(run):
    expected = {"config.json", "data.json", "metrics.jsonl", "checkpoints", "figures", "report.html", ".lock"}
    assert {p.name for p in run.iterdir()} == expected
    assert {p.stem for p in (run / "figures").iterdir()} == set(report.FIGURES) - {"manifold"}  # three latents
    config = json.loads((run / "config.json").read_text())
    assert config["num_epochs"] == 4
    assert config["model"]["encoder"].items() >= {"class": "MLP", "hidden": [16, 8], "activation": "relu"}.items()
    assert config["model"]["decoder"]["hidden"] == [8, 16]
    assert config["model"]["event_shape"] == [8, 8, 1]
    records = lines(run)
    assert [(r["step"], r["split"]) for r in records] == [
        (10, "train"),
        (20, "train"),
        (20, "validation"),
        (30, "train"),
        (40, "train"),
        (40, "validation"),
        (40, "test"),
    ]
    for r in records:
        assert r["elbo"] == pytest.approx(-r["distortion"] - r["rate"], abs=1e-3)
        assert r["rate"] >= 0


def test_evaluate_prints_one_json_object_last(run, tmp_path, capsys):
    outputs = []
    for also in ([], [f"--output={tmp_path / 'terms.npz'}"]):
        assert command.evaluate_main([f"--workdir={run}", "--num-importance-samples=70", *also]) == 0
        outputs.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert outputs[0] == outputs[1]
    result = outputs[0]
    by_example = dict(np.load(tmp_path / "terms.npz"))
    for name in ("elbo", "log_evidence", "distortion", "rate", "effective_sample_size"):
        assert by_example[name].shape == (256,)
        assert by_example[name].mean() == pytest.approx(result[name], rel=1e-5)
    trainer, params, _ = reopen(run)
    stored, labels = trainer.dataset.test
    np.testing.assert_array_equal(by_example["labels"], labels)
    x = preprocess_each(trainer.preprocess, trainer.keys.evaluate, stored, np.arange(256))
    codes = jax.jit(trainer.experiment.model.embed)(params, x)
    np.testing.assert_allclose(by_example["embedding"], codes, rtol=1e-4, atol=1e-4)
    names = "elbo log_evidence log_evidence_stderr num_importance_samples distortion rate active_units bits_per_dim"
    assert {*names.split(), "num_examples"} <= set(result)
    assert result["num_importance_samples"] == 70
    assert result["num_examples"] == 256
    assert result["elbo"] < result["log_evidence"] < 0
    assert result["bits_per_dim"] == pytest.approx(-result["log_evidence"] / 64 / np.log(2))
    assert result["elbo"] == pytest.approx(lines(run)[-1]["elbo"], abs=0.3)
    assert command.evaluate_main([f"--workdir={run}", "--split=validation", "--num-importance-samples=1"]) == 0
    validation = json.loads(capsys.readouterr().out.splitlines()[-1])
    # the same draws as in training, on the best model
    best = max(r["elbo"] for r in lines(run) if r["split"] == "validation")
    assert validation["elbo"] == pytest.approx(best, abs=1e-4)


@pytest.mark.long
def test_inference_gap(run, capsys):
    quick = ["--num-examples=20", "--num-temperatures=60", "--num-chains=8", "--num-steps=200"]
    assert command.inference_gap_main([f"--workdir={run}", *quick, "--num-importance-samples=2000"]) == 0
    out = capsys.readouterr().out.splitlines()
    result = json.loads(out[-1])
    assert out[0].startswith("means over 20 test examples")
    assert result["elbo"] < result["best_elbo"] < result["log_evidence"] + 0.1
    assert result["log_evidence_annealed"] == pytest.approx(result["log_evidence"], abs=0.1)
    total = result["approximation_gap"] + result["amortization_gap"]
    assert total == pytest.approx(result["log_evidence_annealed"] - result["elbo"], abs=1e-6)
    assert -0.05 < result["simulated_gap"] < 0.3


def test_generate(run, tmp_path, capsys, monkeypatch):
    from PIL import Image

    assert command.generate_main([f"--workdir={run}", "--num=6", f"--output={tmp_path / 'a.png'}"]) == 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 100
    for name, extra in (("b", []), ("c", []), ("d", ["--seed=1"]), ("e", ["--sample=True"])):
        assert command.generate_main([f"--workdir={run}", "--num=6", f"--output={tmp_path / name}.npy", *extra]) == 0
    b, c, d, e = (np.load(tmp_path / f"{name}.npy") for name in "bcde")
    assert b.shape == (6, 8, 8, 1)
    np.testing.assert_array_equal(b, c)
    assert np.any(b != d)
    assert set(np.unique(e)) == {0.0, 1.0}
    assert command.generate_main([f"--workdir={run}", "--num=300", f"--output={tmp_path}/f.npy"]) == 0
    f = np.load(tmp_path / "f.npy")
    np.testing.assert_array_equal(f[:6], b)  # the first do not depend on `num`
    assert len(np.unique(f, axis=0)) == 300
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", lambda path, x: path.write_bytes(b"half") and np.load(tmp_path / "none.npy"))
        assert command.generate_main([f"--workdir={run}", "--num=6", f"--output={tmp_path}/f.npy"]) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), f)  # unchanged
    capsys.readouterr()
    assert command.generate_main([f"--workdir={run}", f"--num={10**12}", f"--output={tmp_path}/g.npy"]) == 1
    assert capsys.readouterr().err.startswith("error: there is not enough memory: ")


def test_a_step_that_no_memory_holds(tmp_path, capsys):
    arguments = [DIGITS, f"--workdir={tmp_path / 'run'}", *QUICK, "--config.objective.num_samples=1000000000"]
    assert command.train_main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the device is out of memory; ask for less at once (")
    assert "Out of memory allocating " in last


def test_a_finished_run_is_not_trained_again(run, capsys, no_pictures):
    before = lines(run)
    assert command.train_main([DIGITS, f"--workdir={run}", *QUICK]) == 0
    assert lines(run) == before
    assert "resumed at step 40 of 40" in capsys.readouterr().err


@pytest.mark.long
def test_early_stopping_keeps_the_best(tmp_path, capsys, no_pictures):
    arguments = ["--config.optimizer.learning_rate=0.3", "--config.patience=2", "--config.eval_every_epochs=1"]
    arguments += ["--config.num_epochs=60", "--config.model.encoder.hidden=16", "--config.model.decoder.hidden=16"]
    assert command.train_main([DIGITS, f"--workdir={tmp_path}", *arguments]) == 0
    validations = [(r["elbo"], r["step"]) for r in lines(tmp_path) if r["split"] == "validation"]
    best = max(validations)
    assert validations[-1][1] == best[1] + 2 * 10 < 600
    assert lines(tmp_path)[-1]["model_step"] == best[1]
    assert f"; the best model, of step {best[1]})" in capsys.readouterr().out
    experiment = serialization.read(tmp_path / "config.json")
    assert restore_params(experiment, tmp_path)[1] == best[1]
    assert restore_last_params(experiment, tmp_path)[1] == validations[-1][1]


def test_incomplete_data(tmp_path, capsys, no_pictures):
    """From a file with NaN to the bound on the observed entries, which has no bits per dimension."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((140, 6)) < 0.4, np.nan, rng.integers(0, 2, (140, 6)))
    x[0] = np.nan
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "c.py").write_text(f"""
import jaxvae as jv
def get_config():
    networks = dict(encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,)))
    return jv.Experiment(
        data=jv.Data(name={str(tmp_path / "x.npy")!r}), num_epochs=2, batch_size=10,
        model=jv.VAE(latent_dim=2, likelihood=jv.Incomplete(likelihood=jv.Bernoulli()), **networks))
""")
    run = f"--workdir={tmp_path / 'run'}"
    assert command.train_main([f"--config={tmp_path / 'c.py'}", run]) == 0
    assert command.evaluate_main([run, "--num-importance-samples=5"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["bits_per_dim"] is None
    fair_coins = -np.log(2.0) * np.mean(np.sum(~np.isnan(x[6::7]), axis=1))
    assert result["log_evidence"] == pytest.approx(fair_coins, rel=0.15)

    def impute(name, *extra):
        files = [f"--input={tmp_path / 'x.npy'}", f"--output={tmp_path / name}", "--num-importance-samples=50"]
        assert command.impute_main([run, *files, *extra]) == 0
        return np.load(tmp_path / name)

    means, again = impute("a.npy"), impute("b.npy")
    effective = re.search(
        r"of 50 draws, (\d+) were effective for the median example, and (\S+) for", capsys.readouterr().err
    )
    assert 1.0 <= float(effective[2]) <= float(effective[1]) <= 50.0
    assert means.shape == x.shape
    np.testing.assert_array_equal(means, again)
    np.testing.assert_array_equal(means[~np.isnan(x)], x[~np.isnan(x)])
    assert np.all((means[np.isnan(x)] > 0.1) & (means[np.isnan(x)] < 0.9))
    trainer, params, _ = jv.experiment.reopen(tmp_path / "run")
    fill_key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[1]
    fill = jax.jit(functools.partial(jv.impute, trainer.experiment.model, num_samples=50))
    np.testing.assert_allclose(means[:9], fill(params, fill_key, np.float32(x[:81]))[:9], rtol=1e-5)
    draws = impute("c.npy", "--num=400")
    assert draws.shape == (400, *x.shape)
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(axis=0), means, atol=5 * 0.5 / 20)
    assert "322 of 840 entries are missing" in capsys.readouterr().err
    np.save(tmp_path / "other.npy", x[:, :5])
    np.save(tmp_path / "large.npy", 3.0 * x)
    np.save(tmp_path / "as.npy", x)
    for arguments, words in (
        (["--input=x.npy", "--output=y.npy"], ["there is no file x.npy"]),
        ([f"--input={tmp_path / 'x.npy'}", f"--output={tmp_path / 'x.npy'}"], ["is the input", "write another"]),
        ([f"--input={tmp_path / 'as.npy'}", f"--output={tmp_path / 'x.npy'}"], ["is the run's data", "would be lost"]),
        ([f"--input={tmp_path / 'other.npy'}", "--output=y.npy"], ["the shape (5,)", "run's data (6,)"]),
        ([f"--input={tmp_path / 'large.npy'}", "--output=y.npy"], ["values from 0 to 3", "{0, 1}"]),
        ([f"--input={tmp_path / 'x.npy'}", "--output=y.npy", "--num=10001"], ["num is 10001", "at most 10,000"]),
    ):
        refused(capsys, [run, *arguments], words, main=command.impute_main)
    assert not pathlib.Path("y.npy").exists()


def test_whole_examples_are_not_imputed(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), np.uint8))
    arguments = [f"--workdir={run}", f"--input={tmp_path / 'x.npy'}", f"--output={tmp_path / 'y.npy'}"]
    refused(capsys, arguments, ["the Bernoulli likelihood needs whole examples"], main=command.impute_main)


def test_the_autoencoder_has_no_elbo(tmp_path, capsys):
    config = f"--config={ROOT / 'configs' / 'autoencoder.py'}"
    assert command.train_main([config, f"--workdir={tmp_path}", "--config.num_epochs=5"]) == 0
    assert "no ELBO" in capsys.readouterr().out
    assert {r["elbo"] for r in lines(tmp_path)} == {None}
    assert all(r["distortion"] > 32 * np.log(np.pi) for r in lines(tmp_path))
    assert command.evaluate_main([f"--workdir={tmp_path}"]) == 0
    out = capsys.readouterr()
    result = json.loads(out.out.splitlines()[-1])
    assert result["log_evidence"] is None
    assert result["squared_mmd"] > 4 * result["squared_mmd_stderr"] > 0  # nothing held the codes to the prior
    assert "without a density" in out.err
    assert command.evaluate_main([f"--workdir={tmp_path}", f"--output={tmp_path / 'terms.npz'}"]) == 0
    assert set(np.load(tmp_path / "terms.npz")) == {"distortion", "embedding", "labels"}
    capsys.readouterr()
    refused(capsys, [f"--workdir={tmp_path}", "--output=a.csv"], ["must end in .npz"], main=command.evaluate_main)
    refused(capsys, [f"--workdir={tmp_path}", "--output=/no/a.npz"], ["can't be written"], main=command.evaluate_main)


@pytest.mark.long
def test_a_test_example_with_no_finite_term(tmp_path, capsys):
    """Training (after its last checkpoint) and evaluation name it, and write only valid JSON."""
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    test = x[:12].copy()
    test[7, 2] = 1e25
    np.savez(tmp_path / "x.npz", train=x, test=test)
    (tmp_path / "c.py").write_text(f"""
import jaxvae as jv
def get_config():
    networks = dict(encoder=jv.MLP(hidden=(4,)), decoder=jv.MLP(hidden=(4,)))
    return jv.Experiment(
        data=jv.Data(name={str(tmp_path / "x.npz")!r}, preprocess=jv.Raw()), num_epochs=1, batch_size=10,
        model=jv.VAE(latent_dim=2, likelihood=jv.Gaussian(), **networks))
""")
    run = f"--workdir={tmp_path / 'run'}"
    for main, arguments in (
        (command.train_main, [f"--config={tmp_path / 'c.py'}", run]),
        (command.evaluate_main, [run, "--num-importance-samples=3"]),
    ):
        assert main(arguments) == 1
        out, error = capsys.readouterr()
        said = "error: the distortion of 1 of 12 test examples is not finite, first for example 7; look at its values"
        assert error.splitlines()[-1].startswith(said)
        assert "NaN" not in out
    assert {r["split"] for r in lines(tmp_path / "run")} == {"train"}

    np.savez(tmp_path / "x.npz", train=1e25 * x)
    assert command.train_main([f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'b'}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: step 0: the distortion is inf and the rate is inf; no parameter had moved yet"), (
        error
    )
    assert "learning_rate" not in error


LABELS = np.array(["_a", "$b", "c^$"])  # matplotlib must not take them for formulas


@pytest.mark.long
def test_own_vectors_with_labels(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "x.npz", x=rng.normal(50, 1, size=(140, 5)).astype(np.float32), labels=LABELS[np.arange(140) % 3]
    )
    (tmp_path / "config.py").write_text(
        f"""
import jaxvae as jv
def get_config():
    return jv.Experiment(
        data=jv.Data(name={str(tmp_path / "x.npz")!r}, preprocess=jv.Raw()),
        model=jv.VAE(latent_dim=1, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,)),
                     likelihood=jv.Gaussian(variance=jv.Shared())),
        num_epochs=3, batch_size=32, ema_decay=0.9, kl_warmup_epochs=1.0)
"""
    )
    assert command.train_main([f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]) == 0
    assert {p.stem for p in (tmp_path / "run" / "figures").iterdir()} == set(report.FIGURES) - {"manifold"}
    assert command.generate_main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'a.png'}"]) == 0
    assert command.evaluate_main([f"--workdir={tmp_path / 'run'}", "--num-importance-samples=2"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bits_per_dim"] is None


@pytest.mark.long
def test_tfds_sets_train(small_tfds, tmp_path):
    shrink = ["--config.num_epochs=1", "--config.batch_size=10", f"--config.data.data_dir={small_tfds}"]
    hidden = ["--config.model.encoder.hidden=8", "--config.model.decoder.hidden=8"]
    for name in ("mnist", "binarized_mnist"):
        folder = tmp_path / name
        assert command.train_main([DIGITS, f"--workdir={folder}", f"--config.data.name={name}", *shrink, *hidden]) == 0
        first = lines(folder)[0]
        # 784 pixels, half of them on: a fair coin for each costs 784 log 2 nats, whatever they are stored as
        assert first["distortion"] == pytest.approx(784 * np.log(2), rel=0.05)


def test_a_density_of_two_values_is_remarked_upon(tmp_path, capsys):
    (tmp_path / "config.py").write_text(
        "import jaxvae as jv\n"
        "def get_config():\n"
        "    mlp = jv.MLP(hidden=(8,))\n"
        "    model = jv.VAE(latent_dim=2, encoder=mlp, decoder=mlp, likelihood=jv.Gaussian())\n"
        "    return jv.Experiment(model=model, num_epochs=1)\n"
    )
    experiment = parsing.load_config(tmp_path / "config.py")
    runs.prepare(experiment, tmp_path / "binary")
    assert "note: Gaussian is a density, but digits has only two values after Dyn" in capsys.readouterr().err
    grey = dataclasses.replace(experiment, data=jv.Data(preprocess=jv.Dequantization()))
    plain = dataclasses.replace(experiment.model, posterior=jv.Delta())
    mass = dataclasses.replace(experiment.model, likelihood=jv.Bernoulli())
    for i, other in enumerate([grey, *(dataclasses.replace(experiment, model=m) for m in (plain, mass))]):
        runs.prepare(other, tmp_path / str(i))
        assert "note:" not in capsys.readouterr().err


def test_a_warm_up_that_does_not_end_is_remarked(tmp_path, capsys, no_compiling):
    experiment = dataclasses.replace(parsing.load_config(ROOT / "configs" / "digits.py"), num_epochs=10)
    for epochs, said in ((10.0, False), (10.5, True)):
        runs.prepare(dataclasses.replace(experiment, kl_warmup_epochs=epochs), tmp_path / str(epochs))
        assert ("kl_warmup_epochs is 10.5, but num_epochs is 10" in capsys.readouterr().err) == said


def test_a_small_largest_grey_level_is_remarked(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 17, (70, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    networks = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}
    grey = jv.Experiment(
        model=jv.VAE(latent_dim=2, **networks), data=jv.Data(name=str(tmp_path / "x.npy")), batch_size=10
    )
    runs.prepare(grey, tmp_path / "grey")
    assert "write data.high=16, or, if they are counts, data.preprocess=Raw()" in capsys.readouterr().err
    said = dataclasses.replace(grey, data=dataclasses.replace(grey.data, high=16))
    counts = dataclasses.replace(
        grey,
        data=dataclasses.replace(grey.data, preprocess=jv.Raw()),
        model=dataclasses.replace(grey.model, likelihood=jv.NegativeBinomial()),
    )
    for i, other in enumerate([said, counts]):
        runs.prepare(other, tmp_path / str(i))
        assert "note:" not in capsys.readouterr().err


def test_a_run_is_resumed_with_its_own_config(tmp_path, capsys, no_pictures):
    (tmp_path / "beside.py").write_text("WIDTH = 6")
    (tmp_path / "mine.py").write_text(
        "import jaxvae as jv\nfrom beside import WIDTH\ndef get_config():\n    return jv.Experiment(num_epochs=1, "
        "model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=(WIDTH,)), decoder=jv.MLP(hidden=(WIDTH,))))"
    )
    folder = f"--workdir={tmp_path / 'run'}"
    assert command.train_main([f"--config={tmp_path / 'mine.py'}", folder]) == 0
    first = capsys.readouterr().out
    assert command.train_main([folder]) == 0
    assert capsys.readouterr().out == first
    assert "publish" in refused(capsys, [*folder.split("="), "--config.seed=1"], ["seed is 0 there and 1 here"])
    error = refused(capsys, [DIGITS, folder], ["holds a run with another config", "give its options again"])
    assert "publish" not in error  # another model
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "publish" not in refused(capsys, [*folder.split("="), "--config.seed=1"], ["seed is 0"])  # no model there
    assert command.train_main([folder]) == 0
    out, err = capsys.readouterr()
    assert out == first
    assert "metrics.jsonl goes to step 10, but there is no checkpoint: starting anew" in err


def test_channels_that_come_first_are_remarked(tmp_path, capsys, no_compiling):
    networks = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}
    for name, shape in (("first", (70, 3, 8, 8)), ("last", (70, 8, 8, 3))):
        np.save(tmp_path / f"{name}.npy", np.tile(np.arange(70, dtype=np.uint8), 192).reshape(shape) + 180)
        data = jv.Data(name=str(tmp_path / f"{name}.npy"))
        experiment = jv.Experiment(model=jv.VAE(latent_dim=2, **networks), data=data, batch_size=10)
        runs.prepare(experiment, tmp_path / name)
        told = capsys.readouterr().err
        assert ("3 × 8 pixels with 8 channels; if the 3 are channels" in told) == (name == "first")


def test_entries_with_units_of_their_own_are_remarked(tmp_path, capsys):
    rng = np.random.default_rng(0)
    networks = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}
    scaled, plain = rng.normal(size=(70, 3)) * [1.0, 1.0, 1e-6], rng.normal(size=(70, 3))
    outlier, constant = plain.copy(), plain.copy()
    outlier[3, 1], constant[:, 1:] = 150.0, 7.0
    t, images = jv.StudentT(degrees_of_freedom=3.0), 255 * rng.random((70, 4, 4))
    for i, (x, likelihood, said) in enumerate(
        [
            (scaled, t, f"entry 2 has the mean {scaled[rows_of(70)][:, 2].mean():.3g} and the standard deviation"),
            (scaled, t, f"probably model.likelihood=Standardized(likelihood={t}) is meant"),
            (scaled, jv.Incomplete(likelihood=t), f"Incomplete(likelihood=Standardized(likelihood={t})) is meant"),
            (scaled, jv.Standardized(likelihood=t), None),
            (constant, jv.Standardized(), "entry 1 does not vary or was never observed (2 such entries)"),
            (plain, t, None),
            (outlier, t, None),
            (images, t, None),
        ]
    ):
        np.save(tmp_path / f"{i}.npy", x)
        data = jv.Data(name=str(tmp_path / f"{i}.npy"), preprocess=jv.Raw())
        model = jv.VAE(latent_dim=2, likelihood=likelihood, **networks)
        runs.prepare(jv.Experiment(model=model, data=data, batch_size=10), tmp_path / str(i))
        told = capsys.readouterr().err
        assert said in told if said else "note:" not in told


def rows_of(num):
    """The indices of the training examples in one array of `num`."""
    return np.flatnonzero(np.arange(num) % 7 < 5)


def test_an_estimated_end_is_not_behind(capsys, monkeypatch):
    monkeypatch.setattr(console._Lines, "_INTERVAL", 0.0)
    bar = console.Count(100, title="integrate,", unit="point")
    for num in (50, 100):
        bar.add(num)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "integrate, point 50/100"  # it may have compiled, so the time left is not known
    assert last == "integrate, point 150/150  0:00 left"


def test_the_time_left_is_by_the_later_half(capsys, monkeypatch):
    """What compiled at first is forgotten; a long validation after each epoch is averaged over."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    bar, left = console._Lines(200, 0, "train", "step"), []
    now[0] = 100.0  # the first step compiled
    for step in range(1, 201):
        now[0] += (100.0 if step == 10 else 20.0) if step % 10 == 0 else 1.0  # the first validation compiled too
        bar.update(step)
        lines = capsys.readouterr().err.splitlines()
        if lines and step < 200 and "left" in lines[-1]:
            parts = lines[-1].split()[-2].split(":")
            left.append((step, sum(60**i * int(part) for i, part in enumerate(reversed(parts)))))
    shares = [seconds / (29 / 10 * (200 - step)) for step, seconds in left if 60 <= step < 190]
    assert len(shares) > 20
    assert min(shares) > 0.7 and max(shares) < 1.3


@pytest.mark.long
def test_the_data_of_a_run_may_move_and_not_change(tmp_path, capsys):
    small = "encoder=jv.MLP(hidden=(4,)), decoder=jv.MLP(hidden=(4,)), likelihood=jv.Gaussian()"
    (tmp_path / "config.py").write_text(
        f"import jaxvae as jv\ndef get_config():\n    return jv.Experiment(model=jv.VAE(latent_dim=2, {small}), "
        "data=jv.Data(preprocess=jv.Raw()), num_epochs=2, batch_size=10, eval_every_epochs=1)"
    )
    first, second, x = tmp_path / "a.npy", tmp_path / "sets" / "a.npy", np.random.default_rng(0).normal(size=(70, 5))
    np.save(first, x)
    arguments = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    assert command.train_main([*arguments, f"--config.data.name={first}"]) == 0
    second.parent.mkdir()
    first.rename(second)
    capsys.readouterr()
    evaluate = [f"--workdir={tmp_path / 'run'}", "--num-importance-samples=2"]
    refused(capsys, evaluate, ["there is no file", "--data-dir=DIR"], main=command.evaluate_main)
    assert command.evaluate_main([*evaluate, f"--data-dir={second.parent}"]) == 0
    assert command.train_main([*arguments, f"--config.data.name={second}"]) == 0  # the run is finished
    assert command.evaluate_main(evaluate) == 0  # the run has kept the new place
    capsys.readouterr()
    x[-1, -1] += 1.0
    np.save(second, x)
    other = ["holds a run on other data", "the test examples have other values"]
    refused(capsys, evaluate, other, main=command.evaluate_main)
    refused(capsys, [*arguments, f"--config.data.name={second}"], other)
    np.save(second, x[:35])
    refused(capsys, [*arguments, f"--config.data.name={second}"], ["train examples have the shape [50, 5] there and"])


def test_help_names_the_config(capsys):
    with pytest.raises(SystemExit) as stop:
        command.train_main([DIGITS, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for expected in ("--config FILE", "--workdir", "--config.model.latent_dim", "--config.optimizer.learning_rate"):
        assert expected in text


# ------------------------------------------------------------------------------------------------------- bad input


def bad_array(tmp_path, name, array):
    np.save(tmp_path / name, array)
    return f"--config.data.name={tmp_path / name}"


GREY = np.random.default_rng(0).integers(0, 256, (210, 8, 8)).astype(np.float32)
NAN = np.where(GREY > 250, np.nan, GREY / 255)

BAD = {
    "unknown": (["--config.modle.latent_dim=3"], ["--config.modle.latent_dim", "erhaps you meant"]),
    "mistyped": (["--config.model.encoder.hiden=3"], ["erhaps you meant", "--config.model.encoder.hidden"]),
    "type": (["--config.num_epochs=ten"], ["--config.num_epochs: 'ten' is not a whole number"]),
    "optional type": (["--data-memory-mib=0.5"], ["--data_memory_mib: '0.5' is not a whole number"]),
    "float": (["--config.optimizer.learning_rate=fast"], ["learning_rate: 'fast' is not a number"]),
    "fractions": (["--config.model.encoder.hidden=1.5,2"], ["hidden: '1.5', '2' is not a list of whole numbers"]),
    "list": (["--config.model.encoder.hidden", "4,0"], ["MLP.hidden", "at least 1"]),
    "thousands": (
        ["--config.batch_size=1,000"],
        ["'000' belongs to no option; leave it out, or write a number without commas"],
    ),
    "flag": (["--pmap"], ["--pmap has no value; write --pmap=VALUE"]),
    "fraction": (["--config.batch_size=1.5"], ["--config.batch_size", "1.5"]),
    "choice": (["--config.model.encoder.activation=rely"], ["activation", "rely", "relu"]),
    "beta": (["--config.objective.beta=-1"], ["ELBO.beta is -1", "at least 0"]),
    "latent_dim": (["--config.model.latent_dim=0"], ["VAE.latent_dim is 0", "at least 1"]),
    "learning_rate": (["--config.optimizer.learning_rate=nan"], ["Adam.learning_rate is nan", "greater than 0"]),
    "infinite": (["--config.optimizer.learning_rate=inf"], ["Adam.learning_rate is inf"]),
    "batch": (["--config.batch_size=2000"], ["batch_size is 2000", "1285", "at most 1285"]),
    "empty": (["--config.model.encoder.hidden"], ["--config.model.encoder.hidden has no value"]),
    "empty, then another": (["--config.model.encoder.hidden", "--config.seed=1"], ["hidden has no value"]),
    "no value": (["--config.seed="], ["--config.seed= has no value"]),
    "negative seed": (["--config.seed=-1"], ["Experiment.seed is -1"]),
    "width": (["--config.model.encoder.hidden=0"], ["MLP.hidden", "at least 1"]),
    "size": (
        ["--config.model.encoder.hidden=10000000000"],
        ["parameters, their gradients", "this process may use", "write a smaller"],
    ),
    "event": (["--config.model.event_shape=3,3"], ["model.event_shape is (3, 3)", "(8, 8, 1)"]),
    "no set": (["--config.data.name=mnits"], ["mnits", "data.name"]),
    "no file": (["--config.data.name=missing.npy"], ["there is no file", "missing.npy"]),
    "validation": (["--config.data.num_validation=-1"], ["Data.num_validation is -1"]),
    "ema": (["--config.ema_decay=1.5"], ["Experiment.ema_decay is 1.5"]),
    "two config files": (["--config=missing.py"], ["--config is given 2 times; write it once"]),
    "high": (["--config.data.high=300"], ["Data.high is 300", "at most 255"]),
    "memory": (["--data-memory-mib=0"], ["--data-memory-mib is 0", "at least 1"]),
    "stray": (["spurious"], ["spurious"]),
    "steps": (["--config.num_epochs=1000000000000"], ["num_epochs is 1000000000000; write at most 214,748,364"]),
    "warm-up": (["--config.kl_warmup_epochs=1e30"], ["kl_warmup_epochs is 1e+30; write at most 214,748,364"]),
    "empty folder": (["--workdir="], ["--workdir= has no value; write --workdir=VALUE"]),
    "unset folder": (["--workdir", ""], ["--workdir has no value; write --workdir=VALUE"]),
}


def refused(capsys, arguments, words, main=command.train_main):
    import sklearn.datasets  # noqa: F401 - its first import takes as long as all the rest

    start = time.process_time()
    assert main(arguments) == 2
    assert time.process_time() - start < 3
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    assert "helptext" not in error
    for word in words:
        assert word in error, error
    return error


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, tmp_path, capsys, no_compiling):
    arguments, words = BAD[case]
    refused(capsys, [DIGITS, f"--workdir={tmp_path / 'run'}", *arguments], words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (GREY, ["DynamicBinarization", "the counts 0, 1, 2, …", "uint8", "divide them by 255"]),
        (GREY / 255 - 0.5, ["floats in [0, 1]"]),
        (NAN, ["entries that are NaN", "Incomplete(likelihood=Bernoulli())"]),
        (np.zeros(5), ["has the shape (5,)", "[examples, height, width]"]),
        (np.zeros((2, 2, 2, 2, 2)), ["has the shape (2, 2, 2, 2, 2)"]),
        (np.zeros((0, 8, 8)), ["has the shape (0, 8, 8)"]),
        (np.full((7, 8, 8), -300), ["integers from -300 to -300", "0..255"]),
        (np.full((300, 8, 8), 300), ["DynamicBinarization needs uint8", "the counts 0, 1, 2, …"]),
        (np.zeros((20, 8, 8)), ["batch_size is 128", "at most 15"]),
        (np.zeros((6, 8, 8)), ["has 6 examples; write at least seven"]),
        (np.zeros((20, 8, 8), complex), ["complex128"]),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)
def test_bad_arrays(array, words, tmp_path, capsys, no_compiling):
    argument = bad_array(tmp_path, "x.npy", array)
    refused(capsys, [DIGITS, f"--workdir={tmp_path / 'run'}", argument], words)
    assert not (tmp_path / "run").exists()


def test_pixels_outside_the_likelihoods_range(tmp_path, capsys, no_compiling):
    """Grey levels, as integers and in [0, 1], under a Bernoulli likelihood without binarization before it."""
    for preprocess, there in (("Raw", "the integers [0, 16]"), ("Scaling", "[0, 1]")):
        config = (ROOT / "configs" / "digits.py").read_text().replace("jv.DynamicBinarization()", f"jv.{preprocess}()")
        (tmp_path / "config.py").write_text(config)
        arguments = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
        refused(capsys, arguments, ["the Bernoulli likelihood takes values in {0, 1}", there, "DynamicBinarization()"])


def test_counts_are_sent_to_a_likelihood_of_counts(tmp_path, capsys, no_compiling):
    np.save(tmp_path / "x.npy", np.full((300, 5), 300))
    (tmp_path / "config.py").write_text(
        "import jaxvae as jv\ndef get_config():\n    return jv.Experiment(model=jv.VAE(latent_dim=2, encoder=jv.MLP(), "
        f"decoder=jv.MLP()), data=jv.Data(name={str(tmp_path / 'x.npy')!r}, preprocess=jv.Raw()))"
    )
    arguments = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    refused(capsys, arguments, ["has values in the counts", "write model.likelihood=NegativeBinomial(), or, for grey"])


def test_a_set_with_configs_is_looked_for_where_it_was_said(tmp_path, capsys, no_compiling):
    data = ["--config.data.name=emnist/balanced", f"--config.data.data_dir={tmp_path / 'sets'}"]
    refused(capsys, [DIGITS, f"--workdir={tmp_path / 'run'}", *data], [f"is not prepared in {tmp_path / 'sets'}:"])


def test_unreadable_files(tmp_path, capsys, no_compiling):
    (tmp_path / "x.npy").write_bytes(b"no array")
    (tmp_path / "y.npz").write_bytes(b"PK no zip")
    np.save(tmp_path / "z.npy", GREY)
    os.truncate(tmp_path / "z.npy", 10_000)
    for name in ("x.npy", "y.npz", "z.npy"):
        argument = f"--config.data.name={tmp_path / name}"
        refused(capsys, [DIGITS, f"--workdir={tmp_path / 'run'}", argument], [name, "can't be read as a NumPy file"])


MODEL = "jv.VAE(latent_dim=2, encoder=jv.MLP(), decoder=jv.MLP())"


def with_likelihood(likelihood):
    return MODEL.replace("encoder", f"likelihood={likelihood}, encoder", 1)


NO_MEAN = """
import dataclasses, jax
import jaxvae as jv
from jaxvae.distributions import pytree
@pytree
@dataclasses.dataclass(frozen=True)
class Centred:
    centre: jax.Array
    def log_prob(self, x):
        return -abs(x - self.centre).sum((-1, -2, -3))
    def sample(self, key, sample_shape=()):
        return self.centre + jax.random.cauchy(key, sample_shape + self.centre.shape)
@jv.register
@dataclasses.dataclass(frozen=True)
class Far(jv.Likelihood):
    support = jv.Support(-jax.numpy.inf, jax.numpy.inf)
    def param_size(self, channels):
        return channels
    def distribution(self, params, outputs, event_ndims):
        return Centred(outputs)
    def initial_outputs(self, data_mean):
        return data_mean
"""
NO_PYTREE = """
import dataclasses
import jaxvae as jv
class Bare(jv.distributions.Normal):
    pass
@jv.register
@dataclasses.dataclass(frozen=True)
class Own(jv.DiagonalGaussian):
    def distribution(self, params, outputs, latent_dim):
        q = super().distribution(params, outputs, latent_dim)
        return Bare(q.mean, q.log_var)
def get_config():
    model = jv.VAE(latent_dim=2, posterior=Own(), encoder=jv.MLP(), decoder=jv.MLP())
    return jv.Experiment(model=model, objective=jv.ELBO(closed_form_kl=False))
"""
NO_EMBEDDING = """
import dataclasses, jax
import jaxvae as jv
from jaxvae.distributions import pytree
@pytree
@dataclasses.dataclass(frozen=True)
class Bare:
    median: jax.Array
    def log_prob(self, z):
        return -abs(z - self.median).sum(-1)
    def sample(self, key, sample_shape=()):
        return self.median + jax.random.laplace(key, sample_shape + self.median.shape)
@jv.register
@dataclasses.dataclass(frozen=True)
class Own(jv.posteriors.OverVectors):
    def param_size(self, latent_dim):
        return latent_dim
    def distribution(self, params, outputs, latent_dim):
        return Bare(outputs)
def get_config():
    return jv.Experiment(model=jv.VAE(latent_dim=2, posterior=Own(), encoder=jv.MLP(), decoder=jv.MLP()))
"""
RAW = "data=jv.Data(preprocess=jv.Raw())"
BAD_CONFIGS = {
    f"{NO_MEAN}def get_config(): return jv.Experiment(model={with_likelihood('Far()')}, {RAW})": [
        "Centred, the distribution of Far, has no mean"
    ],
    NO_EMBEDDING: ["Bare, the distribution of Own, has no mean, at which examples are embedded"],
    NO_PYTREE: ["if that is a distribution, write @pytree (of jaxvae.distributions)"],
    f"return jv.Experiment(model={with_likelihood('jv.Bernoulli()')}, {RAW})": [
        "write data.preprocess=DynamicBinarization(), or another model.likelihood"
    ],
    f"return jv.Experiment(model={with_likelihood('jv.Categorical(num_classes=10)')}, {RAW})": [
        "digits after Raw has values in the integers [0, 16]; write a likelihood of 17 values"
    ],
    f"return jv.Experiment(model={with_likelihood('jv.ContinuousBernoulli()')}, {RAW})": [
        "write data.preprocess=Dequantization(), or another model.likelihood"
    ],
    f"return jv.Experiment(model={with_likelihood('jv.LogisticMixture()')}, {RAW.replace('Raw', 'Scaling')})": [
        "digits after Scaling has values in [0, 1]; write data.preprocess=Raw()"
    ],
    "def get_config(:": ["SyntaxError"],
    "x = 1": ["write a function get_config() in it"],
    "def get_config(): return 3": ["must return a jaxvae.Experiment, and returns int"],
    "import flax.linen as nn\nimport jaxvae as jv\n@jv.register\nclass N(nn.Module):\n    act: object = nn.relu\n"
    f"def get_config(): return jv.Experiment(model={MODEL.replace('encoder=jv.MLP()', 'encoder=N()')})": [
        "config.model.encoder.act is",
        "can't be stored in a config.json",
    ],
    "import flax.linen as nn\nimport jaxvae as jv\nfrom collections.abc import Callable\n@jv.register\n"
    "class N(nn.Module):\n    act: Callable = nn.tanh\n"  # tyro has a traceback of its own for this
    f"def get_config(): return jv.Experiment(model={MODEL.replace('encoder=jv.MLP()', 'encoder=N()')})": [
        "config.model.encoder.act is",
        "can't be stored in a config.json",
    ],
    f"return jv.Experiment(model={with_likelihood('jv.DiscretizedLogistic()')})": [
        "digits after DynamicBinarization has only two values, but DiscretizedLogistic is for more",
        "write data.preprocess=Raw()",
    ],
    "def get_config():\n    return helper()\ndef helper():\n    return {}['rate']": [
        "KeyError: 'rate' in config.py, line 4"
    ],
    "return jv.Experiment(model=jv.VAE(latent_dim=-1, encoder=jv.MLP(), decoder=jv.MLP()))": ["VAE.latent_dim is -1"],
    "return jv.Experiment(model=jv.VAE(latent_dim=2, encoder=1, decoder=2))": [
        "model.encoder is 1; write a flax.linen.Module"
    ],
    f"return jv.Experiment(model={MODEL}, num_epochs='10')": ["config.num_epochs is '10'"],
    f"return jv.Experiment(model={MODEL}, num_epochs=__import__('numpy').int64(3))": [
        "config.num_epochs is",
        "; write 3",
    ],
    f"return jv.Experiment(model={MODEL}, data=jv.Data(name=3))": ["Data.name is 3; write a string"],
    f"return jv.Experiment(model={MODEL}, batch_siez=3)": ["batch_siez"],
    f"return jv.Experiment(model={MODEL}, objective=jv.IWAE)": [
        "config.objective is <class 'jaxvae.objectives.weights.IWAE'>"
    ],
    f"return jv.Experiment(model={MODEL}, objective=jv.ELBO(beta_schedule=lambda s: 1.0))": [
        "config.objective.beta_schedule is <function",
        "can't be stored in a config.json",
    ],
}


@pytest.mark.parametrize("text", BAD_CONFIGS)
def test_bad_config_files(text, tmp_path, capsys, no_compiling):
    if text.startswith("return"):
        text, words = f"import jaxvae as jv\ndef get_config():\n    {text}", BAD_CONFIGS[text]
    else:
        words = BAD_CONFIGS[text]
    (tmp_path / "config.py").write_text(text)
    refused(capsys, [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"], words)
    assert not (tmp_path / "run").exists()


def test_a_set_that_is_not_prepared(tmp_path, capsys, no_compiling):
    arguments = [
        DIGITS,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=mnist",
        f"--config.data.data_dir={tmp_path}",
    ]
    refused(
        capsys,
        arguments,
        [
            "not prepared",
            "--config.data.data_dir=DIR, or --data-dir=DIR",
            "pip install '.[prepare]' && tfds build mnist",
        ],
    )


def test_bad_workdirs(run, tmp_path, capsys, no_compiling):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    refused(capsys, [DIGITS, f"--workdir={run}"], ["another config", "model.latent_dim is 3 there and 8 here"])
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    (tmp_path / "file").write_text("mine")
    refused(capsys, [DIGITS, f"--workdir={tmp_path / 'file'}"], ["is a file"])
    refused(capsys, [DIGITS, f"--workdir={tmp_path / 'file' / 'run'}"], ["can't be written"])
    assert (tmp_path / "file").read_text() == "mine"
    if pathlib.Path("/proc").exists():
        refused(capsys, [DIGITS, "--workdir=/proc/run"], ["--workdir=/proc/run can't be written"])
    refused(capsys, [DIGITS], ["--workdir"])
    refused(capsys, ["--config=missing.py", f"--workdir={tmp_path / 'new'}"], ["--config=missing.py is not a file"])
    refused(capsys, [f"--workdir={tmp_path / 'new'}", "--config"], ["--config needs a file"])


def test_bad_evaluations(run, tmp_path, capsys, no_compiling):
    refused(capsys, [f"--workdir={tmp_path}"], ["holds no run"], command.evaluate_main)
    for kind in ("sweep", "model"):
        (tmp_path / kind).mkdir()
    (tmp_path / "sweep" / "sweep.json").touch()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    of_a_sweep = ["is the folder of a sweep; write that of one of its runs"]
    refused(capsys, [f"--workdir={tmp_path / 'sweep'}"], of_a_sweep, command.evaluate_main)
    for main in (command.evaluate_main, command.train_main):
        refused(capsys, [f"--workdir={tmp_path / 'model'}"], ["is a published model"], main)
    refused(
        capsys,
        [f"--workdir={run}", "--num-importance-samples=0"],
        ["--num-importance-samples is 0"],
        command.evaluate_main,
    )
    many = [f"--workdir={run}", "--num-importance-samples=2000000001"]
    for main in (command.evaluate_main, command.derive_main, command.inference_gap_main):
        refused(capsys, many, ["error: --num-importance-samples is 2000000001; write a", "at most 2,000,000,000"], main)
    refused(capsys, [f"--workdir={run}", "--split=tset"], ["tset"], command.evaluate_main)
    refused(capsys, [f"--workdir={run}", "--output=a.gif"], [".png or .npy"], command.generate_main)
    refused(capsys, [f"--workdir={run}", "--output=a.png", "--num=0"], ["num is 0"], command.generate_main)
    many = [f"--workdir={run}", "--output=a.png", "--num=10001"]
    refused(capsys, many, ["10001 is too many for a picture", ".npy"], command.generate_main)


DIVERGING = """
import jaxvae as jv
def get_config():
    return jv.Experiment(
        model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,)), likelihood=jv.Gaussian()),
        data=jv.Data(preprocess=jv.Dequantization()),
        num_epochs=EPOCHS, checkpoint_every_epochs=1, eval_every_epochs=100,
        optimizer=jv.SGD(learning_rate=1e-4, schedule=jv.Stages(epochs=(3, 9), factors=(1.0, 1e30))))
"""


@pytest.mark.parametrize("epochs", [3, 20])
def test_a_diverging_run_stops_and_keeps_its_checkpoint(epochs, tmp_path, capsys, no_pictures):
    """A learning rate that explodes after three epochs: the line names step and term, the checkpoint is from before."""
    (tmp_path / "config.py").write_text(DIVERGING.replace("EPOCHS", str(epochs)))
    arguments = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    status = command.train_main(arguments)
    error = capsys.readouterr().err.splitlines()[-1]
    if epochs == 3:
        assert status == 0
        return
    assert status == 1
    assert re.fullmatch(
        r"error: step 3\d: the [a-z ]+ is (nan|-?inf).*the newest checkpoint is of step 30\..*", error
    ), error
    assert all(r["step"] <= 30 for r in lines(tmp_path / "run"))
    params, step = restore_params(serialization.read(tmp_path / "run" / "config.json"), tmp_path / "run")
    assert step == 30
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_parameters_that_are_not_finite_are_never_saved(tmp_path, capsys):
    """The very last step breaks the parameters, and no loss was computed with them."""
    text = DIVERGING.replace("EPOCHS", "1").replace(
        "epochs=(3, 9), factors=(1.0, 1e30)", "epochs=(1,), factors=(1e38,)"
    )
    (tmp_path / "config.py").write_text(text.replace("Dequantization", "Scaling"))
    arguments = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", "--config.batch_size=1285"]
    assert command.train_main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: step 1: the parameters are not finite")
    assert "no checkpoint was saved" in error
    assert list((tmp_path / "run" / "checkpoints" / "latest").iterdir()) == []


def test_a_damaged_checkpoint_is_named(run, tmp_path, capsys):
    """If the newest is damaged, the one before it is evaluated; if all are, it is an error."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    older, newest = sorted((copy / "checkpoints" / "best").iterdir(), key=lambda path: int(path.name))
    for damaged in (newest, older):
        for file in damaged.rglob("*"):
            if file.is_file() and file.stat().st_size > 10:
                file.write_bytes(file.read_bytes()[:10])
        status = command.evaluate_main([f"--workdir={copy}", "--num-importance-samples=2"])
        out, error = capsys.readouterr()
        assert f"warning: the checkpoint of step {newest.name} in {newest.parent} is damaged" in error
        if damaged == newest:
            assert status == 0
            assert json.loads(out)["step"] == int(older.name)
        else:
            assert status == 1
            assert f"all checkpoints in {newest.parent} are damaged (steps {newest.name}, {older.name})" in error


def test_training_moves_a_damaged_best_model_aside(run, tmp_path, capsys, no_pictures):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    older, newest = sorted((copy / "checkpoints" / "best").iterdir(), key=lambda path: int(path.name))
    os.truncate(newest / "SHA256SUMS", 10)
    assert command.train_main([f"--workdir={copy}"]) == 0
    assert f"the damaged checkpoint of step {newest.name} is now" in capsys.readouterr().err
    assert (copy / "checkpoints" / "damaged" / f"best-{newest.name}").is_dir()
    assert lines(copy)[-1]["model_step"] == int(older.name)


def test_what_another_process_did_meanwhile_is_seen(run, tmp_path, monkeypatch):
    """Between the first look into the folder and the first write to it, which here is moved there."""
    experiment, folder, whole = serialization.read(run / "config.json"), tmp_path / "run", runs.remarks.remark

    def beside(do):
        def remark(*arguments):
            monkeypatch.setattr(runs.remarks, "remark", whole)
            do()
            return whole(*arguments)

        monkeypatch.setattr(runs.remarks, "remark", remark)

    beside(lambda: runs.prepare(dataclasses.replace(experiment, seed=1), folder))
    with pytest.raises(ValueError, match="holds a run with another config: seed is 1 there and 0 here"):
        runs.prepare(experiment, folder)
    assert workdir.read_config(folder).seed == 1
    with contextlib.ExitStack() as stack:
        beside(lambda: stack.enter_context(workdir.locked(folder)))
        with pytest.raises(ValueError, match="is in use by another process"):
            runs.prepare(dataclasses.replace(experiment, seed=1), folder)


def test_a_number_that_is_not_finite_is_a_line():
    assert outcome.as_line({"elbo": -1.5, "a": None, "b": [1]}) == '{"elbo": -1.5, "a": null, "b": [1]}'
    for value in (float("nan"), np.float64("-inf"), [1.0, float("nan")]):
        with pytest.raises(stopping.Diverged, match="the log evidence is NaN or infinite; the trained model is kept"):
            outcome.as_line({"elbo": -1.0, "log_evidence": value})


def test_an_unexpected_error_is_told_once(capsys):
    def bug(argv):
        raise KeyError("x")

    with pytest.raises(KeyError):
        running.run_command(bug, [])
    assert capsys.readouterr().err == ""  # Python prints it


@pytest.mark.long
def test_a_class_of_ones_own_is_found_by_its_config(tmp_path):
    """Each command in its own process, as a user runs it."""
    (tmp_path / "config.py").write_text(
        """
import flax.linen as nn
import jaxvae as jv

@jv.register
class Mine(nn.Module):
    width: int = 3
    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(self.width)(x.reshape(len(x), -1)))

def get_config():
    return jv.Experiment(model=jv.VAE(latent_dim=3, encoder=Mine(), decoder=Mine(width=5)), num_epochs=1)
"""
    )

    def run(script, *arguments):
        command = [sys.executable, ROOT / "scripts" / script, f"--workdir={tmp_path / 'run'}", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    config = f"--config={tmp_path / 'config.py'}"
    assert run("train.py", config, "--config.model.encoder.width=4").returncode == 0
    assert run("evaluate.py", config, "--num-importance-samples=2").returncode == 0
    without = run("evaluate.py")
    assert without.returncode == 2
    assert "unknown class 'Mine'" in without.stderr
    assert "--config=FILE" in without.stderr


def test_a_second_process_is_refused_and_a_stale_lock_is_none(tmp_path, capsys, no_compiling, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    holder = f"""
import pathlib, time
from jaxvae.experiment import workdir
with workdir.locked(pathlib.Path({str(folder)!r})):
    print("locked", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        refused(capsys, [DIGITS, f"--workdir={folder}"], ["is in use by another process"])

        def work():
            with workdir.locked(folder):
                pass

        assert running.run_command(lambda argv: work, []) == 2  # the other began while this one was prepared
        with monkeypatch.context() as several:  # a run's processes start together, and only one tries the lock
            several.setattr(cluster, "is_first", lambda: False)
            workdir.check(folder)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (folder / ".lock").exists()
    workdir.check(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    (folder / "figures").mkdir()  # a run that could not begin may have left it
    workdir.check(folder)
    (folder / "figures" / "own.png").touch()
    with pytest.raises(ValueError, match="holds figures but no config"):
        workdir.check(folder)


def test_a_run_that_could_not_begin_may_be_tried_again(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    config = jv.Experiment(model=jv.VAE(event_shape=(5,), latent_dim=2, encoder=jv.MLP(), decoder=jv.MLP()))
    monkeypatch.setattr(workdir.files, "write_json", full)
    with pytest.raises(ValueError, match="No space left on device"):
        workdir.create(tmp_path / "run", config, {})
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    workdir.check(tmp_path / "run")


@pytest.mark.parametrize(("owner", "name"), [(Checkpoints, "close"), (runs, "_finish"), (runs.console, "say")])
def test_a_signal_after_the_last_step(owner, name, run, tmp_path, capsys, monkeypatch, no_pictures):
    """While the checkpoints are closed, while the model is evaluated, and between that and the last line."""
    shutil.copytree(run, tmp_path / "run")
    before, signals = getattr(owner, name), [signal.SIGTERM]

    def told(*arguments, **options):
        if signals and (name != "say" or arguments[0].startswith("wrote ")):
            os.kill(os.getpid(), signals.pop())
        return before(*arguments, **options)

    monkeypatch.setattr(owner, name, told)
    assert command.train_main([DIGITS, f"--workdir={tmp_path / 'run'}", *QUICK]) == 128 + signal.SIGTERM
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped by SIGTERM and saved at step 40; the same command goes on from there"


def test_a_run_is_published(run, tmp_path, capsys):
    assert command.publish_main([f"--workdir={run}", f"--output={tmp_path / 'model'}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model'}\n"
    experiment = serialization.read(run / "config.json")
    model, params = jv.load_model(tmp_path / "model")
    assert model == experiment.model
    for a, b in zip(*map(jax.tree.leaves, (params, restore_params(experiment, run)[0])), strict=True):
        np.testing.assert_array_equal(a, b)
    refused(capsys, [f"--workdir={run}", f"--output={tmp_path / 'model'}"], ["exists already"], command.publish_main)
    (tmp_path / "file").touch()
    assert command.publish_main([f"--workdir={run}", f"--output={tmp_path / 'file' / 'model'}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file' / 'model'} could not be written (")
