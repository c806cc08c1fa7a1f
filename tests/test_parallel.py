"""Training on many devices gives the parameters of one device, up to rounding."""

import json
import os
import subprocess
import sys

import jax
import pytest
from conftest import FAST, ROOT

from jaxvae import parallel


@pytest.fixture(scope="module")
def on_many_devices():
    flags = f"--xla_force_host_platform_device_count=8 {FAST}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    program = [sys.executable, "-W", "error", ROOT / "tests" / "on_many_devices.py"]
    return json.loads(subprocess.run(program, env=env, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    "how",
    [
        "jit on 8",
        "jit on 8, streamed",
        "jit on 8, parameters split",
        "jit on 8, in 8 parts",
        "pmap on 8",
        "pmap on 8, streamed",
        "shard_map on 8",
        "jit on 8, Muon's state and an average split",
        "10 steps on 8, then on one",
    ],
)
def test_twenty_steps_agree_with_one_device(on_many_devices, how):
    assert on_many_devices["num_devices"] == 8
    assert on_many_devices[how] < 1e-5


def test_parts_and_parameters_are_what_they_are_called(on_many_devices):
    assert on_many_devices["parts have their own draws"] > 1e-2
    assert on_many_devices["rows of a split kernel"] == [[8, 32]] * 8  # of 64 × 32


def test_the_draws_of_a_batch_are_split_with_its_examples(on_many_devices):
    assert on_many_devices["share of each of 8 in a step of IWAE"] < 0.15


def test_what_cannot_be_split_is_refused():
    mesh = parallel.OnMesh.of(jax.devices()[:1])
    mesh.check(batch_size=128, num_parts=1)
    with pytest.raises(ValueError, match="a mesh splits the batch itself"):
        mesh.check(batch_size=128, num_parts=4)
    pmapped = parallel.ByPmap(tuple(jax.devices()[:1]) * 8)
    with pytest.raises(ValueError, match=r"num_parts is 4; write --config\.num_parts=8"):
        pmapped.check(batch_size=128, num_parts=4)
    with pytest.raises(ValueError, match="batch_size is 12; write a multiple of num_parts, 8"):
        pmapped.check(batch_size=12, num_parts=8)
