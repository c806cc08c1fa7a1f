"""Compares the speed of training on streamed examples with that on resident ones: python .ci/streaming.py

The examples are random images of 28 × 28 bytes in a `.npy`, ten times as many bytes for training as may be on the
device; network and batch size are those of configs/mnist.py. Both ways train in one process, in short turns, from the
same parameters; the ratio is the median over the turns. The file may be cached in the host's memory, so this measures
the feed, not a disk.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import numpy as np

from jaxvae import data
from jaxvae.experiment import feed
from jaxvae.experiment.command.parsing import load_config
from jaxvae.experiment.session import Trainer

ROOT = pathlib.Path(__file__).parents[1]


class Turns:
    """Training from one of the two feeds, some steps at a time."""

    def __init__(self, trainer, advance, memory):
        self.trainer, self.advance, self.session, self.step = trainer, advance, trainer.new_session(), 0
        size = trainer.experiment.batch_size
        self.feed = feed.make_feed(trainer.dataset.train.x, trainer.keys.order, batch_size=size, memory=memory)

    def __call__(self, num_steps, dispatch):
        """Trains, and returns the steps per second."""
        start, stop = time.perf_counter(), self.step + num_steps
        state, totals, key = *self.session[:2], self.trainer.keys.train
        while self.step < stop:
            batches, available = self.feed(self.step)
            num = min(dispatch, available, stop - self.step)
            state, totals = self.advance(state, totals, batches, key, num)
            jax.block_until_ready(totals)
            self.step += num
        self.session = self.session._replace(state=state, totals=totals)
        return num_steps / (time.perf_counter() - start)


def write(path, num_bytes):
    """Writes a file whose training split, five sevenths of it, has `num_bytes` bytes."""
    num = num_bytes * 7 // 5 // 784
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (num, 28, 28))
    rng = np.random.default_rng(0)
    for start in range(0, num, 10_000):
        file[start : start + 10_000] = rng.integers(0, 256, file[start : start + 10_000].shape, dtype=np.uint8)
    file.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-memory-mib", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=100, help="of a turn")
    parser.add_argument("--num-turns", type=int, default=10)
    args = parser.parse_args()
    memory = args.data_memory_mib * 2**20

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.npy"
        write(path, 10 * memory)
        dataset = data.load(data.Data(name=str(path)), memory=memory)
        experiment = load_config(ROOT / "configs" / "mnist.py").fit_to(dataset)
        trainer = Trainer.of(experiment, dataset)
        advance = trainer.make_advance()
        feeds = {"resident": Turns(trainer, advance, np.inf), "streamed": Turns(trainer, advance, memory)}
        rates = {name: [] for name in feeds}
        for turns in feeds.values():  # compiles
            turns(args.num_steps, dispatch=60)
        for turn in range(args.num_turns):
            for name in sorted(feeds, reverse=bool(turn % 2)):
                rates[name].append(feeds[name](args.num_steps, dispatch=60))
        resident, streamed = (np.array(rates[name]) for name in ("resident", "streamed"))
        result = {
            "data_mib": round(dataset.train.x.nbytes / 2**20),
            "data_memory_mib": args.data_memory_mib,
            "num_steps": args.num_steps * args.num_turns,
            "resident_steps_per_second": round(float(np.median(resident)), 1),
            "streamed_steps_per_second": round(float(np.median(streamed)), 1),
            "ratio": round(float(np.median(streamed / resident)), 3),
            "lowest_ratio": round(float((streamed / resident).min()), 3),
            "same_bits": bool(
                all(
                    np.array_equal(a, b)
                    for a, b in zip(
                        *(jax.tree.leaves(turns.session.state.params) for turns in feeds.values()), strict=True
                    )
                )
            ),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
