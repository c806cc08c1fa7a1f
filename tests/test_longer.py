"""More epochs for a run: it goes on to the bits of the longer run, or the refusal says what depends on its length."""

import dataclasses

import pytest

import jaxvae as jv
from jaxvae.experiment import command, reopen, run, workdir

SHORT = jv.Experiment(
    model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=(4,)), decoder=jv.MLP(hidden=(4,))),
    optimizer=jv.Adam(schedule=jv.Stages(epochs=(2, 2, 2), factors=(1.0, 0.3, 0.1))),
    num_epochs=3,
    batch_size=100,
    kl_warmup_epochs=3.5,
    ema_decay=0.9,
)
STEPS = 12  # in an epoch


def with_(**fields):
    return dataclasses.replace(SHORT, **fields)


def test_a_longer_run_goes_on_to_the_same_bits(tmp_path, capsys):
    whole = run.train(with_(num_epochs=5), tmp_path / "whole", pictures=False)
    short = run.train(SHORT, tmp_path / "run", pictures=False)
    assert short["params_sha256"] != whole["params_sha256"]
    capsys.readouterr()
    assert command.train_main([f"--workdir={tmp_path / 'run'}", "--config.num_epochs=5"]) == 0
    out, err = capsys.readouterr()
    assert f"resumed at step {3 * STEPS} of {5 * STEPS}" in err
    assert whole["params_sha256"] in out
    assert f"test elbo {whole['elbo']:.2f}" in out
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("run", "whole")]
    assert logs[0] == logs[1]
    assert reopen(tmp_path / "run").step == reopen(tmp_path / "whole").step


def test_a_longer_run_that_has_not_begun_has_not_ended(tmp_path):
    run.train(SHORT, tmp_path, pictures=False)
    before = reopen(tmp_path).step
    assert workdir.is_finished(tmp_path)
    run.prepare(with_(num_epochs=4), tmp_path)
    assert not workdir.is_finished(tmp_path)
    assert workdir.read_config(tmp_path).num_epochs == 4
    assert reopen(tmp_path).step == before  # its checkpoints are of the shorter run


def test_a_run_that_another_process_made_longer_is_not_ended_early(tmp_path):
    short = run.prepare(SHORT, tmp_path)
    run.prepare(with_(num_epochs=4), tmp_path)
    with pytest.raises(workdir.InUse, match="was given another config by another process"):
        run.fit(short, tmp_path, pictures=False)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (with_(num_epochs=2), "num_epochs is 3 there and 2 here; choose another folder"),
        (with_(num_epochs=4, seed=1), "another config: seed is 0 there and 1 here; choose another folder"),
    ],
)
def test_nothing_else_may_change(tmp_path, changed, words):
    run.prepare(SHORT, tmp_path)
    with pytest.raises(ValueError, match=words):
        run.prepare(changed, tmp_path)
    assert workdir.read_config(tmp_path).num_epochs == 3


@pytest.mark.parametrize(
    ("short", "words"),
    [
        (with_(optimizer=jv.Adam(schedule=jv.Cosine())), r"on which the learning rate \(Cosine\(\)\) depends"),
        (with_(kl_warmup_epochs=1.0, kl_cycles=2), r"on which the repeated warm-up \(kl_cycles\) depends"),
    ],
)
def test_a_run_that_depends_on_its_length_keeps_it(tmp_path, short, words):
    run.prepare(short, tmp_path)
    (tmp_path / "checkpoints" / "latest" / "30").mkdir(parents=True)
    anew = "; choose another folder, or publish its model and start from it there"
    with pytest.raises(ValueError, match=f"num_epochs is 3 there and 4 here, {words}{anew}"):
        run.prepare(dataclasses.replace(short, num_epochs=4), tmp_path)


def test_a_schedule_of_ones_own_is_taken_to_depend_on_the_length():
    class Mine(jv.optimizers.Schedule):
        def build(self, learning_rate, *, num_steps, steps_per_epoch):
            return lambda step: learning_rate * (1 - step / num_steps)

    assert with_(optimizer=jv.Adam(schedule=Mine())).depends_on_its_length == "the learning rate (Mine())"
