"""An evaluation that is stopped goes on, and ends at the same numbers."""

import os
import signal

import jax
import numpy as np
import pytest
from test_evaluation import MODEL, X, binarize, params

import jaxvae as jv
from jaxvae.experiment import loop, measuring

OPTIONS = {"num_importance_samples": 40}


def evaluator():
    return jv.make_evaluator(MODEL, preprocess=binarize, rows_at_once=40)  # an example at a time


def stopped(number, after):
    """An evaluator that is sent a signal when `after` examples are done."""
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_twice_it_ends_at_the_same_numbers(tmp_path, key, number, capsys):
    for _ in range(2):
        with pytest.raises(loop.Interrupted, match="the same command goes on from there"):
            measuring.measure(stopped(number, 12), params(), key, X, folder=tmp_path, **OPTIONS)
    seen = []

    def watched(params, key, x, **kwargs):
        seen.append((len(x), kwargs["first"]))
        return evaluator()(params, key, x, **kwargs)

    terms = measuring.measure(watched, params(), key, X, folder=tmp_path, **OPTIONS)
    assert seen == [(len(X) - 24, 24)]
    assert "resumed at example 24 of 37" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    for a, b in zip(terms, evaluator()(params(), key, X, **OPTIONS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_measurement_or_a_damaged_file_starts_anew(tmp_path, key, capsys):
    def stop():
        with pytest.raises(loop.Interrupted):
            measuring.measure(stopped(signal.SIGINT, 5), params(), key, X, folder=tmp_path, **OPTIONS)
        (file,) = tmp_path.iterdir()
        return file

    others = [
        (jax.tree.map(lambda a: a + 1, params()), key, X, 40),
        (params(), jax.random.key(9), X, 40),
        (params(), key, 255 - X, 40),
        (params(), key, X, 41),
    ]
    for p, k, x, num in others:
        stop()
        terms = measuring.measure(evaluator(), p, k, x, folder=tmp_path, num_importance_samples=num)
        expected = evaluator()(p, k, x, num_importance_samples=num)
        np.testing.assert_array_equal(terms.log_evidence, expected.log_evidence)
    file = stop()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        terms = measuring.measure(evaluator(), params(), key, X, folder=tmp_path, **OPTIONS)
        assert terms.log_evidence.shape == (len(X),)
