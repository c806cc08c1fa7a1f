"""The memory that a process may use, on simulated machines."""

import math
import types

import pytest

from jaxvae.experiment import memory


@pytest.mark.parametrize(
    ("membership", "limits", "least"),
    [
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": "2048"}, 2048),
        ("0::/job/step", {"job/step/memory.max": "1024", "job/memory.max": "2048"}, 1024),
        ("0::/", {"memory.max": "4096"}, 4096),
        ("0::/not/seen/from/within", {"memory.max": "512"}, 512),
        ("5:cpu:/job\n4:cpuset,memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": "3072"}, 3072),
        ("5:cpu:/job\n0::/", {"cpu/job/memory.limit_in_bytes": "3072"}, math.inf),
    ],
)
def test_the_least_limit_of_all_groups_holds(tmp_path, monkeypatch, membership, limits, least):
    (tmp_path / "cgroup").write_text(membership + "\n")
    for name, value in limits.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    whole = memory.available()
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    assert memory.available() == min(least, whole)
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "none")  # as on macOS
    assert memory.available() >= whole > 2**30


@pytest.mark.parametrize(
    ("platform", "of_device", "least"), [("cpu", None, 500.0), ("gpu", 600, 600.0), ("gpu", 5000, 1000.0)]
)
def test_examples_fit_into_the_device_and_into_the_host(platform, of_device, least, monkeypatch):
    """A CPU's host is its device too, and has them twice."""
    device = types.SimpleNamespace(platform=platform, memory_stats=lambda: of_device and {"bytes_limit": of_device})
    monkeypatch.setattr(memory.jax, "local_devices", lambda: [device])
    monkeypatch.setattr(memory, "available", lambda: 1000.0)
    assert memory.for_examples() == 0.5 * least
