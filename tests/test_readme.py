"""What the README shows, runs."""

import re

import numpy as np
from conftest import ROOT

from jaxvae.experiment import command, outcome

README = (ROOT / "README.md").read_text()


def test_the_library_examples(capsys):
    """One after the other, as they are read."""
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


def test_what_it_names_is_there():
    for script, config in re.findall(r"(scripts/\w+\.py)|(configs/\w+\.py)", README):
        assert (ROOT / (script or config)).is_file()
    for image in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / image).is_file()
    import jaxvae as jv

    for name in re.findall(r"jv\.([A-Za-z_]+)", README):
        assert hasattr(jv, name), name


def test_the_parts_of_ones_own(tmp_path, monkeypatch):
    """The config of docs/own_parts.md is trained, evaluated and drawn from."""
    text = (ROOT / "docs" / "own_parts.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(example)
    monkeypatch.setattr(outcome, "picture", lambda *args: None)
    both = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]
    assert command.train_main([*both, "--config.num_epochs=3"]) == 0
    assert command.evaluate_main([*both, "--num-importance-samples=2"]) == 0
    assert command.generate_main([*both, "--num=3", "--sample=True", f"--output={tmp_path / 'x.npy'}"]) == 0
    counts = np.load(tmp_path / "x.npy")
    assert counts.shape == (3, 8, 8, 1)
    assert set(np.unique(counts % 1)) == {0.0}
