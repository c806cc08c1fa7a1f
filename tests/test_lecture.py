"""docs/lecture.md is complete, in the lecture's order, and names what exists. `.ci/lecture.py` runs its commands."""

import re

import pytest
from conftest import ROOT

import jaxvae as jv
from jaxvae.experiment import command, report
from jaxvae.experiment.command import parsing

PAGE = (ROOT / "docs" / "lecture.md").read_text()
HEADINGS = [
    "Autoencoders",
    "Variational Autoencoders",
    "VAE Encoder",
    "VAE Decoder",
    "VAE Forward pass",
    "VAE loss function",
    "Generation with VAE",
    "Edit/Manipulate samples with VAE",
    "The Evidence Lower Bound (ELBO)",
    "Latent Variable Models",
    "Latent Variable Models - terminology",
    "Generation-Inference",
    "Aim/Question of latent Variable Models",
    "These can be connected",
    "Variational Inference",
    "ELBO",
]
COMMANDS = list(dict.fromkeys(re.findall(r"python scripts/(\w+)\.py([^`\n]*)", PAGE)))


def test_every_heading_is_there_in_order():
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == [*HEADINGS, "What came out"]
    for section in re.split(r"^## .*$", PAGE, flags=re.MULTILINE)[1:]:
        assert "python scripts/" in section or "the same" in section
    for row in re.findall(r"^\|.*\|$", PAGE.split("## What came out")[0], re.MULTILINE):
        assert row.replace(r"\|", "").count("|") == 5, row


@pytest.mark.parametrize(("script", "arguments"), COMMANDS, ids=lambda part: part[:60])
def test_every_command_is_one(script, arguments, monkeypatch, capsys):
    assert (ROOT / "scripts" / f"{script}.py").is_file()
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TFDS_DATA_DIR", "data")
    words = arguments.replace("$TFDS_DATA_DIR", "data").split()
    # the arguments are understood; only the run or the data may be missing
    said = "unrecognized|invalid|required|has no value|perhaps"
    if script in ("train", "compare"):
        from jaxvae.experiment.command.compare import CompareCommand
        from jaxvae.experiment.command.train import TrainCommand

        kind = TrainCommand if script == "train" else CompareCommand
        assert parsing.parse_with_config(kind, words)[0].workdir.parts[0] == "runs"
    else:
        assert getattr(command, f"{script}_main")([w.replace("runs/", "/nowhere/") for w in words]) == 2
        line = capsys.readouterr().err
        assert "/nowhere/" in line
        assert not re.search(said, line.lower())


def test_what_it_names_is_there():
    for path in re.findall(r"jv\.([a-zA-Z_]+(?:\.[a-z_]+)?)\b", PAGE):
        thing = jv
        for name in path.split("."):
            thing = getattr(thing, name)
    for name in re.findall(r"figures/(\w+)\.png", PAGE):
        assert name in report.FIGURES, name
    for image in re.findall(r"\]\((images/\w+\.png)\)", PAGE):
        assert (ROOT / "docs" / image).is_file(), image
    for file in re.findall(r"`(tests/\w+\.py)`", PAGE):
        assert (ROOT / file).is_file()
