"""A sweep: runs that differ in their seed or in their β, trained in one compiled program.

What differs between these replicas (parameters, order, draws, β) has a leading axis [R]; the examples lie on the device
once. Each replica ends where the single run with its seed or β ends, but for rounding: at the last step. Nothing is
selected on the validation split.

On an accelerator a step is taken for all replicas at once, by `jax.vmap`. On a CPU the program is that of one replica,
and takes some steps for one after the other: of 16 replicas of configs/mnist.py one took 4.7 ms for a step so, 5.6 ms
by `vmap`, and 4.7 ms as a run of its own (`python .ci/sweep.py`, two shared cores); of configs/digits.py 1.9, 1.8 and
2.0 ms (with --config=configs/digits.py --shape 8 8 1). XLA's own convolutions stay out of its loop there, where they
are slow.
"""

from jaxvae.experiment.sweep.finishing import Finished, clear, finish
from jaxvae.experiment.sweep.replicas import Sweep, over_betas, over_seeds, prepare
from jaxvae.experiment.sweep.training import make_advance, start

__all__ = ["Finished", "Sweep", "clear", "finish", "make_advance", "over_betas", "over_seeds", "prepare", "start"]
