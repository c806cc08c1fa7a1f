"""A signal stops the work, whatever compiled code makes of it."""

import os
import signal
import subprocess
import sys
import threading

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


@pytest.mark.parametrize(
    ("reader", "signum"), [("gone", signal.SIGINT), ("paused", signal.SIGTERM), ("gone", signal.SIGHUP)]
)
def test_a_signal_is_heard_whoever_reads_standard_error(reader, signum, monkeypatch):
    """Ctrl-C in `train | tee log` ends `tee` too; a terminal may be paused, and then a line is unfinished."""
    before, (out, into) = signal.signal(signal.SIGHUP, signal.SIG_DFL), os.pipe()
    with monkeypatch.context() as patch, os.fdopen(into, "w", buffering=1) as stderr, stopping.collected() as received:
        patch.setattr(sys, "stderr", stderr)
        if reader == "gone":
            os.close(out)
            signal.raise_signal(signum)
        else:
            threading.Timer(0.2, os.kill, (os.getpid(), signum)).start()
            threading.Timer(0.6, lambda: list(iter(lambda: os.read(out, 1 << 16), b""))).start()
        for _ in range(3000):  # more than a pipe holds
            console.say("train step 1/1,000,000  elbo -29.34")
    signal.signal(signal.SIGHUP, before)
    assert received == [signum]


def test_what_is_ignored_stays_so():
    """Under `nohup` a terminal may be closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping.collected() as received:
        signal.raise_signal(signal.SIGHUP)
    assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN
    assert received == []


def test_the_exit_code_survives_the_reader():
    code = "import sys; from jaxvae.experiment import console; input(); console.tell('saved'); sys.exit(130)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stderr.close()
    process.communicate(b"\n")
    assert process.returncode == 130
