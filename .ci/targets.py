"""Compiles each config for a TPU v5e and an H100, on a machine that has neither: python .ci/targets.py

It needs `pip install . -r .ci/targets.txt`. Nothing is run. For each config and target it compiles the training loop on
one device and on four, the evaluator and generation, and prints what the compilers say: memory, the kernels that a GPU
launches for a training step, and the cycles that XLA expects a TPU to take for one. It fails if something can't be
compiled, if a step copies a whole data set, or if devices exchange anything but sums in a step (except for objectives
that compare the examples of a batch with each other).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import sys
import time
from collections import Counter

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import jaxvae as jv
from jaxvae.data import Dataset, Split
from jaxvae.experiment.command.parsing import load_config
from jaxvae.experiment.environment import environment
from jaxvae.experiment.session import Trainer
from jaxvae.parallel import AXIS, OnMesh, OnOneDevice
from jaxvae.training import Examples, Resident
from jaxvae.typing import Support

ROOT = pathlib.Path(__file__).parents[1]
NUM_DEVICES = 4
SETS = {"digits": (1437, 8, 8, 1), "mnist": (50_000, 28, 28, 1), "binarized_mnist": (50_000, 28, 28, 1)}
LARGEST = {"digits": 16, "mnist": 255, "binarized_mnist": 1}
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
"""
TARGETS = {  # the name of the backend, and a description of the devices
    "TPU v5e": ("tpu", lambda: topologies.get_topology_desc("v5e:2x2", "tpu")),
    "H100": (
        "gpu",
        lambda: topologies.get_topology_desc(platform="cuda", topology=f"1x1x{NUM_DEVICES}", target_config=H100),
    ),
}
BETWEEN_EXAMPLES = (jv.BetaTC, jv.MMD)  # objectives that compare each example with all others
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "copy-start", "copy-done"}  # or asynchronous
OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(.*", re.MULTILINE)
COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?$")


def trainer_of(path, placement=OnOneDevice()):
    """The trainer of a config, for a set of the size of its own and a batch that the devices can share."""
    experiment = load_config(path)
    batch_size = experiment.batch_size // NUM_DEVICES * NUM_DEVICES
    experiment = dataclasses.replace(experiment, batch_size=batch_size)
    name = experiment.data.name
    x = np.zeros(SETS[name], np.uint8)
    dataset = Dataset(Split(x, None), Split(x[:9], None), Split(x[:9], None), Support(0, LARGEST[name], integer=True))
    return Trainer.of(experiment.fit_to(dataset), dataset, placement=placement)


def placed(tree, sharding):
    """The shapes of a tree of arrays, on the devices of `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def training(trainer, whole, split):
    """The compiled training loop; `whole` and `split` are the shardings of the state and of the axis of a batch."""
    x, session = Examples.of(trainer.dataset.train.x, put=lambda rows: rows), trainer.session_shapes()
    order = jax.ShapeDtypeStruct((trainer.steps_per_epoch, trainer.experiment.batch_size), jnp.int32, sharding=split)
    state, totals, x, key = placed((session.state, session.totals, x, trainer.keys.train), whole)
    return trainer.make_advance(fused=True).lower(state, totals, Resident(x, order), key, jnp.int32(1)).compile()


def operations(text, *, loop):
    """(type of the result, operation, line) of all operations, or of those in the body of the last loop."""
    if loop:
        body = re.findall(r"while\(.*?body=%?([\w.-]+)", text)[-1]
        text = re.search(rf"^%?{re.escape(body)} \(.*?^}}", text, re.MULTILINE | re.DOTALL).group()
    return [(m.group(1), m.group(2), m.group()) for m in OPERATION.finditer(text) if m.group(2) not in FREE]


def mebibytes(compiled):
    memory = compiled.memory_analysis()
    return round((memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20, 1)


def compile_all(path, target):
    """The row of a config on a target, and what is wrong with it."""
    backend, describe = TARGETS[target]
    devices = list(describe().devices)
    jax.default_backend = lambda: backend  # what the library asks; JAX itself stays on the CPU
    jax.clear_caches()
    one = jax.sharding.SingleDeviceSharding(devices[0])
    trainer, began = trainer_of(path), time.monotonic()
    model, experiment = trainer.experiment.model, trainer.experiment
    step = training(trainer, one, one)
    took = time.monotonic() - began
    inside = operations(step.as_text(), loop=True)
    params, key = placed((trainer.session_shapes().state.params, trainer.keys.train), one)
    few = jax.ShapeDtypeStruct((64, *model.event_shape), jnp.float32, sharding=one)
    weigh = jax.jit(lambda *args: model.evidence(*args, num_samples=64).log_weights).lower(params, key, few).compile()
    draw = jax.jit(lambda *args: model.generate(*args, num=experiment.batch_size)).lower(params, key).compile()

    wrong = []
    whole_set = f"[{len(trainer.dataset.train.x)},"
    wrong += [f"a step copies the set: {line.strip()[:120]}" for of, _, line in inside if whole_set in of]
    mesh = OnMesh.of(devices)
    split = NamedSharding(mesh.mesh, PartitionSpec(None, AXIS))
    together = training(trainer_of(path, mesh), NamedSharding(mesh.mesh, PartitionSpec()), split)
    of_four = operations(together.as_text(), loop=True)
    collectives = Counter(m.group(1) for _, name, _ in of_four if (m := COLLECTIVE.match(name)))
    if set(collectives) != {"all-reduce"} and not isinstance(experiment.objective, BETWEEN_EXAMPLES):
        wrong.append(f"a step on {NUM_DEVICES} devices has {dict(collectives)}")

    cycles = sum(int(n) for _, _, line in inside for n in re.findall(r'"estimated_cycles":"(\d+)"', line))
    row = {
        "config": path.name,
        "target": target,
        "batch_size": experiment.batch_size,
        "compile_seconds": round(took, 1),
        "train_mib": mebibytes(step),
        "train_on_four_mib": mebibytes(together),
        "evaluate_mib": mebibytes(weigh),
        "generate_mib": mebibytes(draw),
    }
    row["collectives_on_four"] = dict(collectives)
    return row | ({"cycles": cycles} if backend == "tpu" else {"kernels": len(inside)}), wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="*", type=pathlib.Path, default=sorted((ROOT / "configs").glob("*.py")))
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--output", type=pathlib.Path, help="a file to which the rows are appended, as lines of JSON")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    faults = 0
    for path in args.configs:
        for target in args.targets:
            row, wrong = compile_all(path, target)
            print(json.dumps(row), *wrong, sep="\n  ", flush=True)
            faults += len(wrong)
            if args.output is not None:
                with args.output.open("a") as lines:
                    lines.write(json.dumps(row | environment()) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
