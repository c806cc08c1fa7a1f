"""The table of Burda et al.: its cells, its rows, and the command that runs one, on a small set and small networks."""

import dataclasses
import json

import pytest
from conftest import ROOT

import jaxvae as jv
from jaxvae.experiment import burda, command, restoring
from jaxvae.experiment.command import burda as burda_command
from jaxvae.experiment.command import load_config
from jaxvae.experiment.restoring import restore_last_params

PAGE = "before\n<!-- the table -->\nold\n<!-- end of the table -->\nafter\n"
CONFIG = """
import jaxvae as jv

def get_config():
    return jv.Experiment(
        data=jv.Data(name="mnist"),
        model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=(8,)), decoder=jv.MLP(hidden=(8,))),
        objective=jv.IWAE(),
        estimator=jv.DoublyReparameterized(),
        batch_size=10,
    )
"""


@pytest.mark.parametrize("cell", burda.CELLS.values(), ids=list(burda.CELLS))
def test_a_cell_is_the_papers_experiment(cell):
    """Section 5 and table 1 of the paper: the network, the data, the bound and its draws."""
    config = load_config(ROOT / "configs" / f"burda_{cell.training}.py")
    experiment = cell.experiment(config, data_dir="somewhere", seed=3)
    tanh = jv.MLP(hidden=(200, 200), activation="tanh")
    model = jv.VAE(latent_dim=50, encoder=tanh, decoder=tanh, likelihood=jv.Bernoulli())
    assert experiment.model == model
    name = "binarized_mnist" if cell.name.startswith("fixed") else "mnist"
    assert experiment.data == jv.Data(name=name, data_dir="somewhere", preprocess=jv.DynamicBinarization())
    bound = jv.ELBO if cell.training == "vae" else jv.IWAE
    assert experiment.objective == bound(num_samples=cell.k)
    assert experiment.estimator == (jv.DoublyReparameterized() if cell.training == "dreg" else jv.Pathwise())
    assert (experiment.seed, experiment.kl_warmup_epochs, experiment.patience) == (3, 0.0, None)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small config and a page, in which a cell takes two epochs and 20 importance samples."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "burda_dreg.py").write_text(CONFIG)
    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.chdir(tmp_path)
    short = dataclasses.replace(burda.CELLS["dynamic-dreg-5"], num_epochs=2)
    monkeypatch.setitem(burda.CELLS, "dynamic-dreg-5", short)
    monkeypatch.setattr(burda_command, "NUM_IMPORTANCE_SAMPLES", 20)
    return tmp_path


ARGUMENTS = ["--page=page.md", "--results=results/rows.jsonl"]


def test_a_cell_is_run_and_its_row_written(place, small_tfds, capsys, monkeypatch):
    def run_cell(*more):
        assert command.burda_main([*ARGUMENTS, *more]) == 0
        return capsys.readouterr().out

    last = []  # the table is for the last parameters, not for selected ones
    monkeypatch.setattr(
        restoring, "restore_last_params", lambda *args: last.append(restore_last_params(*args)) or last[-1]
    )
    cell = ["--cell=dynamic-dreg-5", f"--data-dir={small_tfds}", "--machine=a machine"]
    row = json.loads(run_cell(*cell).splitlines()[-1])
    assert last[-1][1] == row["step"] == 20
    assert (row["cell"], row["seed"], row["num_epochs"], row["num_examples"]) == ("dynamic-dreg-5", 0, 2, 20)
    assert row["num_importance_samples"] == 20
    assert (row["optimizer"], row["batch_size"]) == ("Adam", 10)
    assert 0 < row["nll"] < -row["elbo"]
    (stored,) = burda.read(place / "results" / "rows.jsonl")
    assert stored == row
    page = (place / "page.md").read_text()
    assert page.startswith("before\n") and page.endswith("<!-- end of the table -->\nafter\n") and "old" not in page
    (line,) = (line for line in page.splitlines() if line.startswith("| dynamic | DReG | 5 |"))
    assert f"| {row['nll']:.2f} ± {row['nll_stderr']:.2f} | 84.90¹ |" in line
    assert line.endswith("| Adam, 0.001 | 10 | 2 | 0 | 0 min, a machine |")
    assert page.count("not yet run") == len(burda.CELLS) - 1
    assert "`python scripts/burda.py --cell=fixed-iwae-50`" in page

    # once more: the run is only evaluated, and its row replaces the old one; another seed gets its own row
    assert json.loads(run_cell(*cell).splitlines()[-1]) == row
    run_cell(*cell, "--seed=1", "--workdir=other")
    assert [r["seed"] for r in burda.read(place / "results" / "rows.jsonl")] == [0, 1]
    (place / "page.md").write_text(PAGE)
    assert run_cell() == (place / "page.md").read_text().partition("-->\n")[2].partition("<!--")[0]


def test_the_clock_adds_up_what_was_stopped(tmp_path, monkeypatch):
    now = iter([0.0, 30.0, 100.0, 112.0])
    monkeypatch.setattr(burda.time, "monotonic", lambda: next(now))
    assert burda.train_seconds(tmp_path) is None
    with pytest.raises(KeyboardInterrupt), burda.clock(tmp_path):
        raise KeyboardInterrupt
    with burda.clock(tmp_path):
        pass
    assert burda.train_seconds(tmp_path) == 42.0


def test_mistakes_are_named_before_the_work(place, small_tfds, capsys):
    def refused(arguments, words):
        assert command.burda_main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
        assert not (place / "runs").exists()

    cell = ["--cell=dynamic-dreg-5", f"--data-dir={small_tfds}"]
    refused([*cell, "--page=none.md"], "--page=none.md is not a file; write --page=None")
    (place / "empty.md").write_text("no markers")
    refused([*cell, "--page=empty.md"], "empty.md has no <!-- the table -->")
    refused(ARGUMENTS, "--results=results/rows.jsonl is not a file; write the rows' file, or a --cell to run")
    refused([*ARGUMENTS, "--cell=dynamic-dreg-6"], "dynamic-dreg-5")
    refused([*cell, "--page=page.md", "--machine=a|b"], "write one line without |")
    for text in ("{", "[]", '{"cell": "dynamic-dreg-6"}', "{}"):
        (place / "rows.jsonl").write_text(text + "\n")
        refused([*cell, "--page=page.md", "--results=rows.jsonl"], "line 1 of rows.jsonl is not a row of this table")
