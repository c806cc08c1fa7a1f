"""Configs and arrays with one mistake each: exit code 2, and a line that names the field and what to write.

CI runs a few; `JAXVAE_FAULTS=full` runs 300 and 100.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import string
import tempfile
import time

import jax._src.compiler as compiler
import numpy as np
import pytest
from conftest import FULL, ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxvae.experiment import command

DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
SECONDS = 3.0
TELLS_WHAT_TO_WRITE = re.compile(
    r"write |choose |leave |remove or replace |lower |INT|FLOAT|Expected one of|erhaps you meant|--help"
)


def example_count(quick, full):
    return settings(
        max_examples=full if FULL else quick,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def refused(arguments, words):
    """Runs train.py's main, which must not compile anything, take long, or leave anything behind."""
    told, said = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "compile_or_get_cached", lambda *_, **__: pytest.fail("something was compiled"))
        run, start = pathlib.Path(folder) / "run", time.process_time()  # other load on the machine is left out
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(said):
            code = command.train_main([DIGITS, f"--workdir={run}", *arguments])
        seconds = time.process_time() - start
        assert not list(pathlib.Path(folder).iterdir())
    lines = told.getvalue().splitlines()
    assert code == 2, (arguments, lines)
    assert len(lines) == 1, (arguments, lines)
    assert said.getvalue() == ""
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], (arguments, lines)
    assert TELLS_WHAT_TO_WRITE.search(lines[0]), (arguments, lines)
    assert seconds < SECONDS, (arguments, seconds)
    return seconds


INTEGERS = {  # field: its smallest allowed value
    **dict.fromkeys(("num_epochs", "batch_size", "num_parts", "eval_every_epochs", "checkpoint_every_epochs"), 1),
    **dict.fromkeys(("patience", "model.latent_dim", "data.high"), 1),
    **dict.fromkeys(("seed", "data.num_validation"), 0),
}
FLOATS = {  # field: values that are not allowed
    "optimizer.learning_rate": st.sampled_from(["0", "nan", "inf"]) | st.floats(max_value=-1e-9).map(str),
    "optimizer.clip_norm": st.sampled_from(["0", "nan"]) | st.floats(max_value=-1e-9).map(str),
    "kl_warmup_epochs": st.sampled_from(["nan", "inf"]) | st.floats(max_value=-1e-9).map(str),
    "objective.beta": st.sampled_from(["nan", "inf"]) | st.floats(max_value=-1e-9).map(str),
    "ema_decay": st.sampled_from(["1", "nan"]) | st.floats(max_value=-1e-9).map(str) | st.floats(min_value=1).map(str),
}
CHOICES = [f"model.{network}.{field}" for network in ("encoder", "decoder") for field in ("activation", "compute")]
LISTS = ["model.encoder.hidden", "model.decoder.hidden"]
OPTIONS = [*INTEGERS, *FLOATS, *CHOICES, *LISTS]


def _is_value(text):
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return text in ("None", "True", "False", "relu", "tanh", "elu", "silu", "gelu")


words = st.text(string.ascii_letters + string.digits + "._+", min_size=1, max_size=12).filter(
    lambda t: not _is_value(t)
)


def _mistyped(name, place, letter):
    place %= len(name)
    return name[:place] + letter + name[place + 1 :]


CONFIG_MISTAKES = ("low", "fraction", "word", "float", "choice", "list", "unknown", "empty", "fit", "own")


@st.composite
def bad_configs(draw, kind):
    """Arguments with one mistake, and what the line must name."""
    if kind == "low":
        name = draw(st.sampled_from(sorted(INTEGERS)))
        value = draw(st.integers(-(10**9), INTEGERS[name] - 1))
    elif kind == "fraction":
        name = draw(st.sampled_from(sorted(INTEGERS)))
        value = draw(st.integers(1, 1000)) + 0.5
    elif kind == "word":
        name, value = draw(st.sampled_from(sorted({*INTEGERS, *FLOATS} | {*LISTS}))), draw(words)
    elif kind == "float":
        name = draw(st.sampled_from(sorted(FLOATS)))
        value = draw(FLOATS[name])
    elif kind == "choice":
        name, value = draw(st.sampled_from(CHOICES)), draw(words)
    elif kind == "list":
        name = draw(st.sampled_from(LISTS))
        value = ",".join(map(str, draw(st.lists(st.integers(-5, 0), min_size=2, max_size=4))))
    elif kind == "unknown":
        name = draw(st.builds(_mistyped, st.sampled_from(OPTIONS), st.integers(0, 50), st.sampled_from("xqz")))
        return [f"--config.{name}=1"], [f"--config.{name}"]
    elif kind == "empty":
        name = draw(st.sampled_from(OPTIONS))
        return [f"--config.{name}="], [f"--config.{name}="]
    elif kind == "fit":
        return draw(
            st.one_of(
                st.integers(1286, 10**9).map(lambda n: ([f"--config.batch_size={n}"], ["batch_size", "1285"])),
                st.integers(2, 10**6)
                .filter(lambda n: 128 % n)
                .map(lambda n: ([f"--config.num_parts={n}"], ["num_parts", "128"])),
                words.map(lambda w: ([f"--config.data.name=no_{w}"], ["data.name"])),
                words.map(lambda w: ([f"--config.data.name=/no/{w}.npy"], ["data.name", f"{w}.npy"])),
                st.tuples(st.integers(1, 50), st.integers(9, 50)).map(
                    lambda s: ([f"--config.model.event_shape={s[0]},{s[1]},1"], ["model.event_shape", "(8, 8, 1)"])
                ),
            )
        )
    else:
        option = draw(st.sampled_from(["--num-devices", "--data-memory-mib"]))
        return [f"{option}={draw(st.integers(-(10**6), 0))}"], [option]
    return [f"--config.{name}={value}"], [name.rsplit(".", 1)[-1]]


def test_bad_configs():
    took = []
    for kind in CONFIG_MISTAKES:

        @example_count(4, 35)  # some kinds have fewer
        @given(bad_configs(kind))
        def check(case):
            took.append(refused(*case))

        check()
    print(json.dumps({"bad_configs": len(took), "slowest_config_seconds": round(max(took), 3)}))
    assert len(took) >= (300 if FULL else 40)


ARRAY_MISTAKES = (
    *("nan", "range", "integers", "dimensions", "none", "type", "few"),
    *("cut", "noise", "object", "names", "labels"),
)


@st.composite
def bad_files(draw, kind):
    """A function that writes a file with one mistake, the name of the file, and what the line must name."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    good = rng.integers(0, 256, (300, *draw(st.sampled_from([(8, 8), (5, 7, 3), (10,)]))), dtype=np.uint8)
    grey = (good / 255).astype(np.float32)
    at = tuple(rng.integers(good.shape))
    if kind == "nan":
        bad = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        grey[at] = bad
        return _npy(grey), "x.npy", ["entries that are NaN" if np.isnan(bad) else "values that are infinite"]
    if kind == "range":
        grey[at] = draw(st.sampled_from([-0.01, 1.01, 255.0, -1e30, 1e30]))
        return _npy(grey), "x.npy", ["[0, 1]"]
    if kind == "integers":
        wide = good.astype(np.int64)
        wide[at] = draw(st.integers(-(10**9), -1) | st.integers(256, 10**9))
        return _npy(wide), "x.npy", ["0..255"]
    if kind == "dimensions":
        shape = draw(st.sampled_from([(300,), (20, 2, 2, 2, 2), (9, 1, 1, 1, 1, 1)]))
        return _npy(np.zeros(shape, np.uint8)), "x.npy", ["has the shape", str(shape)]
    if kind == "none":
        shape = draw(st.sampled_from([(0, 8, 8), (300, 0), (300, 8, 0)]))
        return _npy(np.zeros(shape, np.uint8)), "x.npy", ["has the shape", str(shape)]
    if kind == "type":
        dtype = draw(st.sampled_from(["complex64", "U5", "S3", "datetime64[s]", "timedelta64[s]"]))
        return _npy(np.zeros(good.shape, dtype)), "x.npy", ["has the type"]
    if kind == "few":
        return _npy(good[: draw(st.integers(1, 6))]), "x.npy", ["write at least seven"]
    if kind == "cut":
        kept = draw(st.integers(0, good.nbytes - 1))
        return (lambda path: (_npy(good)(path), os.truncate(path, kept))), "x.npy", ["can't be read as a NumPy file"]
    if kind == "noise":
        name, noise = draw(st.sampled_from(["x.npy", "x.npz"])), rng.bytes(draw(st.integers(0, 500)))
        return (lambda path: path.write_bytes(noise)), name, ["can't be read as a NumPy file"]
    if kind == "object":
        objects = np.array([{"a": 1}, [2]], dtype=object)
        return (lambda path: np.save(path, objects, allow_pickle=True)), "x.npy", ["can't be read as a NumPy file"]
    if kind == "names":
        name = draw(words)
        return (lambda path: np.savez(path, **{f"_{name}": good})), "x.npz", ["has the arrays", "write `x`"]
    count = draw(st.integers(0, 299))
    return (lambda path: np.savez(path, x=good, labels=np.zeros(count))), "x.npz", ["`labels` has the shape"]


def _npy(array):
    return lambda path: np.save(path, array)


def test_bad_arrays():
    took = []
    for kind in ARRAY_MISTAKES:

        @example_count(2, 9)
        @given(bad_files(kind))
        def check(case):
            write, name, expected = case
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / name
                write(path)
                took.append(refused([f"--config.data.name={path}"], [name, *expected]))

        check()
    print(json.dumps({"bad_arrays": len(took), "slowest_array_seconds": round(max(took), 3)}))
    assert len(took) >= (100 if FULL else 24)
