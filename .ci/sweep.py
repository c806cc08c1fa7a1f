"""Measures the time of one replica's step, side by side and one after the other: python .ci/sweep.py

It uses the network, the optimizer and the batch size of a config, on random data, since the time does not depend on the
numbers. `vmap` is what `scripts/sweep.py` does on an accelerator, `in turn` what it does on a CPU: the program of one
replica is called for each in turn. `single` is separate runs. They take turns in one process, and the fastest turn of
each counts, without the first, which compiles.
"""

import argparse
import dataclasses
import json
import time

import jax
import numpy as np

from jaxvae.data import Dataset, Split
from jaxvae.experiment import feed, sweep
from jaxvae.experiment.command import load_config
from jaxvae.experiment.session import Trainer
from jaxvae.training import Examples, Resident
from jaxvae.typing import Support


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/mnist.py")
    parser.add_argument("--shape", type=int, nargs=3, default=(28, 28, 1))
    parser.add_argument("--num-replicas", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=30)
    parser.add_argument("--num-turns", type=int, default=6)
    args = parser.parse_args()

    config = load_config(args.config)
    x = np.random.default_rng(0).integers(0, 256, (20 * config.batch_size, *args.shape), dtype=np.uint8)
    dataset = Dataset(Split(x, None), None, None, Support(0, 255, integer=True))
    model = dataclasses.replace(config.model, event_shape=tuple(args.shape))
    config = dataclasses.replace(config, model=model)
    trainers = [Trainer.of(e, dataset) for e in sweep.over_seeds(config, args.num_replicas).values()]
    all_of = sweep.Sweep({str(t.experiment.seed): t for t in trainers}, None)
    keys = all_of.keys
    orders = jax.vmap(lambda key: feed.epoch_order(key, 0, num=len(x), batch_size=config.batch_size))(keys.order)
    x = Examples.of(x)
    one = trainers[0].make_advance()
    in_turn = sweep.make_advance(trainers[0], side_by_side=False)
    side_by_side = sweep.make_advance(trainers[0], side_by_side=True)

    def one_after_the_other(runs):
        return [
            one(*run, Resident(x, order), key, args.num_steps)
            for run, order, key in zip(runs, orders, keys.train, strict=True)
        ]

    ways = {
        "vmap": lambda c: side_by_side(*c, Resident(x, orders), None, keys.train, args.num_steps),
        "in turn": lambda c: in_turn(*c, Resident(x, orders), None, keys.train, args.num_steps),
        "single": one_after_the_other,
    }
    carried = {"vmap": sweep.start(all_of), "in turn": sweep.start(all_of)}
    carried["single"] = [(s.state, s.totals) for s in (t.new_session() for t in trainers)]
    seconds = {name: [] for name in ways}
    for _ in range(args.num_turns):
        for name, way in ways.items():
            start = time.perf_counter()
            carried[name] = jax.block_until_ready(way(carried[name]))
            seconds[name].append(time.perf_counter() - start)
    steps = args.num_replicas * args.num_steps
    best = {name: min(times[1:]) / steps for name, times in seconds.items()}
    print(f"milliseconds for a step of one of {args.num_replicas} replicas, {config.batch_size} examples each:")
    for name, value in best.items():
        print(f"{name:8} {1e3 * value:6.2f}")
    print(json.dumps({"config": args.config} | {name: round(1e3 * value, 3) for name, value in best.items()}))


if __name__ == "__main__":
    main()
