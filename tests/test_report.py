"""The report: one file, with the run's own numbers, whatever the names in it."""

import html.parser
import json
import os
import re

import numpy as np
import pytest
from conftest import ROOT

from jaxvae.experiment import command, report
from jaxvae.experiment.command import derive

QUICK = [
    "--config.num_epochs=2",
    "--config.eval_every_epochs=1",
    "--config.model.encoder.hidden=8",
    "--config.model.decoder.hidden=8",
    "--config.model.latent_dim=2",
]


class Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data):
        self.text += data + "\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in one field, one of them with a name that contains HTML."""
    folder = tmp_path_factory.mktemp("runs")
    names = ["<script>alert(1)<script> & co", "b"]
    for seed, name in enumerate(names):
        arguments = [f"--config={ROOT / 'configs' / 'digits.py'}", f"--workdir={folder / name}", *QUICK]
        assert command.train_main([*arguments, f"--config.seed={seed}"]) == 0
    return [folder / name for name in names]


def test_it_stands_alone(runs):
    page = Page(runs[0] / "report.html")
    assert page.tags.count("script") == 0  # the run's name is text
    assert runs[0].name in page.text
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*", "", (runs[0] / "report.html").read_text())
    assert page.tags.count("img") == len(report.FIGURES)  # two latents: the manifold too


def test_its_numbers_are_the_runs(runs):
    text = Page(runs[1] / "report.html").text
    record = json.loads((runs[1] / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("elbo", "distortion", "rate"):
        assert f"{record[name]:.2f} ± {record[f'{name}_stderr']:.2f}" in text
    assert "nats per example" in text
    assert "model.encoder.hidden" in text


def test_it_is_made_again(runs, tmp_path, capsys):
    before = (runs[1] / "report.html").read_text()
    (runs[1] / "report.html").unlink()
    for figure in (runs[1] / "figures").iterdir():
        figure.unlink()
    assert command.report_main([f"--workdir={runs[1]}"]) == 0
    assert capsys.readouterr().out.strip() == str(runs[1] / "report.html")
    assert (runs[1] / "report.html").read_text() == before


def test_several_runs_are_compared(runs, tmp_path):
    output = tmp_path / "both.html"
    assert command.report_main([*(f"--workdir={run}" for run in runs), f"--output={output}"]) == 0
    page = Page(output)
    differing = page.text[page.text.index("What differs") : page.text.index("All fields")]
    assert re.findall(r"\b(seed|num_epochs|batch_size)\b", differing) == ["seed"]
    assert page.tags.count("img") == 1 + 2 * (len(report.FIGURES) - 1)  # the learning curves are in one picture
    assert page.tags.count("script") == 0
    assert "can be compared" not in page.text and "has no pictures" not in page.text


def test_runs_that_cannot_be_compared(runs, tmp_path):
    """Their numbers are not of the same quantity; and a run of a sweep has no pictures yet."""
    one, other = report.read(runs[0]), report.read(runs[1], figures=())
    other = other._replace(config=other.config | {"model.likelihood": "Gaussian"})
    report.write([one, other], tmp_path / "a.html")
    text = Page(tmp_path / "a.html").text
    assert "Nats can be compared for the same data and preprocessing only" in text
    assert re.findall(r"(.*) has no pictures", text) == ["b"]


def test_a_mistake_leaves_nothing(runs, tmp_path, capsys):
    (tmp_path / "config.json").write_text((runs[1] / "config.json").read_text())
    assert command.report_main([f"--workdir={tmp_path}"]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_run_that_cannot_be_written_has_no_new_pictures(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert command.report_main([f"--workdir={runs[1]}", f"--output={tmp_path / 'x.html'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{runs[1] / 'figures'} can't be written, and the figures are redrawn there; copy the run elsewhere" in line
    assert list(tmp_path.iterdir()) == []


def test_runs_without_a_test_split_or_pictures(runs, tmp_path):
    run = report.read(runs[1], figures=())
    report.write([run._replace(test={})], tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert "none" in page.text
    assert "img" not in page.tags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=a", "--workdir=b"], "write --output=FILE.html"),
        (["--workdir=a", "--output=a.txt"], "must end in .html"),
        (["--workdir=a"], "holds no run"),
        (["--workdir=a", "--workdir=b/../a", "--output=a.html"], "given twice for one folder (a, b/../a)"),
        ([], "--workdir"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert command.report_main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.long
def test_a_derivation_needs_two_latents_and_has_them(runs, tmp_path, capsys, monkeypatch):
    draws = "--num-importance-samples=200000"  # four standard errors of the mean of four bounds are below 0.05 nats
    assert command.derive_main([f"--workdir={runs[1]}", "--num-examples=4", draws]) == 0
    out = capsys.readouterr().out.splitlines()
    result = json.loads(out[-1])
    assert command.evaluate_main([f"--workdir={runs[1]}", draws, f"--output={tmp_path / 'terms.npz'}"]) == 0
    capsys.readouterr()
    bounds = np.load(tmp_path / "terms.npz")["log_evidence"][:4]  # of the same four binarized images
    assert result["importance_weighted_bound"] == pytest.approx(bounds.mean(), abs=0.05)
    assert result["largest_disagreement"] < 1e-3
    assert result["log_evidence"] == pytest.approx(result["elbo"] + result["gap"], abs=1e-3)
    off = result["importance_weighted_bound"] - result["log_evidence"]
    assert abs(off) < 4 * result["importance_weighted_bound_stderr"] < 0.05
    monkeypatch.setattr(derive, "_MOST_APART", 0.0)
    assert command.derive_main([f"--workdir={runs[1]}", "--num-examples=1", "--num-importance-samples=9"]) == 1
    said = capsys.readouterr()
    assert "the two rules for log p(x) differ by" in said.err
    assert "log_evidence" not in said.out
    config = json.loads((runs[1] / "config.json").read_text())
    config["model"]["latent_dim"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert command.derive_main([f"--workdir={tmp_path}"]) == 2
    assert "train one with --config.model.latent_dim=2" in capsys.readouterr().err


@pytest.mark.long
def test_the_comparison(tmp_path, capsys):
    arguments = [f"--config={ROOT / 'configs' / 'digits.py'}", f"--workdir={tmp_path}", "--num-seeds=2", *QUICK]
    assert command.compare_main(arguments) == 0
    table = capsys.readouterr().out
    assert (tmp_path / "comparison.md").read_text() in table + "\n"
    assert {p.name for p in tmp_path.iterdir()} == {
        *(f"{model}-{seed}" for model in ("vae", "autoencoder") for seed in (0, 1)),
        *(f"comparison.{suffix}" for suffix in ("md", "json", "png")),
    }
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert json.loads(table.splitlines()[-1]) == result
    assert result["images_apart"]["columns"]["VAE"]["mean"] > 0
    assert {row["claim"] for row in result.values()} == {"memorization", "continuity", "completeness"}
    columns = result["coverage"]["columns"]
    assert all(len(column["seeds"]) == 2 for column in columns.values())
    assert columns["training examples"]["mean"] > 0.8
    # again, with a report beside it: nothing is trained, and the numbers are the same
    (tmp_path / "report.html").touch()
    assert command.compare_main(arguments) == 0
    again = capsys.readouterr()
    assert again.out == table
    assert "train step" not in again.err


def test_the_folder_of_a_run_is_not_that_of_a_comparison(runs, capsys):
    assert command.compare_main([f"--workdir={runs[1]}"]) == 2
    assert "b holds a run; choose another folder" in capsys.readouterr().err
    assert not (runs[1] / "vae-0").exists()


def test_too_few_examples_are_refused(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train=x, test=x[:8])
    arguments = [f"--workdir={tmp_path / 'x'}", f"--config.data.name={tmp_path / 'x.npz'}", "--config.batch_size=20"]
    assert command.compare_main([f"--config={ROOT / 'configs' / 'digits.py'}", *arguments]) == 2
    assert "too few examples to compare models on ({'test': 8})" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={ROOT / 'configs' / 'autoencoder.py'}"], "the plain autoencoder is made from it"),
        (["--num-seeds=1"], "--num-seeds is 1; write a whole number of at least 2"),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, arguments, message):
    assert command.compare_main([f"--workdir={tmp_path / 'x'}", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
