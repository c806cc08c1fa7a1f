"""Two processes on one machine train what one trains. A killed one ends the other, and both can be started again."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxvae.experiment import serialization
from jaxvae.experiment.cluster import HEARTBEAT_SECONDS
from jaxvae.experiment.command import train_main
from jaxvae.experiment.restoring import restore_last_params

CONFIG = """
import os
import jaxvae as jv
from jaxvae.experiment import loop, outcome

outcome.picture = lambda *args: None  # it is not looked at

def no_space(*_):
    raise OSError("no space left")

if os.environ.get("FAILS"):
    loop._param_norm = no_space

def get_config():
    return jv.Experiment(
        model=jv.VAE(latent_dim=3, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,))),
        num_epochs=2, eval_every_epochs=100_000, checkpoint_every_epochs=50, ema_decay=0.9)
"""


@pytest.fixture
def start(tmp_path):
    """Starts both processes of a run, or one process alone."""
    (tmp_path / "c.py").write_text(CONFIG)
    started = []

    def run(workdir, *arguments, processes=2, failing=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        command = [
            sys.executable,
            ROOT / "scripts" / "train.py",
            f"--config={tmp_path / 'c.py'}",
            f"--workdir={workdir}",
        ]
        for i in range(processes):
            among = (f"--coordinator={address}", f"--num-processes={processes}", f"--process-id={i}")
            with open(tmp_path / f"log-{len(started)}", "w") as log:
                started.append(
                    subprocess.Popen(
                        [*command, *arguments, *(among if processes > 1 else ())],
                        env=env | ({"FAILS": "1"} if i == failing else {}),
                        stderr=log,
                        stdout=log,
                    )
                )
        return started[-processes:]

    def log_of(process):
        return (tmp_path / f"log-{started.index(process)}").read_text()

    def resumed_at(process):
        deadline = time.monotonic() + 120
        while (found := re.search(r"resumed at step ([\d,]+)", log_of(process))) is None:
            assert process.poll() is None, log_of(process)
            assert time.monotonic() < deadline, "\n".join(map(log_of, started))
            time.sleep(0.05)
        return int(found.group(1).replace(",", ""))

    yield run, log_of, resumed_at
    for process in started:
        process.kill()
        process.wait()


def params_of(workdir):
    return restore_last_params(serialization.read(pathlib.Path(workdir) / "config.json"), pathlib.Path(workdir))


def test_two_processes_train_what_one_trains(start, tmp_path, no_pictures):
    run, log_of, _ = start
    validated = "--config.eval_every_epochs=1"
    both = run(tmp_path / "two", validated)
    for process in both:
        assert process.wait(timeout=120) == 0, log_of(process)
    assert train_main([f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'one'}", validated]) == 0
    (two, steps), (one, _) = params_of(tmp_path / "two"), params_of(tmp_path / "one")
    assert steps == 20
    for a, b in zip(*map(jax.tree.leaves, (two, one)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    kept = [(tmp_path / name / "checkpoints" / "best" / "20").is_dir() for name in ("one", "two")]
    assert kept == [True, True]
    # only the first process writes and prints
    assert (tmp_path / "two" / "metrics.jsonl").read_text().count('"split": "test"') == 1
    assert "sha256" in log_of(both[0])
    assert "sha256" not in log_of(both[1])


@pytest.mark.long
def test_a_process_that_fails_by_itself_says_so_and_ends_the_other(start, tmp_path):
    run, log_of, _ = start
    first, second = run(tmp_path / "run", "--config.num_epochs=200000", failing=1)
    assert second.wait(timeout=120) == 1, log_of(second)
    failed = time.monotonic()
    assert log_of(second).splitlines()[-1] == "error: no space left"
    assert first.wait(timeout=HEARTBEAT_SECONDS + 30) != 0
    print(f"the other one ended {time.monotonic() - failed:.1f} s later")


@pytest.mark.long
def test_a_killed_process_ends_the_other_and_any_number_goes_on(start, tmp_path):
    run, log_of, resumed_at = start
    first, second = run(tmp_path / "run", "--config.num_epochs=200000")
    saved = tmp_path / "run" / "checkpoints" / "latest" / "500"
    deadline = time.monotonic() + 120
    while not saved.exists() and time.monotonic() < deadline:
        assert first.poll() is None, log_of(first)
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert first.wait(timeout=HEARTBEAT_SECONDS + 30) != 0
    print(f"the other one ended {time.monotonic() - killed:.1f} s after the kill:", log_of(first).splitlines()[-1])
    both = run(tmp_path / "run", "--config.num_epochs=200000")
    resumed = resumed_at(both[0])
    assert resumed >= 500
    time.sleep(1)
    both[1].send_signal(signal.SIGTERM)  # it tells the other one
    for process in both:
        assert process.wait(timeout=60) == 128 + signal.SIGTERM, log_of(process)
    stopped = params_of(tmp_path / "run")[1]
    assert stopped > resumed
    (alone,) = run(tmp_path / "run", "--config.num_epochs=200000", processes=1)
    assert resumed_at(alone) == stopped
    alone.send_signal(signal.SIGTERM)
    assert alone.wait(timeout=60) == 128 + signal.SIGTERM, log_of(alone)


def test_mistakes_are_named(capsys, tmp_path):
    for wrong, message in (
        ("--num-devices=2", "--num-devices is 2, but there are 1"),
        ("--num-devices=0", "write a whole number of at least 1"),
        ("--num-processes=2", "need --coordinator=HOST:PORT"),
        ("--coordinator=here", "--coordinator=here is not an address; write HOST:PORT"),
        ("--coordinator=here:99999 --num-processes=1 --process-id=0", "--coordinator=here:99999 is not an address"),
        ("--coordinator=here:0 --num-processes=1 --process-id=0", "--coordinator=here:0 is not an address"),
        ("--coordinator=here:1", "needs both --num-processes=N and --process-id"),
    ):
        config = f"--config={ROOT / 'configs' / 'digits.py'}"
        assert train_main([f"--workdir={tmp_path / 'run'}", config, *wrong.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
