"""Streamed batches have the same bits as resident ones, and stay within the allowed memory."""

import importlib
import os
import signal
import threading
import time
import tracemalloc

import jax
import numpy as np
import pytest

from jaxvae import data
from jaxvae.data import Data, load, rows
from jaxvae.experiment import command, feed, loop, run, stopping

CONFIG = """
import jaxvae as jv
def get_config():
    return jv.Experiment(
        data=jv.Data(name="{data}", preprocess=jv.DynamicBinarization()),
        model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,))),
        num_epochs=2, eval_every_epochs=2)
"""


@pytest.fixture
def arguments(tmp_path):
    """Arguments of the train command for a file with 1,280,000 bytes of training examples, and the file's path."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (28_000, 8, 8), dtype=np.uint8))
    (tmp_path / "config.py").write_text(CONFIG.format(data=path))
    return [f"--config={tmp_path / 'config.py'}"], path


@pytest.fixture
def feeds(monkeypatch):
    """The feeds that were made, and a list of functions to call with every step at which a feed is asked."""
    made, hooks, make = [], [], feed.make_feed

    def make_feed(*args, **options):
        made.append(make(*args, **options))

        def ask(step):
            for hook in hooks:
                hook(step)
            return made[-1](step)

        return ask

    monkeypatch.setattr(loop.feed, "make_feed", make_feed)
    return made, hooks


def test_the_bits_of_training(arguments, feeds, tmp_path):
    """Resident without figures; streamed, evaluated and drawn from a file in which the test split stays too."""
    (options, _), (made, hooks) = arguments, feeds
    experiment = command.parsing.load_config(options[0].removeprefix("--config="))

    def train(name, memory, **options):
        trainer = run.prepare(experiment, tmp_path / name, data_memory=memory)
        assert isinstance(trainer.dataset.test.x, np.ndarray) == (memory == np.inf)
        return run.fit(trainer, tmp_path / name, **options)

    whole = train("resident", np.inf, pictures=False)
    assert {"elbo", "params_sha256"} <= set(whole)
    assert train("streamed", 2**16) == whole
    hooks.append(lambda step: signal.raise_signal(signal.SIGINT) if step > 200 else None)
    with pytest.raises(stopping.Interrupted, match=r"saved at step 2\d\d;"):
        train("stopped", 2**16, pictures=False)
    hooks.clear()
    assert train("stopped", 2**16, pictures=False) == whole
    assert [type(f).__name__ for f in made] == ["_Resident"] + 3 * ["_Streamed"]


def expected(key, x, step, batch_size):
    epoch, done = divmod(step, len(x) // batch_size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), len(x))
    return x[np.asarray(order)[done * batch_size : (done + 1) * batch_size]]


@pytest.mark.parametrize("memory", [1e9, 500, 97, 1])
def test_the_order_of_an_epoch(memory, key, monkeypatch):
    """From any step on, in blocks of any size, and by halves in two processes."""
    x = np.random.default_rng(0).integers(0, 256, (50, 3, 4), dtype=np.uint8)  # 12 steps of 4: 48 bytes each
    options = {"batch_size": 4, "memory": memory}
    whole = feed.make_feed(x, key, **options)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    halves = []
    for index in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        halves.append(feed.make_feed(x, key, **options))
    monkeypatch.undo()
    for step in [*range(9, 15), 21, 3, 4, 100]:
        batches, num = whole(step)
        assert 1 <= num <= 12 - step % 12
        for last in (step, step + num - 1):
            np.testing.assert_array_equal(batches.at(last), expected(key, x, last, 4))
        parts = [half(step)[0].at(step) for half in halves]
        assert {len(part) for part in parts} == {2}
        np.testing.assert_array_equal(np.concatenate(parts), expected(key, x, step, 4))


class Counting(rows.StoredRows):
    """Counts the bytes that were read."""

    def __init__(self, x):
        super().__init__(x.shape, x.dtype)
        self.x, self.read = x, 0
        self.lock = threading.Lock()

    def _read(self, index):
        with self.lock:
            self.read += len(index) * self.x[0].nbytes
        return self.x[index]


@pytest.mark.parametrize("memory", [5 * 400, 2 * 400, 400, 17 * 400, 100 * 400])
def test_no_more_is_in_flight_than_the_memory_allows(memory, key):
    """In flight is what was read less what came before the block in use. At some time it fills half of the memory."""
    x = Counting(np.zeros((4001, 100), np.uint8))  # 1000 steps of 4: 400 bytes each
    streamed = feed.make_feed(x, key, batch_size=4, memory=memory)
    most = 0
    for step in range(300):
        batches, _ = streamed(step)
        deadline = time.monotonic() + (0.05 if step < 5 else 0.0)
        while True:
            in_flight = x.read - int(batches.first) * 400
            assert in_flight <= memory
            most = max(most, in_flight)
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
    assert most > memory / 2
    assert streamed(300)[0].x.shape[0] == max(1, memory // 400 // 10)


def test_a_large_file_is_not_read_whole(tmp_path, key, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (28_000, 20, 20), dtype=np.uint8)  # 11 MB
    np.save(tmp_path / "x.npy", x)
    source = Data(name=str(tmp_path / "x.npy"), num_validation=5000)
    monkeypatch.setattr(rows, "_PIECE_BYTES", 2**18)
    importlib.import_module("grain")  # 10 MB
    tracemalloc.start()
    try:
        dataset = load(source, memory=2**20)
        mean = data.mean(dataset.train.x)
        streamed = feed.make_feed(dataset.train.x, key, batch_size=10, memory=2**20)
        batches = [np.asarray(streamed(step)[0].at(step)) for step in range(1500)]
        peak = tracemalloc.get_traced_memory()[1] - sum(b.nbytes for b in batches)
    finally:
        tracemalloc.stop()
    assert peak < 5e6
    small = load(source)
    for large, split in zip(dataset[:3], small[:3], strict=True):
        assert isinstance(split.x, np.ndarray)
        assert large.x.shape == split.x.shape
        np.testing.assert_array_equal(large.x[:], split.x)
    np.testing.assert_array_equal(mean, small.train.x.mean(axis=0, dtype=np.float64))
    np.testing.assert_array_equal(batches[1499], expected(key, small.train.x, 1499, 10))


def test_tfds_records_that_stay_in_their_file(small_tfds, key):
    source = Data(name="mnist", data_dir=str(small_tfds), num_validation=10)
    small, large = load(source), load(source, memory=20_000)
    assert large.values == small.values
    assert isinstance(large.validation.x, np.ndarray)  # ten images are small
    assert not isinstance(large.train.x, np.ndarray)
    np.testing.assert_array_equal(large.train.labels, small.train.labels)
    np.testing.assert_array_equal(large.validation.x, small.validation.x)
    streamed = feed.make_feed(large.train.x, key, batch_size=8, memory=20_000)
    for step in range(9, 14):
        np.testing.assert_array_equal(streamed(step)[0].at(step), expected(key, small.train.x, step, 8))


def test_a_file_that_is_cut_short_ends_the_run(arguments, tmp_path, capsys, monkeypatch):
    """Whichever thread notices it, and not by a signal without a message."""
    (options, path), lock, reads, read = arguments, threading.Lock(), [], rows.FileRows._read

    def cut_short(self, index):
        with lock:
            reads.append(threading.current_thread().name)
            if reads[-1].startswith("grain") and len(reads) > 30:
                os.truncate(path, 1_000_000)
            return read(self, index)

    monkeypatch.setattr(rows.FileRows, "_read", cut_short)
    assert command.train_main([*options, "--data-memory-mib=1", f"--workdir={tmp_path / 'run'}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"error: {path} was truncated while it was in use (it had 1,792,128 bytes, and now has 1,000,000); "
        "put the whole file back"
    )
