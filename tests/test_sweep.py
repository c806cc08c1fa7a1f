"""A sweep: each replica ends where its single run ends, and leaves a run's folder; its mistakes, stops and failures."""

import functools
import json
import math
import os
import signal
import time

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import ROOT

import jaxvae as jv
from jaxvae.data import Dataset, Split
from jaxvae.experiment import command, console, memory, restoring, run, serialization, sweep, workdir
from jaxvae.experiment.intervals import Interval
from jaxvae.experiment.session import Trainer
from jaxvae.fingerprints import digest
from jaxvae.training import Examples, Resident
from jaxvae.typing import Support

pytestmark = pytest.mark.usefixtures("no_pictures")

DIVERGES = ["--config.optimizer.clip_norm=None", "--config.ema_decay=None"]
# Everything that a step can have: a warm-up of β, an average of the parameters, parts, a schedule of the learning rate.
TINY = [
    f"--config={ROOT / 'configs' / 'digits.py'}",
    "--config.model.encoder.hidden=8,8",
    "--config.model.decoder.hidden=8,8",
    "--config.model.latent_dim=2",
    "--config.num_epochs=4",
    "--config.kl_warmup_epochs=2.5",
    "--config.ema_decay=0.9",
    "--config.num_parts=2",
    "--config.seed=3",
]


def last_params(folder):
    params, step = restoring.restore_last_params(serialization.read(folder / "config.json"), folder)
    assert step == 40
    return params


def apart(a, b):
    """The largest distance between two arrays of two sets of parameters, relative to the array's norm."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.linalg.norm(x - y) / np.linalg.norm(x)) for x, y in pairs if np.linalg.norm(x) > 0)


def check_against_a_single_run(folder, name, others):
    """Compares a replica with a run of the config that the sweep left in its folder."""
    run.train(serialization.read(folder / name / "config.json"), folder / "single")
    single = last_params(folder / "single")
    assert apart(single, last_params(folder / name)) < 1e-4
    assert min(apart(single, last_params(folder / other)) for other in others) > 1e-2


def test_seeds_end_where_single_runs_end_and_leave_their_folders(tmp_path, capsys):
    assert command.sweep_main([*TINY, f"--workdir={tmp_path}", "--num-seeds=3"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    check_against_a_single_run(tmp_path, "seed-4", ["seed-3", "seed-5"])

    # its numbers equal those of evaluate.py for a folder, and its means and intervals those of `Interval`
    names = ["seed-3", "seed-4", "seed-5"]
    assert [row["name"] for row in summary["replicas"]] == names
    assert [row["seed"] for row in summary["replicas"]] == [3, 4, 5]
    assert command.evaluate_main([f"--workdir={tmp_path / 'seed-4'}", "--num-importance-samples=1"]) == 0
    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert evaluated["step"] == summary["step"] == 40
    for term in ("elbo", "elbo_stderr", "distortion", "distortion_stderr", "rate", "rate_stderr", "num_examples"):
        assert summary["replicas"][1][term] == pytest.approx(evaluated[term], rel=1e-6), term
    for term in ("elbo", "distortion", "rate"):
        mean, half = Interval.of([row[term] for row in summary["replicas"]])
        assert summary["over_seeds"][term] == {"mean": mean, "interval95": half}

    # the folders are those of finished runs, except for the figures
    assert {p.name for p in tmp_path.iterdir()} == {*names, "single", "sweep.json", "sweep.png", ".lock"}
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written.pop("config")["num_epochs"] == 4
    assert written == summary
    assert workdir.is_finished(tmp_path / "seed-4")
    for ours, theirs in zip(*(workdir.read_metrics(tmp_path / name)[:4] for name in ("seed-4", "single")), strict=True):
        assert ours.pop("split") == theirs.pop("split") == "train"
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.long
def test_betas_end_where_single_runs_end_beside_one_that_diverges(tmp_path, capsys, monkeypatch):
    """With vmap, as on an accelerator, and with the warm-up, which multiplies each β. A large β gives a low rate."""
    in_one_step = functools.partial(sweep.make_advance, side_by_side=True)
    monkeypatch.setattr(sweep.training, "make_advance", lambda trainer, **_: in_one_step(trainer))
    arguments = [*TINY, *DIVERGES, f"--workdir={tmp_path}", "--betas=4,1e38,0.25"]
    assert command.sweep_main(arguments) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out.splitlines()[-1])
    low, high, lost = summary["replicas"]
    assert [(row["name"], row["beta"], row["seed"]) for row in (low, high, lost)] == [
        ("beta-0.25", 0.25, 3),
        ("beta-4", 4.0, 3),
        ("beta-1e+38", 1e38, 3),
    ]
    assert summary["over_seeds"] is None
    assert low["rate"] > high["rate"] and low["distortion"] < high["distortion"]
    check_against_a_single_run(tmp_path, "beta-4", ["beta-0.25"])

    assert low["diverged"] is high["diverged"] is lost["elbo"] is None
    assert "| beta-1e+38 | diverged at step " in printed.out
    assert "beta-1e+38 diverged at step " in printed.err
    assert command.evaluate_main([f"--workdir={tmp_path / 'beta-1e+38'}"]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the slow path is the CPU backend's")
@pytest.mark.parametrize(("encoder", "loops"), [(jv.ConvEncoder(), True), (nn.Conv(3, (3, 3)), False)])
def test_on_a_cpu_xlas_convolutions_are_in_no_loop(encoder, loops):
    x = np.zeros((8, 8, 8, 1), np.uint8)
    dataset = Dataset(Split(x, None), None, None, Support(0, 255, integer=True))
    model = jv.VAE(latent_dim=2, encoder=encoder, decoder=jv.ConvDecoder())
    config = jv.Experiment(data=jv.Data("x.npy"), model=model, num_epochs=1, batch_size=4).fit_to(dataset)
    trainers = {name: Trainer.of(e, dataset) for name, e in sweep.over_seeds(config, 2).items()}
    runs = sweep.Sweep(trainers, None)
    order = np.zeros((2, 2, 4), np.int32)
    advance = sweep.make_advance(runs.first, side_by_side=False)
    program = jax.make_jaxpr(lambda *carry: advance(*carry, Resident(Examples.of(x), order), None, runs.keys.train, 2))(
        *sweep.start(runs)
    )
    assert ("while[" in str(program)) == loops


def test_where_all_diverge_the_exit_code_says_so(tmp_path, capsys):
    assert (
        command.sweep_main([*TINY, *DIVERGES, "--config.num_epochs=1", f"--workdir={tmp_path}", "--betas=1e37,1e38"])
        == 1
    )
    printed = capsys.readouterr()
    assert all(row["diverged"] for row in json.loads(printed.out.splitlines()[-1])["replicas"])
    assert printed.err.splitlines()[-1].startswith("error: all runs diverged")
    assert {p.name for p in tmp_path.iterdir()} == {"sweep.json", "beta-1e+37", "beta-1e+38", ".lock"}


class StopsAt:
    """A progress bar that sends a signal at a step."""

    def __init__(self, step, signum=signal.SIGINT):
        self.step, self.signum = step, signum

    def update(self, done, *args, **kwargs):
        if done >= self.step:
            os.kill(os.getpid(), self.signum)

    def close(self):
        pass


@pytest.mark.long
def test_a_stopped_sweep_ends_where_it_would_have(tmp_path, capsys, monkeypatch):
    """To the last bit: stopped within an epoch, after one run had diverged, during evaluation, and while drawing."""
    arguments = [*TINY, *DIVERGES, "--betas=0.25,4,1e38"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command.sweep_main([*arguments, f"--workdir={whole}"]) == 0
    expected = json.loads(capsys.readouterr().out.splitlines()[-1])

    where = {
        "train": StopsAt(13, signal.SIGTERM),
        "evaluate": StopsAt(1),  # counts the runs that were evaluated
    }
    started = []

    def start(total, *, initial=0, title, unit):
        started.append((unit, initial))
        return where["train" if unit == "step" else "evaluate"]

    with monkeypatch.context() as patch:
        patch.setattr(console, "start", start)
        patch.setattr(sweep.training.loop, "_FEW_STEPS", 1)
        patch.setattr(sweep.training, "_DISPATCH_SECONDS", 0.0)  # one step in each dispatch
        assert command.sweep_main([*arguments, f"--workdir={stopped}"]) == 143
        assert "stopped by SIGTERM and saved at step 13; the same" in capsys.readouterr().err
        with pytest.raises(
            ValueError, match=r"beta-4 has no checkpoint yet; it is part of the sweep in .*stopped; let"
        ):
            restoring.restore_params(serialization.read(stopped / "beta-4" / "config.json"), stopped / "beta-4")
        with pytest.raises(ValueError, match="beta-4 is of an unfinished sweep"):
            run.prepare(serialization.read(stopped / "beta-4" / "config.json"), stopped / "beta-4")
        where["train"] = StopsAt(1000)
        assert command.sweep_main([*arguments, f"--workdir={stopped}"]) == 130
        said = capsys.readouterr().err
        assert "resumed at step 13 of 40" in said
        assert "beta-1e+38 diverged at step " in said
        assert said.splitlines()[-1].startswith("stopped by SIGINT and saved at step 40; the same command")
    assert started == [("step", 0), ("step", 13), ("run", 0)]
    assert not (stopped / "sweep.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(sweep.summary, "draw", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9))
        assert command.sweep_main([*arguments, f"--workdir={stopped}"]) == 143
    assert "stopped by SIGTERM and saved at step 40; the same command" in capsys.readouterr().err
    assert command.sweep_main([*TINY, "--betas=1,2", f"--workdir={stopped}"]) == 2
    assert ".partial belongs to another sweep; resume that" in capsys.readouterr().err
    assert command.sweep_main([*arguments, f"--workdir={stopped}"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.pop("train_seconds") is None
    del expected["train_seconds"], expected["environment"]["date"], found["environment"]["date"]
    assert found == expected
    for name in ("beta-0.25", "beta-4", "beta-1e+38"):
        assert workdir.read_metrics(stopped / name) == workdir.read_metrics(whole / name)
    assert digest(last_params(stopped / "beta-4")) == digest(last_params(whole / "beta-4"))
    assert {p.name for p in stopped.iterdir()} == {p.name for p in whole.iterdir()}  # the stops left nothing
    assert command.sweep_main([*TINY, "--betas=1,2", f"--workdir={stopped}"]) == 2
    assert "stopped holds a finished sweep, whose results are in sweep.json; choose another" in capsys.readouterr().err
    assert command.train_main([*TINY, f"--workdir={stopped}"]) == 2
    assert "stopped is the folder of a sweep; choose another folder" in capsys.readouterr().err


def test_a_sweep_that_another_process_finished_is_not_trained_again(tmp_path):
    config = jv.Experiment(model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=(4,)), decoder=jv.MLP(hidden=(4,))))
    prepared = sweep.prepare(sweep.over_seeds(config, 2), tmp_path)
    (tmp_path / "sweep.json").touch()
    with pytest.raises(workdir.InUse, match="is finished already"):
        sweep.finish(prepared, tmp_path)


def test_mistakes_are_named_before_the_work(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "sweep"

    def refused(arguments, words):
        assert command.sweep_main([*TINY, f"--workdir={folder}", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
        assert not folder.exists()

    refused([], "write --num-seeds=N or --betas=0.5,1,2")
    refused(["--num-seeds=2", "--betas=1,2"], "write --num-seeds=N or --betas=0.5,1,2")
    refused(["--num-seeds=1"], "--num-seeds is 1; write a whole number from 2 to 1,000")
    refused(["--betas=1"], "--betas has fewer than two values")
    refused(["--betas=1,1.0"], "has a value twice")
    refused(["--betas=1e-50,0"], "has a value twice")  # equal in 32 bits
    refused(["--betas=1,1e39"], "has a value above float32's largest, 3.4e+38")
    refused(["--betas=1,-1"], "ELBO.beta is -1.0")
    refused(["--betas=1,nan"], "ELBO.beta is nan")
    refused(["--num-seeds=2", "--config.seed=4294967295"], "Experiment.seed is 4294967296")
    validates = ["--config.data.num_validation=100", "--config.patience=3"]
    refused(["--num-seeds=2", *validates], "patience is 3, but the replicas of a sweep stop together")
    (tmp_path / "iwae.py").write_text(
        "import jaxvae as jv\n"
        "def get_config():\n"
        "    mlp = jv.MLP(hidden=(8,))\n"
        "    return jv.Experiment(model=jv.VAE(latent_dim=2, encoder=mlp, decoder=mlp), objective=jv.IWAE())\n"
    )
    iwae = [f"--config={tmp_path / 'iwae.py'}", f"--workdir={folder}", "--betas=1,2"]
    assert command.sweep_main(iwae) == 2
    assert "the objective is IWAE; write objective=ELBO() or --num-seeds=N" in capsys.readouterr().err
    text = (tmp_path / "iwae.py").read_text().replace("IWAE()", "ELBO()")
    (tmp_path / "ae.py").write_text(text.replace("decoder=mlp", "decoder=mlp, posterior=jv.Delta()"))
    assert command.sweep_main([f"--config={tmp_path / 'ae.py'}", f"--workdir={folder}", "--num-seeds=2"]) == 2
    assert "the posterior Delta has no density, and so no rate" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(memory, "for_examples", lambda: 1000.0)
        refused(["--num-seeds=2"], "which has 1,000 for them; train single runs")
    with monkeypatch.context() as patch:
        patch.setattr(memory, "for_examples", lambda: math.inf)
        patch.setattr(memory, "available", lambda: 25_000.0)  # one copy of 1,300 parameters takes 20,808
        refused(["--num-seeds=2"], "2,600 parameters, their gradients")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    assert command.sweep_main([*TINY, f"--workdir={tmp_path / 'run'}", "--num-seeds=2"]) == 2
    assert "run holds a run; choose another folder" in capsys.readouterr().err
    (folder / "seed-4" / "checkpoints" / "latest").mkdir(parents=True)
    assert command.sweep_main([*TINY, f"--workdir={folder}", "--num-seeds=2"]) == 2
    assert "seed-4 holds checkpoints but no config.json" in capsys.readouterr().err
    monkeypatch.setattr(workdir, "check", lambda *args: None)
    assert command.sweep_main([*TINY, f"--workdir={folder}", "--num-seeds=2"]) == 2
    assert "seed-4 holds a run that is not of an unfinished sweep; choose another" in capsys.readouterr().err
    assert not (folder / "seed-3").exists()
