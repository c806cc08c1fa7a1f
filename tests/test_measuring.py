"""An evaluation that is stopped goes on, and ends at the same numbers."""

import errno
import functools
import os
import signal

import jax
import numpy as np
import pytest
from test_evaluation import MODEL, X, binarize, params

import jaxvae as jv
from jaxvae.experiment import measuring, stopping

OPTIONS = {"num_importance_samples": 40}


@functools.cache
def evaluator():
    return jv.make_evaluator(MODEL, preprocess=binarize, rows_at_once=200)  # five examples at a time, and the last two


def stopped(number, after):
    """An evaluator that is sent a signal when `after` batches are done."""
    evaluate = evaluator()

    def stopping(*args, report, **kwargs):
        done = []

        def count(part):
            done.append(part)
            if len(done) == after:
                os.kill(os.getpid(), number)
            report(part)

        return evaluate(*args, report=count, **kwargs)

    return stopping


def measure(evaluate, params, key, x, **options):
    with measuring.measured(evaluate, params, key, x, **options) as terms:
        return terms


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_twice_it_ends_at_the_same_numbers(tmp_path, key, number, capsys):
    """To the last bit, also where few examples were left."""
    for batches in (2, 5):
        with pytest.raises(stopping.Interrupted, match="the same command goes on from there"):
            measure(stopped(number, batches), params(), key, X, folder=tmp_path, **OPTIONS)
    seen = []

    def watched(params, key, x, **kwargs):
        seen.append((len(x), kwargs["start"]))
        return evaluator()(params, key, x, **kwargs)

    terms = measure(watched, params(), key, X, folder=tmp_path, **OPTIONS)
    assert seen == [(len(X), 35)]
    assert "resumed at example 35 of 37" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    for a, b in zip(terms, evaluator()(params(), key, X, **OPTIONS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_is_kept_until_its_use_is_done(tmp_path, key, capsys):
    with (
        pytest.raises(MemoryError),
        measuring.measured(evaluator(), params(), key, X, folder=tmp_path, **OPTIONS) as terms,
    ):
        raise MemoryError
    never = None  # nothing is left to evaluate
    again = measure(never, params(), key, X, folder=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(again.log_evidence, terms.log_evidence)
    assert list(tmp_path.iterdir()) == []


def test_another_measurement_or_a_damaged_file_starts_anew(tmp_path, key):
    with pytest.raises(stopping.Interrupted):
        measure(stopped(signal.SIGINT, 3), params(), key, X, folder=tmp_path, **OPTIONS)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    others = [
        (jax.tree.map(lambda a: a + 1, params()), key, X, 40),
        (params(), jax.random.key(9), X, 40),
        (params(), key, 255 - X, 40),
        (params(), key, X, 41),
    ]
    for p, k, x, num in others:
        terms = measure(evaluator(), p, k, x, folder=tmp_path, num_importance_samples=num)
        expected = evaluator()(p, k, x, num_importance_samples=num)
        np.testing.assert_array_equal(terms.log_evidence, expected.log_evidence)
        assert file.read_bytes() == whole  # that of the first measurement
    expected = evaluator()(params(), key, X, **OPTIONS)
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        terms = measure(evaluator(), params(), key, X, folder=tmp_path, **OPTIONS)
        np.testing.assert_array_equal(terms.log_evidence, expected.log_evidence)


def test_no_flipped_bit_of_saved_terms_is_believed(tmp_path, key):
    """Those of the terms have checksums in the file; those of its lists of contents make it another file."""
    with pytest.raises(stopping.Interrupted):
        measure(stopped(signal.SIGINT, 2), params(), key, X, folder=tmp_path, **OPTIONS)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    identity = measuring._identity(params(), key, X, OPTIONS["num_importance_samples"])
    (saved,) = measuring._Parts(tmp_path, identity)._parts
    ignored = 0
    for i in (*range(60), *range(len(whole) - 700, len(whole))):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        found = measuring._Parts(tmp_path, identity)._parts
        ignored += not found
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves([saved] * len(found)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert ignored > 100


def test_a_stop_after_the_last_example_says_what_is_kept(tmp_path, key):
    """Also if it is the second one, after which nothing was left to measure."""
    options, said = {"folder": tmp_path, **OPTIONS}, stopping.kept_at(f"example {len(X)}")
    stopped_later = measuring.measured(evaluator(), params(), key, X, **options)
    stopped_later.__enter__()
    assert stopping._kept[0] == said
    stopping.keep("")
    with measuring.measured(evaluator(), params(), key, X, **options):
        assert stopping._kept[0] == said
    assert stopping._kept[0] == ""


def test_a_signal_while_the_last_terms_are_saved_is_not_lost(tmp_path, key, monkeypatch):
    save = measuring._Parts.save

    def saving(self):
        if self.num_examples == len(X):
            monkeypatch.setattr(measuring._Parts, "save", save)
            os.kill(os.getpid(), signal.SIGTERM)
        return save(self)

    monkeypatch.setattr(measuring._Parts, "save", saving)
    with pytest.raises(stopping.Interrupted, match=f"saved at example {len(X)}"):
        measure(evaluator(), params(), key, X, folder=tmp_path, **OPTIONS)


def test_a_folder_that_cannot_be_written(tmp_path, key, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(stopping.Interrupted, match="nothing could be saved"):
        measure(stopped(signal.SIGINT, 3), params(), key, X, folder=tmp_path, **OPTIONS)
    assert "can't be written: if this is stopped, it starts over" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_loses_no_measurement(tmp_path, key, capsys, monkeypatch):
    """A save that fails half way leaves nothing, and what was measured is used."""

    def full(path, **arrays):
        path.write_bytes(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    terms = measure(evaluator(), params(), key, X, folder=tmp_path, **OPTIONS)
    assert ".partial.npz can't be written (OSError: [Errno 28] No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(terms.rate, evaluator()(params(), key, X, **OPTIONS).rate)
