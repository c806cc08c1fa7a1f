"""The machine and the software with which a number was measured."""

import contextlib
import datetime
import os
import pathlib
import platform
from typing import Any

import jax

from jaxvae.checkpoints import versions


def environment() -> dict[str, Any]:
    """The machine, device and versions, with the date."""
    device = jax.devices()[0]
    config: Any = jax.config  # mypy does not know its options
    return {
        "machine": f"{_processor()}, {platform.machine()}, {platform.system()}",
        "cores": os.cpu_count(),
        "backend": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "matmul_precision": config.jax_default_matmul_precision or "default",
        "versions": {"python": platform.python_version()} | versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):  # for Linux, where `platform` does not know it
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
