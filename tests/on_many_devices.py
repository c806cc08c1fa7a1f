"""Trains a small model for 20 steps on 1 and 8 virtual devices in all ways, and prints the comparison as JSON.

A separate program, because the number of a CPU's virtual devices is set before JAX starts.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxvae as jv
from jaxvae import parallel, training

MODEL = jv.VAE(event_shape=(8, 8, 1), latent_dim=4, encoder=jv.MLP(hidden=(32,)), decoder=jv.MLP(hidden=(32,)))
X = (np.random.default_rng(0).random((320, 8, 8, 1)) < 0.3).astype(np.uint8)
OPTIMIZER = optax.adam(1e-3)
ORDER = jax.random.permutation(jax.random.key(1), 320).reshape(10, 32)
STEPS = 20


def binarize(key, x):
    return jv.DynamicBinarization()(key, x, 2.0)


@functools.cache  # compiled once
def make_advance(placement, num_parts, optimizer, ema):
    step = jv.make_train_step(
        MODEL,
        jv.ELBO(),
        optimizer,
        preprocess=binarize,
        num_parts=num_parts,
        axis_name=placement.axis_name,
        ema_decay=ema,
    )
    return placement.make_advance(step, fused=True)


def train(placement, *, num_parts=1, streamed=False, state=None, num_steps=STEPS, optimizer=OPTIMIZER, ema=None):
    advance = make_advance(placement, num_parts, optimizer, ema)
    if state is None:
        state = jv.TrainState.create(MODEL.init(jax.random.key(0)), optimizer, ema=ema is not None)
    state, totals = placement.put_state((state, training.Totals.zero()))
    for first in range(int(state.step), num_steps, 5):
        if streamed:
            block = X[np.asarray(ORDER[first % 10 : first % 10 + 5])]
            batches = training.Block(placement.put_block(block), jnp.int32(first))
        else:
            batches = training.Resident(training.Examples.of(X, placement.put_data), placement.put_order(ORDER))
        state, totals = advance(state, totals, batches, jax.random.key(2), 5)
    return state


def train_by_shard_map(placement, num_parts):
    """The same with the user's own `jax.shard_map`, in which JAX checks what differs between devices."""
    step = jv.make_train_step(
        MODEL, jv.ELBO(), OPTIMIZER, preprocess=binarize, num_parts=num_parts, axis_name=parallel.AXIS
    )
    whole, rows = PartitionSpec(), PartitionSpec(parallel.AXIS)
    step = jax.jit(jax.shard_map(step, mesh=placement.mesh, in_specs=(whole, rows, whole), out_specs=(whole, whole)))
    state = jv.TrainState.create(MODEL.init(jax.random.key(0)), OPTIMIZER)
    for i in range(STEPS):
        state, _ = step(state, X[np.asarray(ORDER[i % 10])], jax.random.key(2))
    return state


def distance(state, reference):
    """The largest difference in any array of the two states, relative to its largest number."""
    pairs = zip(*(jax.tree.leaves(parallel.fetch(s[1:])) for s in (state, reference)), strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs)


def operations(devices):
    """The operations of one of these devices in a step of the IWAE bound, by XLA's count."""
    placement = parallel.OnMesh.of(devices)
    state = placement.put_state(jv.TrainState.create(MODEL.init(jax.random.key(0)), OPTIMIZER))
    batch = jax.device_put(jnp.asarray(X, jnp.float32), NamedSharding(placement.mesh, PartitionSpec(parallel.AXIS)))
    step = jv.make_train_step(MODEL, jv.IWAE(num_samples=16), OPTIMIZER)
    return step.lower(state, batch, jax.random.key(2)).compile().cost_analysis()["flops"]


def main():
    devices = jax.devices()
    one, mesh = parallel.OnOneDevice(), parallel.OnMesh.of(devices)
    sharded, by_pmap = parallel.OnMesh.of(devices, shard_params=True), parallel.ByPmap(tuple(devices))
    alone, in_parts = train(one), train(one, num_parts=8)
    split = train(sharded)
    kernel = split.params["encoder"]["network"]["dense_0"]["kernel"]
    muon = {"optimizer": jv.Muon().build(num_steps=STEPS, steps_per_epoch=10), "ema": 0.9}
    half = parallel.fetch(train(sharded, num_steps=10))
    result = {
        "num_devices": len(devices),
        "jit on 8": distance(train(mesh), alone),
        "jit on 8, streamed": distance(train(mesh, streamed=True), alone),
        "jit on 8, parameters split": distance(split, alone),
        "jit on 8, in 8 parts": distance(train(mesh, num_parts=8), in_parts),
        "pmap on 8": distance(train(by_pmap, num_parts=8), in_parts),
        "pmap on 8, streamed": distance(train(by_pmap, num_parts=8, streamed=True), in_parts),
        "shard_map on 8": distance(train_by_shard_map(mesh, 8), in_parts),
        "jit on 8, Muon's state and an average split": distance(train(sharded, **muon), train(one, **muon)),
        "parts have their own draws": distance(in_parts, alone),
        "rows of a split kernel": [s.data.shape for s in kernel.addressable_shards],
        "share of each of 8 in a step of IWAE": operations(devices) / operations(devices[:1]),
        "10 steps on 8, then on one": distance(train(one, state=half), alone),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
