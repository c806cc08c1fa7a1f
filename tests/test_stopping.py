"""A signal stops the work, whatever compiled code makes of it."""

import signal

import pytest

from jaxvae.experiment import stopping


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
