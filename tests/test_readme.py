"""What the README shows, runs."""

import re

from conftest import ROOT

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
