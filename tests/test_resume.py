"""Stopped at random moments by real signals and resumed, a run ends with the bits of a run without stops.

CI has one stop, `JAXVAE_FAULTS=full` ten.
"""

import json
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
from conftest import FULL, ROOT

STOPS = 10 if FULL else 1
CONFIG = """
import jaxvae as jv
from jaxvae.experiment import loop, outcome
outcome.picture = lambda *args: None  # it is not looked at
loop._DISPATCH_SECONDS = 0.02  # an epoch is many dispatches, and so most stops are within one
def get_config():
    return jv.Experiment(
        data=jv.Data(name="{data}", preprocess=jv.DynamicBinarization()),
        model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,))),
        optimizer=jv.Adam(schedule=jv.Cosine()), num_epochs={epochs}, batch_size=10, ema_decay=0.99,
        kl_warmup_epochs=9.5, eval_every_epochs=10, checkpoint_every_epochs=7)
"""
STEPS_PER_EPOCH = 15_000


def start(tmp_path, name):
    command = [
        sys.executable,
        ROOT / "scripts" / "train.py",
        f"--config={tmp_path / 'c.py'}",
        f"--workdir={tmp_path / name}",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return re.search("sha256 (.*)", out).group(1)


def num_lines(log):
    return log.read_text().count("\n") if log.exists() else 0


def test_stops_change_no_bit(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (210_000, 4, 4, 1), dtype=np.uint8))
    (tmp_path / "c.py").write_text(CONFIG.format(data=tmp_path / "x.npy", epochs=3 * STOPS + 1))
    whole = finish(start(tmp_path, "whole"))
    rng, steps = random.Random(0), []
    log = tmp_path / "stopped" / "metrics.jsonl"
    while len(steps) < STOPS:
        before = num_lines(log)
        process = start(tmp_path, "stopped")
        while process.poll() is None and num_lines(log) < before + 2:  # after its first epoch it may still compile
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.4))
        signum = rng.choice([signal.SIGINT, signal.SIGTERM])
        process.send_signal(signum)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 128 + signum, err
        assert "goes on from there" in err
        steps.append(int(re.search(r"saved at step (\d+)", err).group(1)))
    print("stopped at steps", steps)
    assert steps == sorted(steps)
    assert len(set(steps)) == STOPS
    assert sum(step % STEPS_PER_EPOCH != 0 for step in steps) >= STOPS // 2, "too few stops within an epoch"
    assert finish(start(tmp_path, "stopped")) == whole
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
    assert lines[0] == lines[1]
    assert json.loads(lines[0].splitlines()[-1])["split"] == "test"
