"""What the README shows, runs."""

import re

from conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_library_example(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    elbo = float(re.search(r"elbo (-[\d.]+)", capsys.readouterr().out).group(1))
    assert -30 < elbo < -20
    assert names["x_new"].shape == (64, 8, 8, 1)


def test_what_it_names_is_there():
    for script, config in re.findall(r"(scripts/\w+\.py)|(configs/\w+\.py)", README):
        assert (ROOT / (script or config)).is_file()
    for image in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / image).is_file()
    import jaxvae as jv

    for name in re.findall(r"jv\.([A-Za-z_]+)", README):
        assert hasattr(jv, name), name
