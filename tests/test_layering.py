"""Imports go strictly down the layers of the design, and heavy libraries stay where they are used."""

import ast
import graphlib
import importlib
import math
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "jaxvae"
LAYERS = [
    {"typing", "checks", "draws", "numerics", "special", "quiet", "files", "fingerprints", "convolutions"},
    {"distributions", "flows", "networks", "losses"},
    {"posteriors", "priors", "likelihoods", "estimators", "objectives"},
    {"model"},
    {"training", "evaluation", "checkpoints", "optimizers", "parallel"}
    | {"annealing", "derivation", "inference_gap", "latents", "organization", "samplers"},
    {"experiment", "plots"},
]
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}
LAYER["data"] = 0.5  # it imports layer 0, and only layer 5 imports it
WITHIN = {  # the imports that are allowed within a layer
    ("numerics", "typing"),
    ("special", "typing"),
    ("draws", "typing"),
    ("convolutions", "typing"),
    ("convolutions", "numerics"),
    ("fingerprints", "typing"),
    ("fingerprints", "files"),
    ("flows", "distributions"),
    ("priors", "posteriors"),
    ("estimators", "objectives"),
    ("organization", "latents"),
    ("evaluation", "training"),
    ("parallel", "training"),
    ("experiment", "plots"),
}
HEAVY = {
    "orbax",
    "tyro",
    "matplotlib",
    "sklearn",
    "tensorflow",
    "tensorflow_datasets",
    "tqdm",
    "PIL",
    "scipy",
    "bokeh",
    "blackjax",
    "grain",
}
AT_HOME = {"plots": {"matplotlib"}, "experiment": {"tqdm", "typeguard", "bokeh"}}


def modules():
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path, *, top_level):
    """The dotted names that a module imports: at its top level, or anywhere."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_layer():
    assert {room(p) for p in modules()} <= set(LAYER)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    me = room(path)
    for name in imports(path, top_level=False):
        parts = name.split(".")
        if parts[0] != "jaxvae":
            continue
        other = parts[1]
        assert other in LAYER, f"{path} imports {name}: import the module, not the package"
        if other != me and (me, other) not in WITHIN:
            assert LAYER[other] < LAYER[me], f"{me} (layer {LAYER[me]}) imports {other} (layer {LAYER[other]})"
            assert other != "data" or LAYER[me] == 5, f"{me} imports data"


def test_no_module_stands_on_itself():
    """No cycles within a layer or a package either, nor by an import inside a function."""
    dotted = {path: ".".join(("jaxvae", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in modules()}
    names = {name.removesuffix(".__init__"): path for path, name in dotted.items()}

    def stands_on(name, path):
        for imported in imports(path, top_level=False):
            while imported not in names and "." in imported:
                imported = imported.rpartition(".")[0]
            if imported in names and imported != name and not imported.startswith(f"{name}."):
                yield imported

    order = graphlib.TopologicalSorter({name: set(stands_on(name, path)) for name, path in names.items()})
    assert len(list(order.static_order())) == len(names)  # a CycleError names the cycle


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_where_they_are_used(path):
    top = {name.split(".")[0] for name in imports(path, top_level=True)}
    assert not (top & HEAVY) - AT_HOME.get(room(path), set())


def test_configs_import_only_jaxvae():
    for path in (ROOT / "configs").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path, top_level=False)} == {"jaxvae"}, path


def test_scripts_are_thin():
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text().splitlines()) < 20, path


def test_importing_takes_little_longer_than_what_it_stands_on():
    # Both in one process and in processor time, so that other load affects the two alike.
    code = """
import time
start = time.process_time()
import jax, flax.linen, optax
base = time.process_time()
import jaxvae
print((time.process_time() - base) / (base - start))
"""
    command, shares = [sys.executable, "-c", code], [math.inf]
    while min(shares) >= 0.3 and len(shares) <= 5:  # one of five is enough
        shares.append(float(subprocess.run(command, check=True, capture_output=True).stdout))
    assert min(shares) < 0.3, shares


@pytest.mark.parametrize("path", sorted((ROOT / ".ci").glob("*.py")), ids=lambda p: p.name)
def test_what_the_measuring_scripts_use_is_there(path):
    """They are run by hand, so a name that is gone would be noticed late."""
    used, tree = {}, ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {a.asname: importlib.import_module(a.name) for a in node.names if a.name == "jaxvae"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxvae":
            for name in node.names:
                owner = importlib.import_module(node.module)
                if not hasattr(owner, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                used[name.asname or name.name] = getattr(owner, name.name)
    assert used or path.name == "lecture.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in used:
            assert hasattr(used[node.value.id], node.attr), ast.unparse(node)


def test_importing_is_light_and_makes_no_arrays():
    code = f"""
import sys, jax
import jaxvae
heavy = {HEAVY - {"scipy"}} & set(sys.modules)  # scipy is jax's
assert not heavy, heavy
assert not jax.live_arrays()
assert set(jaxvae.__all__) <= set(dir(jaxvae))
assert "importlib" not in dir(jaxvae)
for name in jaxvae.__all__:
    getattr(jaxvae, name)
"""
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], check=True, cwd=pathlib.Path(__file__).parent
    )
