"""The fault harness in its quick form; `python tests/faults.py all` runs all of it, in an hour."""

import os
import subprocess
from functools import partial

import faults
import pytest

pytestmark = pytest.mark.long


def can_mount(folder):
    """Whether a disk can be mounted here, which needs root and a kernel that allows it."""
    if os.getuid() != 0:
        return False
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode != 0:
        return False
    subprocess.run(["umount", folder], check=True)
    return True


def test_kills(tmp_path):
    assert faults.kills(tmp_path, count=2, epochs=25)["kills"] == 2


def test_damage(tmp_path):
    result = faults.damage(tmp_path, count=30)
    assert sum(result["named_and_passed_over"].values()) + sum(result["harmless"].values()) == 30


def test_signals(tmp_path):
    assert sum(faults.signals(tmp_path, count=2, epochs=15)["outcomes"].values()) >= 2


@pytest.mark.parametrize("fault", [partial(faults.disk, epochs=15, left_kib=(0, 48)), faults.read_only])
def test_disks(tmp_path, fault):
    if not can_mount(tmp_path):
        pytest.skip("no disk can be mounted here")
    fault(tmp_path)
