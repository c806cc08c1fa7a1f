"""A signal stops the work, whatever compiled code makes of it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxvae.experiment import console, stopping


def work(makes_of_it):
    with stopping.at_once():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            if makes_of_it == "another error":
                raise ValueError("Invalid bounding box") from error
            if makes_of_it == "itself":
                raise


def test_a_loop_over_runs_does_not_take_ctrl_c_for_a_failure():
    assert not issubclass(stopping.Interrupted, Exception)


@pytest.mark.parametrize("makes_of_it", ["itself", "another error", "nothing"])
def test_a_signal_is_heard_through_a_callback(makes_of_it):
    """Matplotlib's renderer asks Python for a box, and turns whatever is raised there into a `ValueError`."""
    stopping.keep(" and saved")
    with pytest.raises(stopping.Stopped, match="stopped by SIGTERM and saved") as stopped:
        work(makes_of_it)
    assert stopped.value.signum == signal.SIGTERM
    with pytest.raises(ValueError, match="ours"), stopping.at_once():
        raise ValueError("ours")


@pytest.fixture
def hangs_up():
    """SIGHUP with its default action, which `nohup` takes away."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("reader", "signum"), [("gone", signal.SIGINT), ("paused", signal.SIGTERM), ("gone", signal.SIGHUP)]
)
def test_a_signal_is_heard_whoever_reads_standard_error(reader, signum, monkeypatch, hangs_up):
    """Ctrl-C in `train 2>&1 | tee log` ends `tee` too; a terminal may be paused, and then a line is unfinished."""
    out, into = os.pipe()

    def interrupt():
        time.sleep(0.3)
        os.kill(os.getpid(), signum)
        time.sleep(0.3)
        while os.read(out, 1 << 16):
            pass

    with monkeypatch.context() as patch, os.fdopen(into, "w", buffering=1) as stderr, stopping.collected() as received:
        patch.setattr(sys, "stderr", stderr)
        if reader == "gone":
            os.close(out)
            signal.raise_signal(signum)
        else:
            threading.Thread(target=interrupt, daemon=True).start()
        for _ in range(10):
            console.say("train step 1/1,000,000  elbo -29.34")
        while not received:  # until the pipe is full
            console.say("train step 1/1,000,000  elbo -29.34")
    assert received == [signum]


def test_a_terminal_may_hang_up_twice(hangs_up, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with stopping.collected() as received:
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(signum)
        time.sleep(0.1)
    assert received == [signal.SIGTERM, signal.SIGHUP, signal.SIGHUP]
    assert ended == []


def test_what_is_ignored_stays_so(hangs_up):
    """Under `nohup` a terminal may be closed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping.collected() as received:
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert received == []


def test_there_may_be_no_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with console.Count(10, title="a", unit="b") as bar:
        bar.add(10)
    console.tell("saved")
    assert capsys.readouterr().out == ""  # where results go


def test_the_exit_code_survives_the_reader():
    code = "import sys; from jaxvae.experiment import console; input(); console.tell('saved'); sys.exit(130)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stderr.close()
    process.communicate(b"\n")
    assert process.returncode == 130
