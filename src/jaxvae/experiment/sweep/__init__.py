"""A sweep: runs that differ in their seed or in their β, trained in one compiled program.

Everything that differs between these replicas (parameters, order, draws, β) has a leading axis [R]; the examples are on
the device once. Each replica ends, up to rounding, where a single run with its seed or β ends: at the last step. No
model is selected on the validation split.

On an accelerator, `jax.vmap` takes a step for all replicas at once. On a CPU, the program of one replica takes some
steps for each in turn. With 16 replicas of configs/mnist.py, a step of one took 4.7 ms in turn, 5.6 ms by `vmap`, and
4.7 ms in a single run (`python .ci/sweep.py`); with configs/digits.py 1.9, 1.8 and 2.0 ms (with
--config=configs/digits.py --shape 8 8 1; 30 November 2026, two shared x86-64 cores). XLA's own convolutions, which are
slow inside a loop on a CPU, stay out of its loop.
"""

from jaxvae.experiment.sweep.finishing import Finished, clear, finish
from jaxvae.experiment.sweep.replicas import Sweep, over_betas, over_seeds, prepare
from jaxvae.experiment.sweep.training import make_advance, start

__all__ = ["Finished", "Sweep", "clear", "finish", "make_advance", "over_betas", "over_seeds", "prepare", "start"]
