"""Compiles each config for a TPU v5e and an H100, on a machine that has neither: python .ci/targets.py

It needs `pip install . -r .ci/targets.txt`. Nothing is run. For each config and target it compiles the training loop on
one device and on four, the evaluator's terms and generation. It prints the memory that these take, the operations in
the body of the loop, each at least one kernel on a GPU, and for the TPU the sum of the cycles that XLA expects them to
take, where it has an estimate.

It fails if something can't be compiled, if a step copies a set of more than a mebibyte, or if devices exchange anything
but sums in a step (except for objectives that compare the examples of a batch). Both are looked for in all that a step
runs, except in the branches of conditionals.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import time
from collections import Counter
from typing import NamedTuple

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
SETS = {"digits": (1285, 8, 8, 1), "mnist": (60_000, 28, 28, 1), "binarized_mnist": (50_000, 28, 28, 1)}
LARGEST = {"digits": 16, "mnist": 255, "binarized_mnist": 1}
COMPILERS = ("libtpu", "jax-cuda12-plugin")
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
PASSED_ON = {"parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional"}  # without a copy
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "copy-start", "copy-done"}  # or beside others
COMPUTATION = re.compile(r"^%?([\w.-]+) \(.*?^}", re.MULTILINE | re.DOTALL)
OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\((.*)", re.MULTILINE)
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")  # not the branches of a conditional
COLLECTIVE = re.compile(r"(all-\w+?|ragged-all-to-all|all-to-all|reduce-scatter|collective-\w+?)(-start)?$")


def trainer_of(path, placement=OnOneDevice()):
    """The trainer of a config, for a set of the size of its own and a batch that the devices can share."""
    experiment = load_config(path)
    batch_size = experiment.batch_size // NUM_DEVICES * NUM_DEVICES
    experiment = dataclasses.replace(experiment, batch_size=batch_size)
    name = experiment.data.name
    num, *event_shape = SETS[name]
    x = np.zeros((num - experiment.data.num_validation, *event_shape), np.uint8)
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


class Loop(NamedTuple):
    """The last loop of a program: for each operation the type of its result, its name and the rest of its line."""

    body: list[tuple[str, str, str]]  # without what takes no time of its own
    everything: list[tuple[str, str, str]]  # also what the body calls

    @property
    def collectives(self):
        return dict(Counter(m.group(1) for _, name, _ in self.everything if (m := COLLECTIVE.match(name))))


def loop_of(compiled):
    text = compiled.as_text()
    computations = {m.group(1): OPERATION.findall(m.group()) for m in COMPUTATION.finditer(text)}
    body = re.findall(r"while\(.*?body=%?([\w.-]+)", text)[-1]
    found, to_do = {}, [body]
    while to_do:
        name = to_do.pop()
        if name not in found:
            found[name] = computations[name]
            to_do += [called for _, _, rest in found[name] for called in CALLED.findall(rest)]
    return Loop([o for o in found[body] if o[1] not in FREE], [o for all_of in found.values() for o in all_of])


def mebibytes(compiled):
    memory = compiled.memory_analysis()
    own_output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return round((memory.argument_size_in_bytes + memory.temp_size_in_bytes + own_output) / 2**20, 1)


def faults(trainer, loop):
    """Lines about what the training step of a loop should not do."""
    x = trainer.dataset.train.x
    of_set = re.compile(rf"\b{len(x)}\b")
    copies = (f"{name} {of}" for of, name, _ in loop.everything if name not in PASSED_ON and of_set.search(of))
    yield from (f"a step copies the set: {line}" for line in copies if x.nbytes > 2**20)
    if not loop.collectives.keys() <= {"all-reduce"} and not isinstance(trainer.experiment.objective, BETWEEN_EXAMPLES):
        yield f"a step on {trainer.placement.num_devices} devices has {loop.collectives}"


def compile_all(path, target):
    """The row of a config on a target, and lines about what is wrong with it."""
    backend, describe = TARGETS[target]
    devices = list(describe().devices)
    jax.default_backend = lambda: backend  # what the library asks; JAX itself stays on the CPU
    jax.clear_caches()
    one, mesh = jax.sharding.SingleDeviceSharding(devices[0]), OnMesh.of(devices)
    trainer, on_mesh = trainer_of(path), trainer_of(path, mesh)
    model, batch_size = trainer.experiment.model, trainer.experiment.batch_size
    began = time.monotonic()
    alone = training(trainer, one, one)
    took = time.monotonic() - began
    replicated, split = (NamedSharding(mesh.mesh, PartitionSpec(*axes)) for axes in ((), (None, AXIS)))
    together = training(on_mesh, replicated, split)
    params, key = placed((trainer.session_shapes().state.params, trainer.keys.train), one)
    x = jax.ShapeDtypeStruct((64, *model.event_shape), jnp.float32, sharding=one)
    terms = jax.jit(lambda *args: model.evidence(*args, num_samples=64).log_weights).lower(params, key, x).compile()
    draw = jax.jit(lambda *args: model.generate(*args, num=batch_size)).lower(params, key).compile()
    loop, loop_on_mesh = loop_of(alone), loop_of(together)
    cycles = sum(int(n) for *_, rest in loop.body for n in re.findall(r'"estimated_cycles":"(\d+)"', rest))
    row = {
        "config": path.name,
        "target": target,
        "batch_size": batch_size,
        "compile_seconds": round(took, 1),
        "train_mib": mebibytes(alone),
        "train_on_four_mib": mebibytes(together),
        "evaluate_mib": mebibytes(terms),
        "generate_mib": mebibytes(draw),
        "operations": len(loop.body),
        "cycles": cycles or None,
        "collectives_on_four": loop_on_mesh.collectives,
    }
    return row, [*faults(trainer, loop), *faults(on_mesh, loop_on_mesh)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="*", type=pathlib.Path, default=sorted((ROOT / "configs").glob("*.py")))
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--output", type=pathlib.Path, help="a file to which the rows are appended, as lines of JSON")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        compilers = {name: importlib.metadata.version(name) for name in COMPILERS}
    except importlib.metadata.PackageNotFoundError as error:
        parser.error(f"{error.name} is not installed; write pip install . -r .ci/targets.txt")
    failed = False
    for path in args.configs:
        for target in args.targets:
            try:
                row, wrong = compile_all(path, target)
            except Exception as error:  # the others are compiled all the same
                row, wrong = {"config": path.name, "target": target}, [f"{type(error).__name__}: {error}"[:500]]
            print(json.dumps(row), *wrong, sep="\n  ", flush=True)
            failed = failed or bool(wrong)
            if args.output is not None:
                with args.output.open("a") as lines:
                    lines.write(json.dumps(row | environment() | {"compilers": compilers}) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
