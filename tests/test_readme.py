"""The examples of README.md and docs/ run, and what the pages name exists."""

import operator
import re

import numpy as np
import pytest
from conftest import ROOT

import jaxvae as jv
from jaxvae.experiment import command

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_library_examples(capsys):
    """In the order in which they are read."""
    names = {}
    for example in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(example, "README.md", "exec"), names)
    out = capsys.readouterr().out
    elbo = float(re.search(r"elbo (-[\d.]+)", out).group(1))
    assert -30 < elbo < -20
    assert names["x_new"].shape == (64, 8, 8, 1)
    evidence = float(re.search(r"log p\(x\) ≥ (-[\d.]+) nats", out).group(1))
    assert elbo < evidence < -20
    assert -0.3 < names["gap"].mean() < 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_it_names_is_there(page):
    text = page.read_text()
    for file in re.findall(r"\b(?:scripts|configs|tests|\.ci)/\w+\.py", text):
        assert (ROOT / file).is_file(), file
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (page.parent / link).is_file(), link
    for page_of, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text):
        there = (page.parent / page_of if page_of else page).read_text()
        headings = [line.lstrip("# ").lower() for line in there.splitlines() if line.startswith("#")]
        assert anchor in [re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings]
    for dotted in re.findall(r"\bjv((?:\.[A-Za-z_]+)+)", text):
        operator.attrgetter(dotted[1:])(jv)


def test_a_run_from_python(tmp_path, monkeypatch):
    """The example of docs/runs.md."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "runs.md").read_text(), re.DOTALL)
    names = {}
    exec(compile(example, "runs.md", "exec"), names)
    assert names["x_new"].shape == (16, 8, 8, 1)
    assert -30 < names["result"]["elbo"] < -20
    assert names["terms"].log_evidence.mean() == pytest.approx(names["result"]["elbo"], abs=1.0)  # other binarizations
    assert names["step"] <= names["result"]["step"] == 200


def test_the_parts_of_ones_own(tmp_path, no_pictures):
    """The config of docs/own_parts.md is trained, evaluated and drawn from."""
    text = (ROOT / "docs" / "own_parts.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(example)
    both = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]
    assert command.train_main([*both, "--config.num_epochs=3"]) == 0
    assert command.evaluate_main([*both, "--num-importance-samples=2"]) == 0
    assert command.generate_main([*both, "--num=3", "--sample=True", f"--output={tmp_path / 'x.npy'}"]) == 0
    counts = np.load(tmp_path / "x.npy")
    assert counts.shape == (3, 8, 8, 1)
    assert set(np.unique(counts % 1)) == {0.0}
