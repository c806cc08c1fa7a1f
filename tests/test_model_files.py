"""`load_model` reads what `save_model` writes; a stranger's model is refused in one line, or harmless."""

import ast
import hashlib
import json
import os
import pathlib
import pickle
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from conftest import FULL, ROOT

import jaxvae as jv
from jaxvae.experiment import model_files
from jaxvae.fingerprints import named, seal

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODEL = jv.VAE(
    latent_dim=2,
    encoder=jv.MLP(hidden=(5,)),
    decoder=jv.MLP(hidden=(4,), activation="tanh"),
    likelihood=jv.Gaussian(variance=jv.Shared()),
    event_shape=(3, 3, 1),
)
MUTATIONS = 1000 if FULL else 150


@pytest.fixture
def params(key):
    return MODEL.init(key)


@pytest.fixture
def folder(tmp_path, params):
    jv.save_model(tmp_path / "model", MODEL, params)
    return tmp_path / "model"


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def rewrite(folder, **changes):
    """Changes the config as somebody would who knows how it is sealed."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256")
    config |= changes
    (folder / "config.json").write_text(json.dumps(config | {"sha256": seal(config)}))


def replace_arrays(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    rewrite(folder, files={"model.safetensors": hashlib.sha256(data).hexdigest()})


def refused(folder, *words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        jv.load_model(folder)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 800
    for word in words:
        assert word in message, message


def test_there_and_back(folder, params, key):
    loaded = jv.load_model(folder)
    assert loaded.model == MODEL
    assert same(loaded.params, params)
    x = jax.random.normal(key, (2, 3, 3, 1))
    np.testing.assert_array_equal(loaded.model.encode(loaded.params, x).mean, MODEL.encode(params, x).mean)
    assert sorted(path.name for path in folder.parent.rglob("*")) == ["config.json", "model", "model.safetensors"]


@pytest.mark.parametrize("version", range(1, model_files.FORMAT + 1))
def test_every_format_is_read_for_ever(version):
    model, params = jv.load_model(GOLDEN / f"model-{version}")
    assert model == MODEL
    expected = json.loads((GOLDEN / f"model-{version}.json").read_text())
    mean = model.encode(params, jnp.linspace(-1, 1, 9).reshape(1, 3, 3, 1)).mean
    np.testing.assert_allclose(mean[0], expected["posterior_mean"], rtol=1e-5)


def test_what_cannot_be_saved_leaves_nothing(tmp_path, params):
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan) if leaf.ndim else leaf, params)
    other = dict(params, encoder=jv.MLP(hidden=(6,)).init(jax.random.key(0), jnp.zeros((1, 9))))
    local = jv.VAE(latent_dim=2, encoder=type("Local", (jv.MLP,), {})(hidden=(5,)), decoder=MODEL.decoder)
    for model, tree, message in (
        (MODEL, broken, "NaN or infinite"),
        (MODEL, other, "params are not those of the model: encoder/"),
        (local, params, "event_shape"),
    ):
        with pytest.raises(ValueError, match=message):
            jv.save_model(tmp_path / "model", model, tree)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ValueError, match="exists already; choose another folder"):
        jv.save_model(tmp_path / "mine", MODEL, params)
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_later_format_is_refused_by_name(folder):
    rewrite(folder, format=model_files.FORMAT + 1)
    refused(folder, f"has the format {model_files.FORMAT + 1}", f"reads up to {model_files.FORMAT}")


class _Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def _changed_model(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    rewrite(folder, model=config["model"] | changes)


def _deep(depth):
    return "[" * depth + "]" * depth


def _link(folder, target):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(target)


def _pipe(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


ARRAY = np.zeros((1, 1), np.float32)
IAF = {"class": "InverseAutoregressive", "hidden": 4, "context": 2}
HOSTILE = {
    "a pickle for the arrays": (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(_Trap())), "bytes"),
    "a sealed pickle": (lambda f: replace_arrays(f, pickle.dumps(_Trap()) + b" " * 900), "safetensors"),
    "a pickle for the config": (lambda f: (f / "config.json").write_bytes(pickle.dumps(_Trap())), "JSON"),
    "a class of no axis": (lambda f: _changed_model(f, encoder={"class": "os.system"}), "unknown class 'os.system'"),
    "a builtin": (lambda f: _changed_model(f, encoder={"class": "eval"}), "unknown class 'eval'"),
    "a class elsewhere": (lambda f: _changed_model(f, encoder={"class": "Adam"}), "model.encoder"),
    "no object": (lambda f: _changed_model(f, encoder="MLP"), "model.encoder"),
    "another axis": (lambda f: _changed_model(f, prior={"class": "Gaussian"}), "model.prior"),
    "layers": (lambda f: _changed_model(f, prior={"class": "FlowPrior", "flow": IAF | {"num_layers": 10**9}}), "1,000"),
    "a type": (lambda f: _changed_model(f, latent_dim="2"), "latent_dim"),
    "a field": (lambda f: _changed_model(f, __class__=1), "VAE can't be made"),
    "no model": (lambda f: rewrite(f, model={"class": "Adam"}), "not a VAE"),
    "no event": (lambda f: _changed_model(f, event_shape=None), "event_shape"),
    "no format": (lambda f: rewrite(f, format=None), "no format"),
    "a huge latent": (lambda f: _changed_model(f, latent_dim=10**13), "bytes"),
    "a huge event": (lambda f: _changed_model(f, event_shape=[10**6, 10**6, 1]), "bytes"),
    "a huge layer": (lambda f: _changed_model(f, encoder={"class": "MLP", "hidden": [2**62]}), "model"),
    "a negative event": (lambda f: _changed_model(f, event_shape=[-3, 3, 1]), "model"),
    "deep JSON": (lambda f: (f / "config.json").write_text(_deep(30_000)), "config.json"),
    "deep JSON within": (lambda f: _changed_model(f, encoder=json.loads(_deep(400))), "model"),
    "long JSON": (lambda f: (f / "config.json").write_text(" " * 10**7), "bytes"),
    "no JSON object": (lambda f: (f / "config.json").write_text("[1, 2]"), "does not hold a model's config"),
    "a path": (lambda f: rewrite(f, files={"../model.safetensors": "0"}), "is not what was saved"),
    "a link": (lambda f: _link(f, "/etc/passwd"), "can't be read"),
    "an endless file": (lambda f: _link(f, "/dev/zero"), "can't be read"),
    "a pipe": (_pipe, "is not a file"),
    "a folder": (lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), "config.json"),
    "nothing": (shutil.rmtree, "can't be read"),
    "another array": (lambda f: replace_arrays(f, safetensors.numpy.save({"a\n\x1b[31m": ARRAY})), "bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_get_one_line_and_leave_no_trace(case, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, word = HOSTILE[case]
    make(folder)
    before = sorted(tmp_path.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, word)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**16  # KiB
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path / "trap").exists()


def test_arrays_of_another_model_are_named(folder, params):
    leaves = {name: np.asarray(a) for name, a in named(params).items()}
    name, first = next(iter(leaves.items()))
    half = {n: a.astype(np.float64) if n == name else a for n, a in leaves.items()}
    cases = [
        ({**leaves, name: first[..., :0]}, name),
        ({**leaves, "x\n\x1b[31m": ARRAY}, "x??[31m"),
        ({name: first}, "bytes, but what it should hold takes"),
        (half, name),
    ]
    for arrays, word in cases:
        replace_arrays(folder, safetensors.numpy.save(arrays))
        refused(folder, word)


def mutate(data, rng):
    data = bytearray(data)
    kind, at = rng.integers(5), int(rng.integers(len(data)))
    if kind == 0:
        data[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        data[at] = rng.integers(256)
    elif kind == 2:
        del data[at : at + int(rng.integers(1, 50))]
    elif kind == 3:
        data[at:at] = rng.bytes(int(rng.integers(1, 50)))
    else:
        del data[at:]
    return bytes(data)


def test_mutated_files_are_refused_or_harmless(folder, params):
    """Every second mutation is sealed anew, so that the checks behind the digests are reached too."""
    rng = np.random.default_rng(0)
    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    peak, outcomes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {"refused": 0, "the same": 0, "another": 0}
    for i in range(MUTATIONS):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        name, sealed = list(files)[i // 2 % 2], i % 2 == 1
        mutated = mutate(files[name], rng)
        if sealed and name == "model.safetensors":
            replace_arrays(folder, mutated)
        else:
            (folder / name).write_bytes(mutated)
            try:
                if sealed:
                    rewrite(folder)
            except (ValueError, AttributeError, KeyError):
                pass  # it is not JSON any more
        try:
            loaded = jv.load_model(folder)
        except ValueError as error:
            outcomes["refused"] += str(error).isprintable()
            continue
        unchanged = loaded.model == MODEL and same(loaded.params, params)
        assert sealed or unchanged, (name, i)
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), loaded.params)
        assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), loaded.model.param_shapes())
        outcomes["the same" if unchanged else "another"] += 1
    print(json.dumps({"mutated_models": MUTATIONS} | outcomes))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**18  # KiB: JAX keeps what it traced
    assert sum(outcomes.values()) == MUTATIONS
    assert outcomes["refused"] > MUTATIONS // 2
    assert outcomes["the same"] + outcomes["another"] > 0  # some must load, or the test would say little


def test_no_code_is_read_from_data():
    """No pickle, eval, exec, unsafe YAML or NumPy's pickles, anywhere in the library."""
    modules = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "configs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            assert not modules & set(names), path
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                assert called not in {"eval", "exec", "compile", "__import__"}, path
                for keyword in node.keywords:
                    value = keyword.value
                    refuses = isinstance(value, ast.Constant) and value.value is False
                    assert keyword.arg != "allow_pickle" or refuses, path
                attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                owner = getattr(getattr(node.func, "value", None), "id", "")
                if (owner, attribute) == ("np", "load"):
                    assert any(keyword.arg == "allow_pickle" for keyword in node.keywords), path
